// Experts with packed weights against the float64 oracle: float32 and bfloat16 as the plain experts, int8 within what
// its rounding allows.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { experts } from '../../lib/index.js'
import { FrozenExperts, WEIGHT_FORMATS } from '../../lib/ops/frozen-experts.js'
import { generate, map, randomSource, type Ref, roundToBfloat16 } from '../reference/array.js'
import * as reference from '../reference/experts.js'
import { checkProperty, type ExpertsCase, expertsCase, stored } from '../support/arbitraries.js'
import { expectRefusal } from '../support/refusal.js'
import { arrayOf, device, expectClose, expectNoTensorsLeftBehind, tensorOf } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const ACTIVATIONS = { gelu_tanh: 'gelu', gelu_erf: 'gelu-erf' } as const
/** Of both GELUs. */
const STEEPEST = 1.13

function randomWeights(example: ExpertsCase): reference.ExpertWeights {
  const { dim, hidden, outputs, rowsPerExpert, seed } = example
  const random = randomSource(seed)
  const count = rowsPerExpert.length
  const float = (shape: readonly number[], scale = 1): Ref => stored(random.array(shape, scale), 'float32')
  return {
    w1: float([count, dim, hidden], 1 / Math.sqrt(dim)),
    b1: float([count, hidden]),
    w2: float([count, hidden, outputs], 1 / Math.sqrt(hidden)),
    b2: float([count, outputs]),
  }
}

const largest = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0)

/**
 * Rows times one expert's matrix [depth, columns] in float64, and how far 8-bit operands may be from it: half a step for
 * each element of the row, whose range (with 0) is cut into 255 steps, and half a step for each weight, of which there
 * are 127 up to the largest of its column. `errors` is what the row's elements are off already.
 */
function int8Product(
  row: readonly number[],
  errors: readonly number[],
  weight: (k: number, column: number) => number,
  bias: readonly number[],
): { values: number[]; bounds: number[] } {
  const low = row.reduce((least, value, k) => Math.min(least, value - errors[k]), 0)
  const high = row.reduce((most, value, k) => Math.max(most, value + errors[k]), 0)
  const half = (high - low) / 255 / 2
  const bounds: number[] = []
  const values = bias.map((start, column) => {
    const weights = row.map((_, k) => weight(k, column))
    const weightHalf = largest(weights) / 127 / 2
    bounds.push(
      row.reduce(
        (sum, value, k) =>
          sum + (errors[k] + half) * Math.abs(weights[k]) + (Math.abs(value) + errors[k] + half) * weightHalf,
        1e-5 * (1 + Math.abs(start)),
      ),
    )
    return row.reduce((sum, value, k) => sum + value * weights[k], start)
  })
  return { values, bounds }
}

const cases = fc.record({ example: expertsCase, format: fc.constantFrom(...WEIGHT_FORMATS) })

