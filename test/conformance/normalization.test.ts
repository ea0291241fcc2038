import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { l2Normalize, layerNorm, softmax } from '../../lib/index.js'
import { add, generate, map, randomSource, type Ref } from '../reference/array.js'
import * as reference from '../reference/layer-norm.js'
import { softmaxRows, softmaxRowsBackward } from '../reference/softmax.js'
import { normaliseAlongRows, normaliseAlongRowsBackward } from '../reference/l2-normalize.js'
import { checkProperty, rowsCase, stored } from '../support/arbitraries.js'
import {
  differentiate,
  evaluate,
  expectClose,
  expectNoTensorsLeftBehind,
  randomOperand,
  ROUNDED_ONCE,
  ROUNDED_TWICE,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

const largest = (array: Ref): number => array.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0)

describe('layerNorm', () => {
  const cases = fc.record({
    example: rowsCase,
    withScale: fc.boolean(),
    withBias: fc.boolean(),
    eps: fc.constantFrom(1e-6, 1e-6, 1e-3),
    offset: fc.constantFrom(0, 3),
  })

  it('normalises, scales and shifts rows, with every gradient', async () => {
    await checkProperty(
      cases,
      async ({ example, withScale, withBias, eps, offset }) => {
        const { rows, width, storage, seed } = example
        const random = randomSource(seed)
        const x = [
          stored(
            map(random.array([rows, width]), (value) => value + offset),
            storage,
          ),
          storage,
        ] as const
        const scale = withScale ? randomOperand(random, [width]) : undefined
        const bias = withBias ? randomOperand(random, [width]) : undefined
        const dy = stored(random.array([rows, width]), storage)
        const { y, gradients } = await differentiate(
          { x, scale, bias },
          ({ x, scale, bias }) => layerNorm(x, scale, bias, eps),
          dy,
        )
        // A row of one element, or of nearly equal ones, is normalised from a difference of near equals.
        const inverse = width < 4 ? eps ** -0.5 : 1
        const wanted = reference.layerNormBackward(x[0], scale?.[0], dy, eps)
        const forward = reference.layerNorm(x[0], scale?.[0], bias?.[0], eps)
        const rounding = width < 4 ? inverse * (offset + 1) * 2 ** -24 : 0
        expectClose(y, forward, ROUNDED_ONCE[storage] + rounding, 'y', 1)
        const size = largest(dy) * (scale ? largest(scale[0]) : 1) * inverse
        expectClose(gradients.x, wanted.dx, ROUNDED_ONCE[storage] + rounding, 'dx', size)
        if (scale) expectClose(gradients.scale, wanted.dScale, 2e-5 + rounding, 'dScale', Math.sqrt(rows))
        if (bias) expectClose(gradients.bias, wanted.dBias, 2e-5, 'dBias', Math.sqrt(rows))
      },
      60,
    )
  })

  it('maps equal elements to the bias, and stays finite', async () => {
    const x = [generate([3, 16], (i) => [0, 5, -1e4][Math.floor(i / 16)]), 'float32'] as const
    const bias = randomOperand(randomSource(1), [16])
    const { y, gradients } = await differentiate(
      { x, bias },
      ({ x, bias }) => layerNorm(x, null, bias),
      randomSource(2).array([3, 16]),
    )
    expectClose(
      y,
      generate([3, 16], (i) => bias[0].data[i % 16]),
      1e-6,
      'y',
    )
    expect(gradients.x.data.every(Number.isFinite)).toBe(true)
  })

  it('does not lose a small spread about a large mean', async () => {
    const random = randomSource(4)
    const x = [map(random.array([4, 64]), (value) => Math.fround(1000 + value)), 'float32'] as const
    const y = await evaluate({ x }, ({ x }) => layerNorm(x))
    // Elements near 1000 are multiples of 2^-14; the mean is rounded to one, too.
    expectClose(y, reference.layerNorm(x[0]), 2 ** -13, 'y')
  })

  it('takes leading axes', async () => {
    const x = randomOperand(randomSource(1), [2, 3, 5, 7])
    const y = await evaluate({ x }, ({ x }) => layerNorm(x))
    expect(y.shape).toEqual([2, 3, 5, 7])
    expectClose(y, reference.layerNorm(x[0]), 2e-6, 'y')
  })
})

