/** What a run is told, and the configuration that follows from it: all that a run depends on, written beside its results. */
import { resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { Device, DeviceKind } from '../core/device.js'
import type { FloatDType } from '../core/dtype.js'
import { SoftMoEError } from '../core/errors.js'
import type { AugmentOptions } from '../data/augment.js'
import { stepsPerEpoch } from '../data/batch.js'
import { channelStatistics, type ChannelStatistics, type DatasetSplit } from '../data/dataset.js'
import type { VisionTransformerConfig } from '../models/config.js'
import { EMBEDDED_DATA } from './data-choice.js'
import { DEFAULTS } from './defaults.js'
import { chooseModel, type ModelChoice } from './model-choice.js'

/** What `train` is told; everything has a default. */
export interface TrainOptions extends ModelChoice {
  /** Folder of the run, made if it is missing. Default `runs/latest`. */
  readonly out?: string | undefined
  /**
   * Folder of a data set, or the data set itself. Default: Fashion-MNIST, all 70,000 images where they are installed;
   * `embedded`: the 10,000 that ship with the package.
   */
  readonly data?: string | DatasetSplit | undefined
  /** At most one of `steps` and `epochs`. Default {@link DEFAULTS}`.epochs`, but at most {@link DEFAULTS}`.maxSteps` steps. */
  readonly steps?: number | undefined
  readonly epochs?: number | undefined
  readonly batchSize?: number | undefined
  /** Greatest rate: it rises linearly in the first twentieth of the steps and then falls by a half cosine to 0. */
  readonly learningRate?: number | undefined
  /** Decoupled weight decay of the kernels. */
  readonly weightDecay?: number | undefined
  readonly labelSmoothing?: number | undefined
  /** Greatest norm of the gradients; 0: not clipped. */
  readonly clipNorm?: number | undefined
  /** Random changes to the images. Default: crop with 1 pixel of padding. */
  readonly augment?: AugmentOptions | undefined
  /** dtype of activations and products. */
  readonly precision?: FloatDType | undefined
  /** Decides every random number of the run. Default 0. */
  readonly seed?: number | undefined
  /** Default `auto`: the GPU if one is usable, else the CPU. */
  readonly device?: DeviceKind | Device | undefined
  /** Threads of the CPU backend. Default: one a core. */
  readonly threads?: number | undefined
  /** Go on from the last checkpoint in `out`. Options that are given must be those of the run; but steps may grow. */
  readonly resume?: boolean | undefined
  /** Replace the run that `out` holds. Without it such a folder is refused. */
  readonly overwrite?: boolean | undefined
  /** Steps between evaluations. Default: an epoch. */
  readonly evalEvery?: number | undefined
  /** Steps between checkpoints. Default: with every evaluation. */
  readonly checkpointEvery?: number | undefined
  /** Checkpoints kept. */
  readonly keep?: number | undefined
  /** Check every operation for NaN and infinity and name the first that makes one; slow. */
  readonly detectAnomaly?: boolean | undefined
  /** Aborting it ends the run after the current step with a checkpoint. */
  readonly signal?: AbortSignal | undefined
}

const WARMUP_FRACTION = 0.05

/** Everything that the parameters at the end of a run depend on. */
export interface RunConfiguration {
  readonly dataset: string
  /** Folder that the data was read from; null: it shipped with the package or was given in memory. */
  readonly data: string | null
  readonly trainImages: number
  readonly classNames: readonly string[]
  readonly normalisation: ChannelStatistics
  readonly model: VisionTransformerConfig
  readonly steps: number
  readonly warmupSteps: number
  readonly batchSize: number
  readonly learningRate: number
  readonly weightDecay: number
  readonly labelSmoothing: number
  readonly clipNorm: number
  readonly augment: AugmentOptions
  readonly precision: FloatDType
  readonly seed: number
}

/** Name of the configuration's file in a run folder, and of its entry in a checkpoint's metadata. */
export const CONFIGURATION_FILE = 'configuration.json'
export const CONFIGURATION_KEY = 'configuration'

function requireRange(name: string, value: number, least: number, most: number, whole = false): void {
  if (value >= least && value <= most && (!whole || Number.isInteger(value))) return
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `${name} is ${value}; give a ${whole ? 'whole ' : ''}number from ${least} to ${most}`,
  )
}

