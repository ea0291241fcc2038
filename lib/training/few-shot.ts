/**
 * Few-shot evaluation of frozen features by ridge regression, as the papers measure it (Soft MoE, section 3.1; V-MoE,
 * appendix; after big_vision's `fewshot_lsr`): the features of a few images of each class are whitened, get a large
 * constant for the bias, and are regressed on targets of 1 for the image's class and -1 for all others:
 *
 *     W = (X^T X + l2 I)^-1 X^T Y = X^T (X X^T + l2 I)^-1 Y
 *
 * The smaller of the two systems is solved, by Cholesky's method in float64: cost min(n, d)^3 / 3 for n images of d
 * features.
 */
import { requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { Random, streamOf } from '../core/random.js'
import type { ChannelStatistics, DatasetSplit, ImageDataset } from '../data/dataset.js'
import { loadImages } from '../data/loader.js'
import type { VisionTransformer } from '../models/vision-transformer.js'
import { batchTensor, inEvalMode } from './evaluate.js'

/** Options of {@link fewShotAccuracy}. */
export interface FewShotOptions {
  /** Images of each class. Default 10. */
  readonly shots?: number
  /** Weight of the ridge. Default 2^10, big_vision's. */
  readonly l2?: number
  /** Decides which images are taken. Default 0. */
  readonly seed?: number
  /** That of the images that the model was trained on. */
  readonly normalisation: ChannelStatistics
  /** Images in a batch. Default 128. */
  readonly batchSize?: number
}

const DEFAULT_L2 = 1024
/** Added to the deviation in whitening, and the feature that stands for the bias: large, so that the ridge spares it. */
const DEVIATION_EPS = 1e-5
const BIAS_FEATURE = 100

/** Rows of equal length, row-major. */
interface Matrix {
  readonly rows: number
  readonly columns: number
  readonly values: Float64Array
}

function matrix(rows: number, columns: number): Matrix {
  return { rows, columns, values: new Float64Array(rows * columns) }
}

/**
 * Share of the test images that ridge regression on a model's frozen features classifies correctly.
 *
 * @throws (rejects) `ERR_INVALID_ARGUMENT` when a class has too few training images
 * @example await fewShotAccuracy(model, await openDataset(), { shots: 10, normalisation })
 */
export async function fewShotAccuracy(
  model: VisionTransformer,
  data: DatasetSplit,
  options: FewShotOptions,
): Promise<number> {
  requireObject('the model', model)
  requireObject('the data', data)
  requireObject('the options of fewShotAccuracy', options)
  const { train, test } = data
  const { shots = 10, l2 = DEFAULT_L2, seed = 0 } = options
  const chosen = chooseImages(train, shots, seed)
  const features = await frozenFeatures(model, chosen, options)
  const regression = fitRidge(features, chosen.labels, train.classNames.length, l2)
  const predicted = regression(await frozenFeatures(model, test, options))
  let correct = 0
  test.labels.forEach((label, i) => {
    if (predicted[i] === label) correct++
  })
  return correct / test.count
}

/** The given number of images of each class, chosen at random. */
function chooseImages(dataset: ImageDataset, shots: number, seed: number): ImageDataset {
  const order = new Random(seed, streamOf('split')).permutation(dataset.count)
  const imageBytes = dataset.height * dataset.width * dataset.channels
  const found = dataset.classNames.map(() => 0)
  const indices = order.filter((index) => found[dataset.labels[index]]++ < shots)
  const poorest = found.findIndex((count) => count < shots)
  if (poorest >= 0) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `class ${dataset.classNames[poorest]} has ${found[poorest]} training images, wanted ${shots}; ask for fewer`,
    )
  }
  const images = new Uint8Array(indices.length * imageBytes)
  indices.forEach((index, i) => {
    images.set(dataset.images.subarray(index * imageBytes, (index + 1) * imageBytes), i * imageBytes)
  })
  const labels = Int32Array.from(indices, (index) => dataset.labels[index])
  return { ...dataset, images, labels, count: indices.length }
}

