// The batched expert MLP: y = act(x W1 + b1) W2 + b2 with the weights of the expert that owns each row.
import { type Ref, reshape, zeros } from './array.js'
import { type Activation, activate, activationDerivative } from './gelu.js'

/** w1 [E, d, h], b1 [E, h], w2 [E, h, o], b2 [E, o]. */
export interface ExpertWeights {
  readonly w1: Ref
  readonly b1: Ref
  readonly w2: Ref
  readonly b2: Ref
}

export interface ExpertOptions {
  /** Default 'gelu_tanh'. */
  readonly activation?: Activation
  /** Multiplies the hidden units [rows, h] after the activation: 0 where dropped, 1/(1 − rate) where kept. */
  readonly hiddenDropout?: Ref
  /** Multiplies the output [rows, o]. */
  readonly outputDropout?: Ref
}

export interface ExpertGradients {
  readonly dx: Ref
  readonly dw1: Ref
  readonly db1: Ref
  readonly dw2: Ref
  readonly db2: Ref
}

/** Which expert owns each row, when expert e owns `rowsPerExpert[e]` consecutive rows. */
function owners(rowsPerExpert: readonly number[]): number[] {
  return rowsPerExpert.flatMap((rows, expert) => new Array<number>(rows).fill(expert))
}

function hiddenBeforeActivation(
  x: Ref,
  { w1, b1 }: ExpertWeights,
  row: number,
  expert: number,
): Float64Array {
  const [, dim, hidden] = w1.shape
  const before = b1.data.slice(expert * hidden, (expert + 1) * hidden)
  for (let i = 0; i < dim; i++) {
    for (let u = 0; u < hidden; u++)
      before[u] += x.data[row * dim + i] * w1.data[(expert * dim + i) * hidden + u]
  }
  return before
}

/** Ragged rows, expert-major: x [rows, d] and rowsPerExpert [E] (sum = rows, zeros allowed) → [rows, o]. */
export function raggedExperts(
  x: Ref,
  rowsPerExpert: readonly number[],
  weights: ExpertWeights,
  options: ExpertOptions = {},
): Ref {
  const { w2, b2 } = weights
  const [, hidden, outputs] = w2.shape
  const { activation = 'gelu_tanh', hiddenDropout, outputDropout } = options
  const y = zeros(x.shape[0], outputs)
  owners(rowsPerExpert).forEach((expert, row) => {
    const before = hiddenBeforeActivation(x, weights, row, expert)
    const sums = b2.data.slice(expert * outputs, (expert + 1) * outputs)
    for (let u = 0; u < hidden; u++) {
      const kept = hiddenDropout ? hiddenDropout.data[row * hidden + u] : 1
      const after = activate(activation, before[u]) * kept
      for (let o = 0; o < outputs; o++) sums[o] += after * w2.data[(expert * hidden + u) * outputs + o]
    }
    for (let o = 0; o < outputs; o++) {
      y.data[row * outputs + o] = sums[o] * (outputDropout ? outputDropout.data[row * outputs + o] : 1)
    }
  })
  return y
}

/** Gradients of `raggedExperts` for dy [rows, o]; experts without rows get zeros. */
export function raggedExpertsBackward(
  x: Ref,
  rowsPerExpert: readonly number[],
  weights: ExpertWeights,
  dy: Ref,
  options: ExpertOptions = {},
): ExpertGradients {
  const { w1, b1, w2, b2 } = weights
  const [, dim, hidden] = w1.shape
  const outputs = w2.shape[2]
  const { activation = 'gelu_tanh', hiddenDropout, outputDropout } = options
  const dx = zeros(...x.shape)
  const dw1 = zeros(...w1.shape)
  const db1 = zeros(...b1.shape)
  const dw2 = zeros(...w2.shape)
  const db2 = zeros(...b2.shape)
  owners(rowsPerExpert).forEach((expert, row) => {
    const before = hiddenBeforeActivation(x, weights, row, expert)
    const dOut = new Float64Array(outputs)
    for (let o = 0; o < outputs; o++) {
      dOut[o] = dy.data[row * outputs + o] * (outputDropout ? outputDropout.data[row * outputs + o] : 1)
      db2.data[expert * outputs + o] += dOut[o]
    }
    const dBefore = new Float64Array(hidden)
    for (let u = 0; u < hidden; u++) {
      const kept = hiddenDropout ? hiddenDropout.data[row * hidden + u] : 1
      const after = activate(activation, before[u]) * kept
      let dHidden = 0
      for (let o = 0; o < outputs; o++) {
        const at = (expert * hidden + u) * outputs + o
        dw2.data[at] += after * dOut[o]
        dHidden += w2.data[at] * dOut[o]
      }
      dBefore[u] = dHidden * kept * activationDerivative(activation, before[u])
      db1.data[expert * hidden + u] += dBefore[u]
    }
    for (let i = 0; i < dim; i++) {
      for (let u = 0; u < hidden; u++) {
        const at = (expert * dim + i) * hidden + u
        dw1.data[at] += x.data[row * dim + i] * dBefore[u]
        dx.data[row * dim + i] += w1.data[at] * dBefore[u]
      }
    }
  })
  return { dx, dw1, db1, dw2, db2 }
}

function uniformRows(x: Ref): number[] {
  return new Array<number>(x.shape[0]).fill(x.shape[1])
}

/** The same number of rows for each expert: x [E, R, d] → [E, R, o]. */
export function uniformExperts(x: Ref, weights: ExpertWeights, options: ExpertOptions = {}): Ref {
  const [experts, rows, dim] = x.shape
  const y = raggedExperts(reshape(x, experts * rows, dim), uniformRows(x), weights, options)
  return reshape(y, experts, rows, weights.w2.shape[2])
}

/** Gradients of `uniformExperts` for dy [E, R, o]; dx is [E, R, d]. */
export function uniformExpertsBackward(
  x: Ref,
  weights: ExpertWeights,
  dy: Ref,
  options: ExpertOptions = {},
): ExpertGradients {
  const [experts, rows, dim] = x.shape
  const flat = reshape(x, experts * rows, dim)
  const flatGradient = reshape(dy, experts * rows, dy.shape[2])
  const gradients = raggedExpertsBackward(flat, uniformRows(x), weights, flatGradient, options)
  return { ...gradients, dx: reshape(gradients.dx, experts, rows, dim) }
}
