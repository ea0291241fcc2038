import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { linear, matmul } from '../../lib/index.js'
import { randomSource } from '../reference/array.js'
import * as elementwise from '../reference/elementwise.js'
import * as reference from '../reference/linear.js'
import {
  checkProperty,
  extent,
  extentOrNone,
  linearCase,
  seed,
  storage,
  stored,
} from '../support/arbitraries.js'
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

const ACTIVATIONS = { none: 'none', gelu_tanh: 'gelu', gelu_erf: 'gelu-erf' } as const

describe('linear', () => {
  it('multiplies, adds the bias and activates, with every gradient', async () => {
    await checkProperty(
      linearCase,
      async ({ rows, inputs, outputs, withBias, activation, storage, seed }) => {
        const random = randomSource(seed)
        const x = randomOperand(random, [rows, inputs], storage)
        const w = randomOperand(random, [inputs, outputs], storage, 1 / Math.sqrt(inputs))
        const bias = withBias ? randomOperand(random, [outputs]) : undefined
        const dy = stored(random.array([rows, outputs]), storage)
        const { y, gradients } = await differentiate(
          { x, w, bias },
          ({ x, w, bias }) => linear(x, w, bias, { activation: ACTIVATIONS[activation] }),
          dy,
        )
        expectClose(y, reference.linear(x[0], w[0], bias?.[0], activation), ROUNDED_ONCE[storage], 'y', 1)
        const wanted = reference.linearBackward(x[0], w[0], bias?.[0], activation, dy)
        // The derivative of the activation is taken at the stored sum, and its product with dy is stored.
        const tolerance = (activation === 'none' ? ROUNDED_ONCE : ROUNDED_TWICE)[storage]
        expectClose(gradients.x, wanted.dx, tolerance, 'dx', Math.sqrt(outputs / inputs))
        const float32 = activation === 'none' ? ROUNDED_ONCE.float32 : tolerance
        expectClose(gradients.w, wanted.dWeight, float32, 'dw', Math.sqrt(rows))
        if (withBias) expectClose(gradients.bias, wanted.dBias, float32, 'dBias', Math.sqrt(rows))
      },
      60,
    )
  })

  it('tanh, with every gradient', async () => {
    const random = randomSource(3)
    const x = randomOperand(random, [17, 5])
    const w = randomOperand(random, [5, 7])
    const bias = randomOperand(random, [7])
    const dy = random.array([17, 7])
    const { y, gradients } = await differentiate(
      { x, w, bias },
      ({ x, w, bias }) => linear(x, w, bias, { activation: 'tanh' }),
      dy,
    )
    const sums = reference.affine(x[0], w[0], bias[0])
    expectClose(y, { shape: sums.shape, data: sums.data.map(Math.tanh) }, 2e-5, 'y')
    const dSums = { shape: dy.shape, data: dy.data.map((d, i) => d * (1 - Math.tanh(sums.data[i]) ** 2)) }
    const wanted = reference.linearBackward(x[0], w[0], bias[0], 'none', dSums)
    expectClose(gradients.x, wanted.dx, 2e-5, 'dx')
    expectClose(gradients.w, wanted.dWeight, 2e-5, 'dw')
    expectClose(gradients.bias, wanted.dBias, 2e-5, 'dBias')
  })

  it('gives float32 from bfloat16 operands, unrounded, and takes its float32 gradient', async () => {
    const random = randomSource(5)
    const x = randomOperand(random, [19, 23], 'bfloat16')
    const w = randomOperand(random, [23, 11], 'bfloat16', 0.2)
    const dy = random.array([19, 11])
    const { y, gradients } = await differentiate(
      { x, w },
      ({ x, w }) => linear(x, w, null, { dtype: 'float32' }),
      dy,
    )
    expectClose(y, reference.linear(x[0], w[0]), 2e-5, 'y')
    const wanted = reference.linearBackward(x[0], w[0], undefined, 'none', dy)
    expectClose(gradients.x, wanted.dx, ROUNDED_TWICE.bfloat16, 'dx')
    expectClose(gradients.w, wanted.dWeight, ROUNDED_ONCE.bfloat16, 'dw')
  })

  it('keeps leading axes, and takes a vector', async () => {
    const random = randomSource(6)
    const w = randomOperand(random, [5, 3])
    for (const leading of [[], [2], [2, 3], [2, 0, 4]]) {
      const x = randomOperand(random, [...leading, 5])
      const y = await evaluate({ x, w }, ({ x, w }) => linear(x, w))
      expect(y.shape).toEqual([...leading, 3])
      expectClose(y, reference.linear(x[0], w[0]), 2e-5, 'y')
    }
  })

  it('agrees with the oracle at the shape of a real layer', async () => {
    const random = randomSource(7)
    const [rows, inputs, outputs] =
      process.env.SOFTMOE_TEST_DEVICE === 'cuda' ? [64, 96, 130] : [197, 384, 301]
    for (const storage of ['float32', 'bfloat16'] as const) {
      const x = randomOperand(random, [rows, inputs], storage)
      const w = randomOperand(random, [inputs, outputs], storage, 1 / Math.sqrt(inputs))
      const bias = randomOperand(random, [outputs])
      const dy = stored(random.array([rows, outputs]), storage)
      const { y, gradients } = await differentiate({ x, w, bias }, ({ x, w, bias }) => linear(x, w, bias), dy)
      expectClose(y, reference.linear(x[0], w[0], bias[0]), ROUNDED_ONCE[storage], 'y')
      const wanted = reference.linearBackward(x[0], w[0], bias[0], 'none', dy)
      expectClose(gradients.x, wanted.dx, ROUNDED_ONCE[storage], 'dx')
      expectClose(gradients.w, wanted.dWeight, 2e-5, 'dw')
      expectClose(gradients.bias, wanted.dBias, 2e-5, 'dBias')
    }
  })
})

