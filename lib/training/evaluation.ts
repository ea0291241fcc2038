/** `evaluation.json`: what a trained model does on a test set, with everything that the report draws of it. */
import { readFile } from 'node:fs/promises'
import { SoftMoEError } from '../core/errors.js'
import { fileError } from '../data/files.js'
import type { SparseHistograms } from '../routers/sparse-statistics.js'
import { writeTextAtomically } from './atomic-file.js'
import { areHistograms } from './metrics.js'

/** The result of evaluating a model on a test set. */
export interface Evaluation {
  readonly dataset: string
  readonly classNames: readonly string[]
  /** Images evaluated. */
  readonly images: number
  readonly loss: number
  /** Share classified correctly, 0 to 1. */
  readonly accuracy: number
  readonly millisecondsPerImage: number
  /** Images of class [row] that were taken for class [column]. */
  readonly confusion: readonly (readonly number[])[]
  readonly samples: readonly SamplePrediction[]
  /** One entry a mixture layer; empty for dense models. */
  readonly routers: readonly RouterPicture[]
}

/** One test image and what the model thought of it. */
export interface SamplePrediction {
  /** Position in the test set. */
  readonly index: number
  /** True class. */
  readonly label: number
  /** Probability of each class. */
  readonly probabilities: readonly number[]
  /** The image as a PNG file in base64. */
  readonly png: string
}

/** What the report draws of one mixture layer. */
export type RouterPicture = SoftRouterPicture | IndexRouterPicture

interface LayerPicture {
  /** Index of the encoder block, from 0. */
  readonly layer: number
  /** `soft`, `tokens-choice`, … */
  readonly router: string
  readonly numExperts: number
  /** Rows and columns of patches; tokens are numbered row by row. */
  readonly grid: readonly [number, number]
  /** Share of the work each expert does, `[numExperts]`: mean combine weight, or share of the kept assignments. */
  readonly expertImportance: readonly number[]
}

/** A router that mixes: every token has a weight for every slot. */
export interface SoftRouterPicture extends LayerPicture {
  readonly kind: 'soft'
  readonly slotsPerExpert: number
  /** Total dispatch weight of each token, summed over the slots, of all tokens of some images. */
  readonly tokenWeights: readonly number[]
  readonly samples: readonly {
    /** Index into {@link Evaluation.samples}. */
    readonly sample: number
    /** `[slots][tokens]`: how slots are mixed from tokens; each row sums to 1. */
    readonly dispatch: readonly (readonly number[])[]
    /** `[tokens][slots]`: how outputs are mixed from slots; each row sums to 1. */
    readonly combine: readonly (readonly number[])[]
  }[]
}

/** A router that chooses: each token goes to a few experts, or is dropped. */
export interface IndexRouterPicture extends LayerPicture {
  readonly kind: 'index'
  /** Share of the tokens that no expert processed, 0 to 1. */
  readonly droppedFraction: number
  /** Shares over all tokens of the samples; files of earlier versions have none. */
  readonly histograms?: SparseHistograms
  readonly samples: readonly {
    readonly sample: number
    /** `[tokens][…]`: the experts that processed each token, by falling gate; empty when it was dropped. */
    readonly experts: readonly (readonly number[])[]
  }[]
}

/** Writes `evaluation.json`, weights rounded to five digits. */
export async function writeEvaluation(path: string, evaluation: Evaluation): Promise<void> {
  const text = JSON.stringify(evaluation, (_, value: unknown) =>
    typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value,
  )
  await writeTextAtomically(path, `${text}\n`)
}

/**
 * Reads `evaluation.json` and checks that its parts fit together.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND`, `ERR_FILE_READ`, or `ERR_FILE_FORMAT` with the part that does not fit
 */
export async function readEvaluation(path: string): Promise<Evaluation> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => Promise.reject(fileError(path, cause)))
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is not JSON; write it again with softmoe eval`, {
      cause,
    })
  }
  const problem = findProblem(value)
  if (problem !== undefined) {
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path}: ${problem}; write it again with softmoe eval`)
  }
  return value as Evaluation
}

