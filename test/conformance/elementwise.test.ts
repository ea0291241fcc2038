import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { activate, add, dropout, multiply, scale } from '../../lib/index.js'
import { Random } from '../../lib/core/random.js'
import { generate, map, multiply as product, randomSource } from '../reference/array.js'
import * as reference from '../reference/elementwise.js'
import { activate as activated, activationDerivative } from '../reference/gelu.js'
import { checkProperty, extent, extentOrNone, seed, storage, stored } from '../support/arbitraries.js'
import {
  differentiate,
  expectClose,
  expectNoTensorsLeftBehind,
  randomOperand,
  ROUNDED_ONCE,
  ROUNDED_TWICE,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

/** Any shape of rank 1 to 4; an axis may be empty. */
const shape = fc.array(extentOrNone(17), { minLength: 1, maxLength: 4 })

const shapeCase = fc.record({ shape, storage, seed })

describe('add', () => {
  const addCase = fc.record({
    leading: fc.array(extentOrNone(11), { maxLength: 2 }),
    end: fc.array(extent(17), { minLength: 1, maxLength: 2 }),
    whole: fc.boolean(),
    alpha: fc.constantFrom(1, -1, 0.5, 0.3),
    storageOfA: storage,
    storageOfB: storage,
    seed,
  })

  it('adds alpha times a tensor, or the end of one, with both gradients', async () => {
    await checkProperty(addCase, async ({ leading, end, whole, alpha, storageOfA, storageOfB, seed }) => {
      const random = randomSource(seed)
      const shapeOfA = [...leading, ...end]
      const a = randomOperand(random, shapeOfA, storageOfA)
      const b = randomOperand(random, whole ? shapeOfA : end, storageOfB)
      const dy = stored(random.array(shapeOfA), storageOfA)
      const { y, gradients } = await differentiate({ a, b }, ({ a, b }) => add(a, b, alpha), dy)
      expectClose(y, reference.addEnd(a[0], b[0], alpha), ROUNDED_ONCE[storageOfA], 'y')
      expectClose(gradients.a, dy, 0, 'da')
      const db = reference.addEndBackward(dy, b[0].shape, alpha)
      const tolerance = storageOfB === 'float32' ? 2e-5 : ROUNDED_ONCE.bfloat16
      expectClose(gradients.b, db, tolerance, 'db')
    })
  })
})

describe('multiply', () => {
  it('multiplies elements, with both gradients', async () => {
    await checkProperty(shapeCase, async ({ shape, storage, seed }) => {
      const random = randomSource(seed)
      const a = randomOperand(random, shape, storage)
      const b = randomOperand(random, shape, storage)
      const dy = stored(random.array(shape), storage)
      const { y, gradients } = await differentiate({ a, b }, ({ a, b }) => multiply(a, b), dy)
      expectClose(y, product(a[0], b[0]), ROUNDED_ONCE[storage], 'y')
      expectClose(gradients.a, product(dy, b[0]), ROUNDED_ONCE[storage], 'da')
      expectClose(gradients.b, product(dy, a[0]), ROUNDED_ONCE[storage], 'db')
    })
  })

  it('adds both gradients where the operands are one tensor', async () => {
    const x = randomOperand(randomSource(1), [7, 5])
    const dy = randomSource(2).array([7, 5])
    const { gradients } = await differentiate({ x }, ({ x }) => multiply(x, x), dy)
    expectClose(
      gradients.x,
      map(product(dy, x[0]), (value) => 2 * value),
      1e-6,
      'dx',
    )
  })
})

describe('scale', () => {
  it('multiplies with a number', async () => {
    const cases = fc.record({ shape, storage, seed, factor: fc.constantFrom(0, 1, -3, 0.1, 1e4) })
    await checkProperty(cases, async ({ shape, storage, seed, factor }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const dy = stored(random.array(shape), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => scale(x, factor), dy)
      expectClose(
        y,
        map(x[0], (value) => factor * value),
        ROUNDED_ONCE[storage],
        'y',
      )
      expectClose(
        gradients.x,
        map(dy, (value) => factor * value),
        ROUNDED_ONCE[storage],
        'dx',
      )
    })
  })

  it('multiplies with a tensor of one element, with the gradient of that element', async () => {
    await checkProperty(shapeCase, async ({ shape, storage, seed }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const factor = randomOperand(random, seed % 2 === 0 ? [] : [1])
      const dy = stored(random.array(shape), storage)
      const { y, gradients } = await differentiate({ x, factor }, ({ x, factor }) => scale(x, factor), dy)
      const number = factor[0].data[0]
      expectClose(
        y,
        map(x[0], (value) => number * value),
        ROUNDED_ONCE[storage],
        'y',
      )
      expectClose(
        gradients.x,
        map(dy, (value) => number * value),
        ROUNDED_ONCE[storage],
        'dx',
      )
      const terms = product(dy, x[0]).data
      const size = terms.reduce((total, term) => total + Math.abs(term), 0)
      const dFactor = generate(factor[0].shape, () => terms.reduce((total, term) => total + term, 0))
      expectClose(gradients.factor, dFactor, ROUNDED_ONCE[storage], 'dFactor', size)
    })
  })
})

describe('activate', () => {
  const names = { gelu: 'gelu_tanh', 'gelu-erf': 'gelu_erf', none: 'none' } as const

  it.each(['gelu', 'gelu-erf', 'none'] as const)('%s, with its gradient', async (activation) => {
    await checkProperty(shapeCase, async ({ shape, storage, seed }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage, 2)
      const dy = stored(random.array(shape), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => activate(x, activation), dy)
      const name = names[activation]
      expectClose(
        y,
        map(x[0], (value) => activated(name, value)),
        ROUNDED_ONCE[storage],
        'y',
      )
      const dx = map(x[0], (value, i) => dy.data[i] * activationDerivative(name, value))
      expectClose(gradients.x, dx, ROUNDED_ONCE[storage], 'dx')
    })
  })

  it('tanh, with its gradient', async () => {
    await checkProperty(shapeCase, async ({ shape, storage, seed }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage, 2)
      const dy = stored(random.array(shape), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => activate(x, 'tanh'), dy)
      expectClose(y, map(x[0], Math.tanh), ROUNDED_ONCE[storage], 'y')
      const dx = map(x[0], (value, i) => dy.data[i] * (1 - Math.tanh(value) ** 2))
      expectClose(gradients.x, dx, ROUNDED_ONCE[storage], 'dx')
    })
  })

  it.each(['gelu', 'gelu-erf', 'tanh'] as const)('%s stays finite far out', async (activation) => {
    const x = generate([8], (i) => [-1e30, -1e4, -100, -12, 12, 100, 1e4, 1e30][i]).data.map(Math.fround)
    const operand = [{ shape: [8], data: x }, 'float32'] as const
    const { y, gradients } = await differentiate(
      { operand },
      ({ operand }) => activate(operand, activation),
      generate([8], () => 1),
    )
    const saturated = activation === 'tanh' ? [-1, -1, -1, -1, 1, 1, 1, 1] : [0, 0, 0, 0, ...x.slice(4)]
    const slope = activation === 'tanh' ? 0 : 1
    for (let i = 0; i < 8; i++) {
      expect(y.data[i]).toBeCloseTo(saturated[i], 6)
      expect(gradients.operand.data[i]).toBeCloseTo(i < 4 ? 0 : slope, 6)
    }
  })
})

