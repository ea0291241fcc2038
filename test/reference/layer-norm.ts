// Layer normalisation over the last axis: y = (x − mean) / √(var + eps) · scale + bias.
import { type Ref, rowsAndWidth, zeros } from './array.js'

export const LAYER_NORM_EPSILON = 1e-6

function statistics(x: Ref, row: number, width: number, epsilon: number): { mean: number; inverse: number } {
  let mean = 0
  for (let i = 0; i < width; i++) mean += x.data[row * width + i] / width
  let variance = 0
  for (let i = 0; i < width; i++) variance += (x.data[row * width + i] - mean) ** 2 / width
  return { mean, inverse: 1 / Math.sqrt(variance + epsilon) }
}

/** x [..., d], scale [d] or none, bias [d] or none → y [..., d]. The variance is the population's. */
export function layerNorm(x: Ref, scale?: Ref, bias?: Ref, epsilon = LAYER_NORM_EPSILON): Ref {
  const [rows, width] = rowsAndWidth(x)
  const y = zeros(...x.shape)
  for (let row = 0; row < rows; row++) {
    const { mean, inverse } = statistics(x, row, width, epsilon)
    for (let i = 0; i < width; i++) {
      const normalised = (x.data[row * width + i] - mean) * inverse
      y.data[row * width + i] = normalised * (scale ? scale.data[i] : 1) + (bias ? bias.data[i] : 0)
    }
  }
  return y
}

export interface LayerNormGradients {
  readonly dx: Ref
  readonly dScale: Ref
  readonly dBias: Ref
}

/** Gradients for dy [..., d]: dx [..., d], dScale [d], dBias [d]. */
export function layerNormBackward(
  x: Ref,
  scale: Ref | undefined,
  dy: Ref,
  epsilon = LAYER_NORM_EPSILON,
): LayerNormGradients {
  const [rows, width] = rowsAndWidth(x)
  const dx = zeros(...x.shape)
  const dScale = zeros(width)
  const dBias = zeros(width)
  for (let row = 0; row < rows; row++) {
    const { mean, inverse } = statistics(x, row, width, epsilon)
    const normalised = (i: number): number => (x.data[row * width + i] - mean) * inverse
    const cotangent = (i: number): number => dy.data[row * width + i] * (scale ? scale.data[i] : 1)
    let meanCotangent = 0
    let meanProduct = 0
    for (let i = 0; i < width; i++) {
      meanCotangent += cotangent(i) / width
      meanProduct += (cotangent(i) * normalised(i)) / width
      dScale.data[i] += dy.data[row * width + i] * normalised(i)
      dBias.data[i] += dy.data[row * width + i]
    }
    for (let i = 0; i < width; i++) {
      dx.data[row * width + i] = inverse * (cotangent(i) - meanCotangent - normalised(i) * meanProduct)
    }
  }
  return { dx, dScale, dBias }
}