type Fields = Record<string, unknown>

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
const isNumber = (value: unknown): value is number => typeof value === 'number'
const isCount = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0
const areNumbers = (value: unknown, length?: number): boolean =>
  Array.isArray(value) && (length === undefined || value.length === length) && value.every(isNumber)
const areRows = (value: unknown, rows: number, columns: number): boolean =>
  Array.isArray(value) && value.length === rows && value.every((row) => areNumbers(row, columns))

function findProblem(value: unknown): string | undefined {
  if (!isFields(value)) return 'it is no object'
  const { dataset, classNames, images, loss, accuracy, millisecondsPerImage, confusion, samples, routers } =
    value
  if (typeof dataset !== 'string') return 'dataset is no string'
  if (!Array.isArray(classNames) || !classNames.every((name) => typeof name === 'string')) {
    return 'classNames are no strings'
  }
  if (![images, loss, accuracy, millisecondsPerImage].every(isNumber)) {
    return 'images, loss, accuracy or millisecondsPerImage is no number'
  }
  const classes = classNames.length
  if (!areRows(confusion, classes, classes)) return `confusion is not ${classes} × ${classes} numbers`
  if (!Array.isArray(samples) || !samples.every((sample) => isSample(sample, classes))) {
    return `a sample lacks index, label, png or the probabilities of ${classes} classes`
  }
  if (!Array.isArray(routers)) return 'routers is no list'
  return routers
    .map((router) => findRouterProblem(router, samples.length))
    .find((found) => found !== undefined)
}

function isSample(value: unknown, classes: number): boolean {
  return (
    isFields(value) &&
    isCount(value.index) &&
    isCount(value.label) &&
    value.label < classes &&
    areNumbers(value.probabilities, classes) &&
    typeof value.png === 'string' &&
    /^[A-Za-z0-9+/]+=*$/.test(value.png)
  )
}

function findRouterProblem(value: unknown, sampleCount: number): string | undefined {
  if (!isFields(value) || !isCount(value.layer) || typeof value.router !== 'string') {
    return 'a router lacks its layer or name'
  }
  const name = `the router of layer ${value.layer}`
  const { kind, numExperts, grid, expertImportance, samples } = value
  if (!isCount(numExperts) || !areNumbers(expertImportance, numExperts)) {
    return `${name} lacks the importance of each expert`
  }
  if (!Array.isArray(grid) || grid.length !== 2 || !grid.every(isCount))
    return `${name} lacks its grid of patches`
  const tokens = grid.reduce((rows, columns) => rows * columns)
  if (!Array.isArray(samples)) return `${name} lacks its samples`
  const placed = samples.every(
    (sample) => isFields(sample) && isCount(sample.sample) && sample.sample < sampleCount,
  )
  if (!placed) return `${name} has samples that do not exist`
  if (kind === 'soft') {
    const { slotsPerExpert, tokenWeights } = value
    if (!isCount(slotsPerExpert) || !areNumbers(tokenWeights))
      return `${name} lacks slotsPerExpert or tokenWeights`
    const slots = numExperts * slotsPerExpert
    const fits = (samples as Fields[]).every(
      ({ dispatch, combine }) => areRows(dispatch, slots, tokens) && areRows(combine, tokens, slots),
    )
    return fits ? undefined : `${name} has weights that are not ${slots} slots × ${tokens} tokens`
  }
  if (kind !== 'index') return `${name} is of the unknown kind ${JSON.stringify(kind)}`
  if (!isNumber(value.droppedFraction)) return `${name} lacks droppedFraction`
  if (value.histograms !== undefined && !areHistograms(value.histograms)) {
    return `${name} has histograms that are not lists of numbers`
  }
  const fits = (samples as Fields[]).every(
    ({ experts }) =>
      Array.isArray(experts) && experts.length === tokens && experts.every((chosen) => areNumbers(chosen)),
  )
  return fits ? undefined : `${name} has choices that are not one list for each of ${tokens} tokens`
}
