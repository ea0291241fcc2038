import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Random } from '../../lib/core/random.js'
import { experts, type Tensor } from '../../lib/index.js'
import { generate, randomSource, type RandomSource, type Ref, zeros } from '../reference/array.js'
import * as reference from '../reference/experts.js'
import {
  checkProperty,
  type ExpertsCase,
  expertsCase,
  extentOrNone,
  type Storage,
  stored,
} from '../support/arbitraries.js'
import {
  device,
  differentiate,
  expectClose,
  expectNoTensorsLeftBehind,
  type Operand,
  randomOperand,
  ROUNDED_TWICE,
  type Tolerance,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

const ACTIVATIONS = { gelu_tanh: 'gelu', gelu_erf: 'gelu-erf' } as const

/** bfloat16: the hidden units are stored between the two products. */
const TOLERANCE = ROUNDED_TWICE

/** bfloat16: dropped gradients, hidden units and their gradients are stored; slopes are taken at stored sums. */
const GRADIENT_TOLERANCE: Tolerance = { float32: 2e-5, bfloat16: 2 ** -6 }

interface Weights {
  readonly w1: Operand
  readonly b1: Operand
  readonly w2: Operand
  readonly b2: Operand
}

/** Weights that keep activations near 1. */
function randomWeights(
  random: RandomSource,
  count: number,
  { dim, hidden, outputs, storage }: Pick<ExpertsCase, 'dim' | 'hidden' | 'outputs' | 'storage'>,
): Weights {
  return {
    w1: randomOperand(random, [count, dim, hidden], storage, 1 / Math.sqrt(dim)),
    b1: randomOperand(random, [count, hidden]),
    w2: randomOperand(random, [count, hidden, outputs], storage, 1 / Math.sqrt(hidden)),
    b2: randomOperand(random, [count, outputs]),
  }
}

function arraysOf({ w1, b1, w2, b2 }: Weights): reference.ExpertWeights {
  return { w1: w1[0], b1: b1[0], w2: w2[0], b2: b2[0] }
}

/** What gradients of that many rows are of the size of, so that cancellation in a single element is no failure. */
function expectGradients(
  actual: { readonly [Name in keyof Weights]: Ref },
  wanted: reference.ExpertGradients,
  rows: number,
  { hidden, outputs, storage }: Pick<ExpertsCase, 'hidden' | 'outputs' | 'storage'>,
): void {
  const size = Math.sqrt(Math.max(rows, 1))
  const hiddenSize = size * Math.sqrt(outputs / hidden)
  expectClose(actual.w1, wanted.dw1, GRADIENT_TOLERANCE[storage], 'dw1', hiddenSize)
  expectClose(actual.b1, wanted.db1, GRADIENT_TOLERANCE[storage], 'db1', hiddenSize)
  expectClose(actual.w2, wanted.dw2, GRADIENT_TOLERANCE[storage], 'dw2', size)
  expectClose(actual.b2, wanted.db2, GRADIENT_TOLERANCE[storage], 'db2', size)
}

/** 0 where the generator drops, 1 / (1 - rate) where it keeps, [rows, width]. */
function dropoutFactors(rows: number, width: number, rate: number, seed: number, stream: number): Ref {
  const draws = new Random(seed, stream)
  return generate([rows, width], (i) => (draws.uniform(i) < rate ? 0 : 1 / (1 - rate)))
}

describe('experts with the same number of rows each', () => {
  const cases = fc.record({
    example: expertsCase,
    rows: extentOrNone(37),
    dropoutRate: fc.constantFrom(0, 0, 0.3),
  })

  it('compute their perceptrons, with every gradient', async () => {
    await checkProperty(
      cases,
      async ({ example, rows, dropoutRate }) => {
        const { dim, hidden, outputs, storage, seed } = example
        const random = randomSource(seed)
        const count = example.rowsPerExpert.length
        const x = randomOperand(random, [count, rows, dim], storage)
        const weights = randomWeights(random, count, example)
        const dy = stored(random.array([count, rows, outputs]), storage)
        const key = { seed, stream: 11 }
        const { y, gradients } = await differentiate(
          { x, ...weights },
          ({ x, ...weights }) =>
            experts(x, weights, { activation: ACTIVATIONS[example.activation], dropoutRate, key }),
          dy,
        )
        const options = {
          activation: example.activation,
          hiddenDropout: dropoutFactors(count * rows, hidden, dropoutRate, seed, 11),
          outputDropout: dropoutFactors(count * rows, outputs, dropoutRate, seed, 12),
        }
        const arrays = arraysOf(weights)
        expect(y.shape).toEqual(dy.shape)
        expectClose(y, reference.uniformExperts(x[0], arrays, options), TOLERANCE[storage], 'y', 1)
        const wanted = reference.uniformExpertsBackward(x[0], arrays, dy, options)
        expectClose(gradients.x, wanted.dx, GRADIENT_TOLERANCE[storage], 'dx', Math.sqrt(outputs / dim))
        expectGradients(gradients, wanted, rows, example)
      },
      40,
    )
  })

  it('are linear maps without an activation, and may use tanh', async () => {
    const random = randomSource(9)
    const shape = { dim: 5, hidden: 7, outputs: 3, storage: 'float32' as const }
    const x = randomOperand(random, [2, 4, 5])
    const weights = randomWeights(random, 2, shape)
    const dy = random.array([2, 4, 3])
    const plain = await differentiate(
      { x, ...weights },
      ({ x, ...weights }) => experts(x, weights, { activation: 'none' }),
      dy,
    )
    const options = { activation: 'none' } as const
    expectClose(plain.y, reference.uniformExperts(x[0], arraysOf(weights), options), 2e-5, 'y')
    const wanted = reference.uniformExpertsBackward(x[0], arraysOf(weights), dy, options)
    expectClose(plain.gradients.x, wanted.dx, 2e-5, 'dx')
    expectGradients(plain.gradients, wanted, 4, shape)
    // tanh(u) = u for small u: with tiny first weights both give the same up to u^3.
    const tiny = {
      ...weights,
      w1: randomOperand(random, [2, 5, 7], 'float32', 1e-3),
      b1: randomOperand(random, [2, 7], 'float32', 1e-3),
    }
    const small = await differentiate(
      { x, ...tiny },
      ({ x, ...weights }) => experts(x, weights, { activation: 'tanh' }),
      dy,
    )
    expectClose(small.y, reference.uniformExperts(x[0], arraysOf(tiny), options), 2e-5, 'y of tanh')
    const nearlyLinear = reference.uniformExpertsBackward(x[0], arraysOf(tiny), dy, options)
    expectClose(small.gradients.w1, nearlyLinear.dw1, 1e-4, 'dw1 of tanh')
  })
})

/** Row gradients [maxRows, dim] added up in the rows of x that they were read from. */
function scattered(rowToken: Int32Array, validRows: number, tokens: number, storage: Storage) {
  return (dRows: Tensor): Tensor => {
    const values = dRows.dataSync()
    const dim = dRows.shape[1]
    const dx = zeros(tokens, dim)
    for (let row = 0; row < validRows; row++) {
      for (let i = 0; i < dim; i++) dx.data[rowToken[row] * dim + i] += values[row * dim + i]
    }
    return device.tensor(dx.data, dx.shape, { dtype: storage })
  }
}

describe('experts with rows of their own number', () => {
  const cases = fc.record({
    example: expertsCase,
    unused: fc.constantFrom(0, 0, 1, 5),
    gathered: fc.boolean(),
  })

  it('read the rows that the lists name, leave the rest alone, and give every gradient', async () => {
    await checkProperty(
      cases,
      async ({ example, unused, gathered }) => {
        const { rowsPerExpert, dim, outputs, storage, seed } = example
        const random = randomSource(seed)
        const count = rowsPerExpert.length
        const rows = rowsPerExpert.reduce((sum, n) => sum + n, 0)
        const tokens = gathered ? random.integer(1, 20) : rows + unused
        const x = randomOperand(random, [tokens, dim], storage)
        const weights = randomWeights(random, count, example)
        const offsets = Int32Array.of(0, ...rowsPerExpert)
        for (let e = 0; e < count; e++) offsets[e + 1] += offsets[e]
        // Rows beyond the last offset are not to be read: their token does not exist.
        const rowToken = Int32Array.from({ length: rows + unused }, (_, row) =>
          row >= rows ? -1_000_000 : gathered ? random.integer(0, tokens - 1) : row,
        )
        const dy = stored(random.array([rows + unused, outputs]), storage)
        const expertOffsets = device.tensor(offsets)
        const rowTokens = device.tensor(rowToken)
        const { y, gradients } = await differentiate(
          { x, ...weights },
          ({ x, ...weights }) =>
            experts(
              x,
              weights,
              { activation: ACTIVATIONS[example.activation] },
              { expertOffsets, rowToken: rowTokens },
              scattered(rowToken, rows, tokens, storage),
            ),
          dy,
        )
        expertOffsets.dispose()
        rowTokens.dispose()

        const read = generate([rows, dim], (i) => x[0].data[rowToken[Math.floor(i / dim)] * dim + (i % dim)])
        const options = { activation: example.activation }
        const arrays = arraysOf(weights)
        const used = { shape: [rows, outputs], data: y.data.slice(0, rows * outputs) }
        expectClose(
          used,
          reference.raggedExperts(read, rowsPerExpert, arrays, options),
          TOLERANCE[storage],
          'y',
          1,
        )
        const dyUsed = { shape: [rows, outputs], data: dy.data.slice(0, rows * outputs) }
        const wanted = reference.raggedExpertsBackward(read, rowsPerExpert, arrays, dyUsed, options)
        const dx = zeros(tokens, dim)
        wanted.dx.data.forEach((value, i) => {
          dx.data[rowToken[Math.floor(i / dim)] * dim + (i % dim)] += value
        })
        expectClose(gradients.x, dx, GRADIENT_TOLERANCE[storage], 'dx', Math.sqrt(outputs / dim))
        expectGradients(gradients, wanted, Math.max(...rowsPerExpert), example)
      },
      40,
    )
  })
})