describe('matmul', () => {
  const cases = fc.record({
    batch: fc.array(extentOrNone(3), { maxLength: 2 }),
    m: extentOrNone(67),
    k: extent(67),
    n: extent(67),
    transposeA: fc.boolean(),
    transposeB: fc.boolean(),
    storage,
    float32Result: fc.boolean(),
    seed,
  })

  it('multiplies matrices in every orientation, with both gradients', async () => {
    await checkProperty(
      cases,
      async ({ batch, m, k, n, transposeA, transposeB, storage, float32Result, seed }) => {
        const random = randomSource(seed)
        const a = randomOperand(random, [...batch, ...(transposeA ? [k, m] : [m, k])], storage)
        const b = randomOperand(random, [...batch, ...(transposeB ? [n, k] : [k, n])], storage)
        const dtype = float32Result ? 'float32' : storage
        const dy = stored(random.array([...batch, m, n]), storage)
        const { y, gradients } = await differentiate(
          { a, b },
          ({ a, b }) => matmul(a, b, { transposeA, transposeB, dtype }),
          dy,
        )
        const left = transposeA ? elementwise.transpose(a[0]) : a[0]
        const right = transposeB ? elementwise.transpose(b[0]) : b[0]
        expect(y.shape).toEqual(dy.shape)
        expectClose(y, elementwise.matmul(left, right), ROUNDED_ONCE[dtype], 'y', Math.sqrt(k))
        const dLeft = elementwise.matmul(dy, elementwise.transpose(right))
        const dRight = elementwise.matmul(elementwise.transpose(left), dy)
        const da = transposeA ? elementwise.transpose(dLeft) : dLeft
        const db = transposeB ? elementwise.transpose(dRight) : dRight
        expectClose(gradients.a, da, ROUNDED_ONCE[storage], 'da', Math.sqrt(n))
        expectClose(gradients.b, db, ROUNDED_ONCE[storage], 'db', Math.sqrt(m))
      },
      60,
    )
  })

  it('gives zeros where nothing is summed', async () => {
    const a = randomOperand(randomSource(1), [3, 0])
    const b = randomOperand(randomSource(1), [0, 5])
    const y = await evaluate({ a, b }, ({ a, b }) => matmul(a, b))
    expect([...y.data]).toEqual(new Array(15).fill(0))
  })
})
