/** Which model a run trains: a preset or a file's configuration, fitted to the data set, with the router that was asked for. */
import { readFile } from 'node:fs/promises'
import { SoftMoEError } from '../core/errors.js'
import { nearestName } from '../core/nearest-name.js'
import type { ImageDataset } from '../data/dataset.js'
import { fileError } from '../data/files.js'
import type { MoEConfig, VisionTransformerConfig } from '../models/config.js'
import { vit } from '../models/presets.js'
import { type RouterConfig, routerConfig } from '../routers/create-router.js'
import { ROUTER_NAMES, type RouterName } from '../routers/names.js'
import { DEFAULTS } from './defaults.js'

/** A model without what the data set decides. */
export type ModelOptions = Omit<VisionTransformerConfig, 'numClasses'> & { readonly numClasses?: number }

/** A preset whose patches follow from the images. */
interface SmallModel extends Omit<ModelOptions, 'patchSize'> {
  /** Patches of an image: as many as divide it evenly, but at most these. */
  readonly maxPatches: number
}

/** Small models for small images, beside the papers' sizes. */
const SMALL_MODELS = {
  tiny: { maxPatches: 36, width: 128, depth: 4, numHeads: 4, mlpDim: 256 },
  small: { maxPatches: 64, width: 192, depth: 6, numHeads: 6, mlpDim: 384 },
} as const satisfies Record<string, SmallModel>

const DEFAULT_EXPERTS = 8

const MODEL_FIELDS = [
  'imageSize',
  'channels',
  'patchSize',
  'width',
  'depth',
  'numHeads',
  'mlpDim',
  'numClasses',
  'classifier',
  'positionEmbedding',
  'qkNorm',
  'representationDim',
  'dropoutRate',
  'attentionDropoutRate',
  'headBias',
  'moe',
] as const satisfies readonly (keyof VisionTransformerConfig)[]
const REQUIRED_FIELDS = ['patchSize', 'width', 'depth', 'numHeads', 'mlpDim'] as const

/** The router of a run: `dense` for none. */
export type RouterChoice = 'dense' | RouterName | RouterConfig

/** What decides the model of a run. */
export interface ModelChoice {
  /** Name of a preset (`tiny`, `small`, `S/16` …), path of a JSON file, or the model itself. Default `tiny`. */
  readonly model?: string | ModelOptions | undefined
  /** Default: the model's own, else `soft`. */
  readonly router?: RouterChoice | undefined
  readonly numExperts?: number | undefined
  readonly slotsPerExpert?: number | undefined
}

function refuse(message: string): never {
  throw new SoftMoEError('ERR_INVALID_ARGUMENT', message)
}