describe.skipIf(device.kind === 'cuda')('frozen experts', () => {
  it('agree with the oracle in every format, with rows of their own number', async () => {
    await checkProperty(
      cases,
      async ({ example, format }) => {
        const { rowsPerExpert, dim, hidden, outputs, storage, seed, activation } = example
        const random = randomSource(seed + 1)
        const weights = randomWeights(example)
        const { w1, b1, w2, b2 } = weights
        const masters = {
          w1: tensorOf(w1),
          b1: tensorOf(b1),
          w2: tensorOf(w2),
          b2: tensorOf(b2),
        }
        const frozen = new FrozenExperts(masters, format)
        const rows = rowsPerExpert.reduce((sum, n) => sum + n, 0)
        const tokens = random.integer(1, 20)
        const x = stored(random.array([tokens, dim]), storage)
        const offsets = Int32Array.of(0, ...rowsPerExpert)
        for (let e = 0; e < rowsPerExpert.length; e++) offsets[e + 1] += offsets[e]
        const rowToken = Int32Array.from({ length: rows + 2 }, (_, row) =>
          row < rows ? random.integer(0, tokens - 1) : -1_000_000,
        )
        const operands = {
          x: tensorOf(x, storage),
          expertOffsets: device.tensor(offsets),
          rowToken: device.tensor(rowToken),
        }
        const y = frozen.apply(operands.x, ACTIVATIONS[activation], operands)
        const actual = await arrayOf(y)
        for (const tensor of [y, ...Object.values(operands), ...Object.values(masters)]) tensor.dispose()
        frozen.dispose()

        const used = { shape: [rows, outputs], data: actual.data.slice(0, rows * outputs) }
        const read = generate([rows, dim], (i) => x.data[rowToken[Math.floor(i / dim)] * dim + (i % dim)])
        if (format !== 'int8') {
          const isNarrow = format === 'bfloat16' || storage === 'bfloat16'
          const round = (array: Ref): Ref => (format === 'bfloat16' ? map(array, roundToBfloat16) : array)
          const wanted = reference.raggedExperts(
            round(read),
            rowsPerExpert,
            { w1: round(w1), b1, w2: round(w2), b2 },
            { activation },
          )
          expectClose(used, wanted, isNarrow ? 2 ** -7 + 2e-5 : 2e-5, 'y', 1)
          return
        }
        let row = 0
        rowsPerExpert.forEach((count, e) => {
          const bias = ({ data }: Ref, width: number): number[] =>
            Array.from(data.subarray(e * width, (e + 1) * width))
          for (const end = row + count; row < end; row++) {
            const input = Array.from(read.data.subarray(row * dim, (row + 1) * dim))
            const first = int8Product(
              input,
              input.map(() => 0),
              (k, column) => w1.data[(e * dim + k) * hidden + column],
              bias(b1, hidden),
            )
            // One unit of weight 1: the activation itself, by the oracle.
            const activated = first.values.map(
              (value) =>
                reference.uniformExperts(
                  generate([1, 1, 1], () => value),
                  {
                    w1: generate([1, 1, 1], () => 1),
                    b1: generate([1, 1], () => 0),
                    w2: generate([1, 1, 1], () => 1),
                    b2: generate([1, 1], () => 0),
                  },
                  { activation },
                ).data[0],
            )
            const second = int8Product(
              activated,
              first.bounds.map((bound) => STEEPEST * bound),
              (k, column) => w2.data[(e * hidden + k) * outputs + column],
              bias(b2, outputs),
            )
            const rounding = storage === 'bfloat16' ? 2 ** -8 : 0
            second.values.forEach((value, o) => {
              const bound = second.bounds[o] + rounding * (Math.abs(value) + second.bounds[o])
              const difference = Math.abs(used.data[row * outputs + o] - value)
              expect(difference, `row ${row}, output ${o}`).toBeLessThanOrEqual(bound)
            })
          }
        })
      },
      30,
    )
  })

  it('have the bits of the plain experts in float32', async () => {
    const random = randomSource(4)
    const weights = {
      w1: tensorOf(stored(random.array([3, 65, 130]), 'float32')),
      b1: tensorOf(stored(random.array([3, 130]), 'float32')),
      w2: tensorOf(stored(random.array([3, 130, 67]), 'float32')),
      b2: tensorOf(stored(random.array([3, 67]), 'float32')),
    }
    const frozen = new FrozenExperts(weights, 'float32')
    for (const rows of [0, 1, 5, 14, 15, 40]) {
      const x = tensorOf(stored(random.array([3, rows, 65]), 'float32'))
      const [plain, packed] = [experts(x, weights), frozen.apply(x, 'gelu')]
      expectClose(await arrayOf(packed), await arrayOf(plain), 0, `${rows} rows`)
      for (const tensor of [x, plain, packed]) tensor.dispose()
    }
    frozen.dispose()
    for (const tensor of Object.values(weights)) tensor.dispose()
  })
})

describe.runIf(device.kind === 'cuda')('frozen experts on CUDA', () => {
  it.each(WEIGHT_FORMATS)('are refused as %s', (format) => {
    const weights = {
      w1: device.zeros([1, 2, 3]),
      b1: device.zeros([1, 3]),
      w2: device.zeros([1, 3, 2]),
      b2: device.zeros([1, 2]),
    }
    expectRefusal(() => new FrozenExperts(weights, format), 'ERR_DEVICE', /serves no frozen weights.*'cpu'/)
    for (const tensor of Object.values(weights)) tensor.dispose()
  })
})