describe('dropout', () => {
  const cases = fc.record({ shape, storage, seed, rate: fc.constantFrom(0.1, 0.5, 0.9) })

  it('drops the elements that the counter-based generator names, the same ones in the gradient', async () => {
    await checkProperty(cases, async ({ shape, storage, seed, rate }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const dy = stored(random.array(shape), storage)
      const key = { seed: seed * 2 ** 20 + 7, stream: seed % 1000 }
      const { y, gradients } = await differentiate({ x }, ({ x }) => dropout(x, rate, key), dy)
      const draws = new Random(key.seed, key.stream)
      const factor = generate(shape, (i) => (draws.uniform(i) < rate ? 0 : 1 / (1 - rate)))
      expectClose(y, product(x[0], factor), ROUNDED_ONCE[storage], 'y')
      expectClose(gradients.x, product(dy, factor), ROUNDED_ONCE[storage], 'dx')
    })
  })
})

it('gradients of a chain of elementwise operations agree with bfloat16 storage', async () => {
  await checkProperty(shapeCase, async ({ shape, storage, seed }) => {
    const random = randomSource(seed)
    const x = randomOperand(random, shape, storage)
    const dy = stored(random.array(shape), storage)
    const { y, gradients } = await differentiate({ x }, ({ x }) => scale(activate(x, 'gelu'), 0.5), dy)
    expectClose(
      y,
      map(x[0], (value) => 0.5 * activated('gelu_tanh', value)),
      ROUNDED_TWICE[storage],
      'y',
    )
    const dx = map(x[0], (value, i) => 0.5 * dy.data[i] * activationDerivative('gelu_tanh', value))
    expectClose(gradients.x, dx, ROUNDED_TWICE[storage], 'dx')
  })
})