async function readModelFile(path: string): Promise<ModelOptions> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => Promise.reject(fileError(path, cause)))
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is not JSON; write {"patchSize": 4, "width": 96, …}`, {
      cause,
    })
  }
  return checkModel(value, path)
}

function checkModel(value: unknown, source: string): ModelOptions {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return refuse(`${source} is no object; write {"patchSize": 4, "width": 96, …}`)
  }
  const fields: readonly string[] = MODEL_FIELDS
  for (const name of Object.keys(value)) {
    if (!fields.includes(name)) {
      refuse(`${source}: a model has no field ${name}; did you mean ${nearestName(name, fields)}?`)
    }
  }
  const model = value as Partial<ModelOptions>
  for (const name of REQUIRED_FIELDS) {
    if (typeof model[name] !== 'number')
      refuse(`${source}: ${name} is ${JSON.stringify(model[name])}; give a number`)
  }
  return model as ModelOptions
}

/** Side of the smallest square patches that tile an image of at most `maxPatches`; undefined: only the image itself does. */
function patchSide({ height, width }: ImageDataset, maxPatches: number): number | undefined {
  for (let side = 1; side < Math.min(height, width); side++) {
    if (height % side === 0 && width % side === 0 && (height * width) / side ** 2 <= maxPatches) return side
  }
  return undefined
}

function preset(name: string, dataset: ImageDataset): ModelOptions {
  if (Object.hasOwn(SMALL_MODELS, name)) {
    const { maxPatches, ...model } = SMALL_MODELS[name as keyof typeof SMALL_MODELS]
    const { height, width } = dataset
    const patchSize =
      patchSide(dataset, maxPatches) ??
      refuse(
        `no square patches tile the images of ${height} × ${width} of ${dataset.name}; scale or cut them first`,
      )
    // A step moves the learned scale by little more than the learning rate. From 1 it would stay so small in a short run
    // that every slot is the mean of all tokens; from here the logits of unrelated tokens have a variance of 1.
    const router = { name: 'soft', scaleInit: Math.sqrt(model.width) } as const
    return { patchSize, ...model, moe: { router, numExperts: DEFAULT_EXPERTS } }
  }
  try {
    return vit(name)
  } catch (cause) {
    if (!SoftMoEError.is(cause)) throw cause
    return refuse(
      `the model is '${name}'; give ${Object.keys(SMALL_MODELS).join(', ')}, a size and patch of the papers like S/16, ` +
        'or a JSON file',
    )
  }
}

async function baseModel(model: string | ModelOptions, dataset: ImageDataset): Promise<ModelOptions> {
  if (typeof model !== 'string') return checkModel(model, 'model')
  return /\.json$/i.test(model) ? readModelFile(model) : preset(model, dataset)
}

/** The configuration of a router by its name; `dense` is none. */
function routerOf(choice: Exclude<RouterChoice, 'dense'>): RouterConfig {
  if (typeof choice !== 'string') return choice
  if (ROUTER_NAMES.includes(choice)) return routerConfig(choice)
  const names = ['dense', ...ROUTER_NAMES]
  return refuse(
    `the router is '${choice as string}'; did you mean ${nearestName(choice, names)}? Give one of ${names.join(', ')}`,
  )
}

/** The router that a choice names; what the model's own configuration says of a router of that kind is kept. */
function chosenRouter(
  own: MoEConfig['router'] | undefined,
  choice: Exclude<RouterChoice, 'dense'>,
): RouterConfig {
  const named = routerOf(choice)
  const kept = typeof own === 'string' ? routerOf(own) : own
  if (typeof choice !== 'string' || kept?.name !== named.name) return named
  if (kept.name !== 'soft') return kept
  // The names of Soft MoE and its ablations say which of the two weights are fixed.
  const options = Object.entries(kept).filter(([option]) => option !== 'dispatch' && option !== 'combine')
  return { ...Object.fromEntries(options), ...named }
}

function mixture(own: MoEConfig | undefined, choice: ModelChoice): MoEConfig | undefined {
  const { router, numExperts, slotsPerExpert } = choice
  if (router === 'dense') {
    if (numExperts !== undefined || slotsPerExpert !== undefined) {
      refuse('a dense model has neither experts nor slots; leave them out, or choose another router')
    }
    return undefined
  }
  const config = router === undefined ? routerOf(own?.router ?? 'soft') : chosenRouter(own?.router, router)
  if (slotsPerExpert !== undefined && config.name !== 'soft') {
    refuse(
      `the router '${config.name as string}' has no slots; leave slotsPerExpert out, or choose the router soft`,
    )
  }
  return {
    ...own,
    router: slotsPerExpert === undefined || config.name !== 'soft' ? config : { ...config, slotsPerExpert },
    numExperts: numExperts ?? own?.numExperts ?? DEFAULT_EXPERTS,
  }
}

/**
 * The full configuration of a run's model.
 * @throws (rejects) `ERR_INVALID_ARGUMENT` for unknown names and for a model that contradicts the data set;
 * `ERR_FILE_NOT_FOUND`, `ERR_FILE_FORMAT` for its file
 */
export async function chooseModel(
  choice: ModelChoice,
  dataset: ImageDataset,
): Promise<VisionTransformerConfig> {
  const { moe: own, ...base } = await baseModel(choice.model ?? DEFAULTS.model, dataset)
  const { height, width, channels, classNames } = dataset
  const given = typeof base.imageSize === 'number' ? [base.imageSize, base.imageSize] : base.imageSize
  const contradiction =
    (given !== undefined && given.join() !== `${height},${width}` && `imageSize ${given.join(' × ')}`) ||
    (base.channels !== undefined && base.channels !== channels && `${base.channels} channels`) ||
    (base.numClasses !== undefined && base.numClasses !== classNames.length && `${base.numClasses} classes`)
  if (contradiction) {
    refuse(
      `the model states ${contradiction}, but ${dataset.name} has images of ${height} × ${width} with ${channels} ` +
        `channels in ${classNames.length} classes; leave these fields out, they follow from the data`,
    )
  }
  const moe = mixture(own, choice)
  return {
    ...base,
    imageSize: [height, width],
    channels,
    numClasses: classNames.length,
    ...(moe === undefined ? {} : { moe }),
  }
}