function checkNumbers(options: TrainOptions): void {
  const checks: readonly (readonly [keyof TrainOptions, number, number, boolean])[] = [
    ['steps', 1, 1e9, true],
    ['epochs', Number.MIN_VALUE, 1e6, false],
    ['batchSize', 1, 65536, true],
    ['learningRate', Number.MIN_VALUE, 10, false],
    ['weightDecay', 0, 10, false],
    ['labelSmoothing', 0, 0.999, false],
    ['clipNorm', 0, 1e9, false],
    ['seed', 0, Number.MAX_SAFE_INTEGER, true],
    ['threads', 1, 1024, true],
    ['evalEvery', 1, 1e9, true],
    ['checkpointEvery', 1, 1e9, true],
    ['keep', 1, 1000, true],
  ]
  for (const [name, least, most, whole] of checks) {
    const value = options[name]
    if (value !== undefined) requireRange(name, value as number, least, most, whole)
  }
  if (options.steps !== undefined && options.epochs !== undefined) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${options.steps} steps and ${options.epochs} epochs were given; give one of them`,
    )
  }
}

/** Steps of a run over `trainImages` images. */
function totalSteps({ steps, epochs }: TrainOptions, trainImages: number, batchSize: number): number {
  if (steps !== undefined) return steps
  const inEpoch = stepsPerEpoch(trainImages, { batchSize, dropLast: true })
  if (epochs !== undefined) return Math.max(1, Math.round(epochs * inEpoch))
  return Math.min(DEFAULTS.epochs * inEpoch, DEFAULTS.maxSteps)
}

/** Folders are kept absolute, so that the run can go on from elsewhere. */
function dataPath(data: string): string {
  return data === EMBEDDED_DATA ? data : resolve(data)
}

/** The configuration of a new run. @throws (rejects) `ERR_INVALID_ARGUMENT`, and what the model's file gives rise to */
export async function configureRun(
  options: TrainOptions,
  { train }: DatasetSplit,
): Promise<RunConfiguration> {
  checkNumbers(options)
  const { batchSize = DEFAULTS.batchSize } = options
  if (batchSize > train.count) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `batchSize is ${batchSize}, but ${train.name} has only ${train.count} training images; give a smaller one`,
    )
  }
  const steps = totalSteps(options, train.count, batchSize)
  return {
    dataset: train.name,
    data: typeof options.data === 'string' ? dataPath(options.data) : null,
    trainImages: train.count,
    classNames: train.classNames,
    normalisation: channelStatistics(train),
    model: await chooseModel(options, train),
    steps,
    warmupSteps: Math.ceil(WARMUP_FRACTION * steps),
    batchSize,
    learningRate: options.learningRate ?? DEFAULTS.learningRate,
    weightDecay: options.weightDecay ?? DEFAULTS.weightDecay,
    labelSmoothing: options.labelSmoothing ?? DEFAULTS.labelSmoothing,
    clipNorm: options.clipNorm ?? DEFAULTS.clipNorm,
    augment: options.augment ?? { cropPadding: DEFAULTS.cropPadding, flip: false },
    precision: options.precision ?? DEFAULTS.precision,
    seed: options.seed ?? DEFAULTS.seed,
  }
}

const COMPARED = [
  'batchSize',
  'learningRate',
  'weightDecay',
  'labelSmoothing',
  'clipNorm',
  'precision',
  'seed',
  'augment',
] as const

/**
 * The configuration of a run that goes on: the saved one, with more or fewer steps if they were given.
 * @throws (rejects) `ERR_INVALID_ARGUMENT` when another option was given that contradicts the saved run
 */
export async function resumeConfiguration(
  saved: RunConfiguration,
  options: TrainOptions,
  data: DatasetSplit,
): Promise<RunConfiguration> {
  checkNumbers(options)
  const refuse = (name: string, given: unknown, was: unknown): never => {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${name} is ${JSON.stringify(given)}, but the run to resume has ${JSON.stringify(was)}; ` +
        'leave it out, or start a new run in another folder',
    )
  }
  for (const name of COMPARED) {
    const given = options[name]
    if (given !== undefined && JSON.stringify(given) !== JSON.stringify(saved[name]))
      refuse(name, given, saved[name])
  }
  const { train } = data
  if (train.name !== saved.dataset || train.count !== saved.trainImages) {
    refuse(
      'the data set',
      `${train.name}, ${train.count} images`,
      `${saved.dataset}, ${saved.trainImages} images`,
    )
  }
  const { model, router, numExperts, slotsPerExpert } = options
  if ([model, router, numExperts, slotsPerExpert].some((given) => given !== undefined)) {
    const chosen = await chooseModel(
      {
        model: model ?? saved.model,
        router: router ?? (saved.model.moe === undefined ? 'dense' : undefined),
        numExperts,
        slotsPerExpert,
      },
      train,
    )
    if (!isDeepStrictEqual(JSON.parse(JSON.stringify(chosen)), saved.model))
      refuse('the model', chosen, saved.model)
  }
  if (options.steps === undefined && options.epochs === undefined) return saved
  return { ...saved, steps: totalSteps(options, train.count, saved.batchSize) }
}

/** Reads a configuration from a checkpoint's metadata. @throws `ERR_FILE_FORMAT` */
export function parseConfiguration(path: string, text: string | undefined): RunConfiguration {
  try {
    const value = JSON.parse(text ?? '') as Partial<RunConfiguration>
    if (
      typeof value.model === 'object' &&
      Array.isArray(value.classNames) &&
      value.normalisation !== undefined
    ) {
      return value as RunConfiguration
    }
  } catch {
    // Not JSON: the same answer as for another object.
  }
  throw new SoftMoEError(
    'ERR_FILE_FORMAT',
    `${path} does not say which run it is from; load it with loadCheckpoint into a model of your own`,
  )
}