async function frozenFeatures(
  model: VisionTransformer,
  dataset: ImageDataset,
  { normalisation, batchSize = 128 }: FewShotOptions,
): Promise<Matrix> {
  return inEvalMode(model, async () => {
    let features: Matrix | undefined
    for await (const batch of loadImages(dataset, { batchSize, normalisation, shuffle: false })) {
      const images = batchTensor(model, batch, dataset)
      const output = model.features(images)
      images.dispose()
      const [, dim = 0] = output.shape
      const values = await output.data()
      output.dispose()
      features ??= matrix(dataset.count, dim)
      features.values.set(values, batch.step * batchSize * dim)
    }
    return features ?? matrix(0, 0)
  })
}

/**
 * Fits the regression.
 *
 * @param features - `[images, dim]`
 * @returns maps features to the class with the greatest output
 */
export function fitRidge(
  features: Matrix,
  labels: Int32Array,
  classes: number,
  l2: number,
): (features: Matrix) => Int32Array {
  const whiten = whitening(features)
  const x = whiten(features)
  const y = matrix(x.rows, classes)
  y.values.fill(-1)
  labels.forEach((label, i) => (y.values[i * classes + label] = 1))
  const transposed = transpose(x)
  const weights =
    x.rows >= x.columns
      ? solve(gram(transposed, l2), product(transposed, y))
      : product(transposed, solve(gram(x, l2), y))
  return (others) => {
    const outputs = product(whiten(others), weights)
    return Int32Array.from({ length: outputs.rows }, (_, row) => {
      const scores = outputs.values.subarray(row * classes, (row + 1) * classes)
      return scores.indexOf(scores.reduce((most, score) => Math.max(most, score), -Infinity))
    })
  }
}

/** Subtracts the mean and divides by the deviation of these features, and appends the bias feature. */
function whitening({ rows, columns, values }: Matrix): (features: Matrix) => Matrix {
  const mean = new Float64Array(columns)
  const deviation = new Float64Array(columns)
  values.forEach((value, i) => (mean[i % columns] += value / rows))
  values.forEach((value, i) => (deviation[i % columns] += (value - mean[i % columns]) ** 2 / rows))
  return (features) => {
    const whitened = matrix(features.rows, columns + 1)
    for (let row = 0; row < features.rows; row++) {
      for (let column = 0; column < columns; column++) {
        const value = features.values[row * columns + column]
        whitened.values[row * (columns + 1) + column] =
          (value - mean[column]) / (Math.sqrt(deviation[column]) + DEVIATION_EPS)
      }
      whitened.values[row * (columns + 1) + columns] = BIAS_FEATURE
    }
    return whitened
  }
}

function transpose({ rows, columns, values }: Matrix): Matrix {
  const result = matrix(columns, rows)
  values.forEach((value, i) => (result.values[(i % columns) * rows + Math.floor(i / columns)] = value))
  return result
}

function product(a: Matrix, b: Matrix): Matrix {
  const result = matrix(a.rows, b.columns)
  for (let i = 0; i < a.rows; i++) {
    for (let k = 0; k < a.columns; k++) {
      const factor = a.values[i * a.columns + k]
      for (let j = 0; j < b.columns; j++) {
        result.values[i * b.columns + j] += factor * b.values[k * b.columns + j]
      }
    }
  }
  return result
}

/** `a a^T + l2 I`. */
function gram(a: Matrix, l2: number): Matrix {
  const result = product(a, transpose(a))
  for (let i = 0; i < a.rows; i++) result.values[i * a.rows + i] += l2
  return result
}

/** Solves `a x = b` for a positive definite `a` by Cholesky's method. */
function solve(a: Matrix, b: Matrix): Matrix {
  const n = a.rows
  const lower = Float64Array.from(a.values)
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let rest = lower[i * n + j]
      for (let k = 0; k < j; k++) rest -= lower[i * n + k] * lower[j * n + k]
      lower[i * n + j] = i === j ? Math.sqrt(rest) : rest / lower[j * n + j]
    }
  }
  const x = { ...b, values: Float64Array.from(b.values) }
  for (let column = 0; column < b.columns; column++) {
    const at = (row: number): number => row * b.columns + column
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < i; k++) x.values[at(i)] -= lower[i * n + k] * x.values[at(k)]
      x.values[at(i)] /= lower[i * n + i]
    }
    for (let i = n - 1; i >= 0; i--) {
      for (let k = i + 1; k < n; k++) x.values[at(i)] -= lower[k * n + i] * x.values[at(k)]
      x.values[at(i)] /= lower[i * n + i]
    }
  }
  return x
}