describe('l2Normalize', () => {
  it('divides rows by their length, with the gradient', async () => {
    const cases = fc.record({ example: rowsCase, eps: fc.constantFrom(1e-6, 1e-2) })
    await checkProperty(cases, async ({ example, eps }) => {
      const { rows, width, storage, seed } = example
      const random = randomSource(seed)
      const x = randomOperand(random, [rows, width], storage)
      const dy = stored(random.array([rows, width]), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => l2Normalize(x, eps), dy)
      expectClose(y, normaliseAlongRows(x[0], eps), ROUNDED_ONCE[storage], 'y')
      const wanted = normaliseAlongRowsBackward(x[0], dy, eps)
      // The gradient is what is left of dy across x; in one dimension that is next to nothing.
      const shortest = Math.min(1e3, ...shortestRows(x[0]))
      expectClose(gradients.x, wanted, ROUNDED_ONCE[storage], 'dx', largest(dy) / Math.max(shortest, 1e-3))
    })
  })

  it('maps the zero vector to itself, with a finite gradient', async () => {
    const x = [generate([2, 5], () => 0), 'float32'] as const
    const dy = randomSource(3).array([2, 5])
    const { y, gradients } = await differentiate({ x }, ({ x }) => l2Normalize(x), dy)
    expect([...y.data]).toEqual(new Array(10).fill(0))
    expectClose(
      gradients.x,
      map(dy, (value) => value * 1000),
      1e-6,
      'dx',
    )
  })
})

function shortestRows(x: Ref): number[] {
  const [rows, width] = x.shape
  return Array.from({ length: rows }, (_, row) =>
    Math.hypot(...x.data.subarray(row * width, (row + 1) * width)),
  )
}

describe('softmax', () => {
  it('makes rows of probabilities, with the gradient', async () => {
    const cases = fc.record({ example: rowsCase, sharpness: fc.constantFrom(0.1, 1, 8) })
    await checkProperty(cases, async ({ example, sharpness }) => {
      const { rows, width, storage, seed } = example
      const random = randomSource(seed)
      const x = randomOperand(random, [rows, width], storage, sharpness)
      const dy = stored(random.array([rows, width]), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => softmax(x), dy)
      const wanted = softmaxRows(x[0])
      expectClose(y, wanted, ROUNDED_ONCE[storage], 'y')
      // The inner sum is taken over stored probabilities.
      expectClose(gradients.x, softmaxRowsBackward(wanted, dy), ROUNDED_TWICE[storage], 'dx', largest(wanted))
    })
  })

  it('takes NaN and -Infinity as no probability, and a row of nothing else as zeros', async () => {
    const x = generate([3, 4], (i) => [NaN, 0, -Infinity, 0, NaN, -Infinity, NaN, NaN, 1e4, -1e4, 0, 1e4][i])
    const y = await evaluate({ x: [x, 'float32'] }, ({ x }) => softmax(x))
    expect([...y.data]).toEqual([0, 0.5, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0, 0.5])
  })

  it('does not change when a number is added to a row', async () => {
    const x = randomOperand(randomSource(6), [5, 9])
    const shifted = [
      add(
        map(x[0], (value) => Math.round(value * 64) / 64),
        generate([5, 9], () => 4096),
      ),
      'float32',
    ]
    const base = [map(x[0], (value) => Math.round(value * 64) / 64), 'float32'] as const
    const a = await evaluate({ x: base }, ({ x }) => softmax(x))
    const b = await evaluate({ x: shifted as unknown as typeof base }, ({ x }) => softmax(x))
    expectClose(b, a, 1e-6, 'softmax of the shifted rows')
  })
})
