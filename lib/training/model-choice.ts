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

/** A model without what the data set decides. */
export type ModelOptions = Omit<VisionTransformerConfig, 'numClasses'> & { readonly numClasses?: number }

/** Small models for small images, beside the papers' sizes. */
const SMALL_MODELS = {
  tiny: { patchSize: 4, width: 96, depth: 4, numHeads: 3, mlpDim: 192 },
} as const satisfies Record<string, ModelOptions>

/** The preset that is trained unless another one is named. */
export const DEFAULT_MODEL = 'tiny'
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
  /** Name of a preset (`tiny`, `S/16` …), path of a JSON file, or the model itself. */
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

function preset(name: string): ModelOptions {
  if (Object.hasOwn(SMALL_MODELS, name)) return SMALL_MODELS[name as keyof typeof SMALL_MODELS]
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

async function baseModel(model: string | ModelOptions): Promise<ModelOptions> {
  if (typeof model !== 'string') return checkModel(model, 'model')
  return /\.json$/i.test(model) ? readModelFile(model) : preset(model)
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

function mixture(own: MoEConfig | undefined, choice: ModelChoice): MoEConfig | undefined {
  const { router = own?.router ?? 'soft', numExperts, slotsPerExpert } = choice
  if (router === 'dense') {
    if (numExperts !== undefined || slotsPerExpert !== undefined) {
      refuse('a dense model has neither experts nor slots; leave them out, or choose another router')
    }
    return undefined
  }
  const config = routerOf(router)
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
  const { moe: own, ...base } = await baseModel(choice.model ?? DEFAULT_MODEL)
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
