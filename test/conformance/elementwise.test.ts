import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  activate,
  add,
  broadcast,
  cast,
  concat,
  dropout,
  mean,
  multiply,
  patchify,
  reshape,
  scale,
  slice,
  sum,
  transpose,
} from '../../lib/index.js'
import { Random } from '../../lib/core/random.js'
import {
  elementCount,
  generate,
  map,
  multiply as product,
  randomSource,
  reshape as seenAs,
  toBfloat16,
} from '../reference/array.js'
import * as reference from '../reference/elementwise.js'
import { patchify as patchesOf, patchifyBackward } from '../reference/embeddings.js'
import { activate as activated, activationDerivative } from '../reference/gelu.js'
import { checkProperty, extent, extentOrNone, seed, storage, stored } from '../support/arbitraries.js'
import {
  differentiate,
  evaluate,
  EXACT,
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

/** A shape and one of its axes. */
const axisCase = fc
  .record({ shape, storage, seed })
  .chain((example) => fc.nat({ max: example.shape.length - 1 }).map((axis) => ({ ...example, axis })))

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

describe('reductions', () => {
  it('sum and mean over an axis', async () => {
    await checkProperty(axisCase, async ({ shape, storage, seed, axis }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const rest = shape.filter((_, i) => i !== axis)
      const dy = stored(random.array(rest), storage)
      const size = Math.sqrt(shape[axis])
      const summed = await differentiate({ x }, ({ x }) => sum(x, axis), dy)
      expectClose(summed.y, reference.sumAxis(x[0], axis), ROUNDED_ONCE[storage], 'sum', size)
      expectClose(summed.gradients.x, reference.repeatAxis(dy, axis, shape[axis]), 0, 'dx of sum')
      if (shape[axis] === 0) return
      const averaged = await differentiate({ x }, ({ x }) => mean(x, axis), dy)
      const weight = 1 / shape[axis]
      expectClose(
        averaged.y,
        reference.sumAxis(x[0], axis, weight),
        ROUNDED_ONCE[storage],
        'mean',
        size * weight,
      )
      const dx = reference.repeatAxis(dy, axis, shape[axis], weight)
      expectClose(averaged.gradients.x, dx, ROUNDED_ONCE[storage], 'dx of mean')
    })
  })

  it('sum and mean of everything, as a float32 scalar', async () => {
    await checkProperty(shapeCase, async ({ shape, storage, seed }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const count = elementCount(shape)
      const dy = generate([], () => 3)
      const total = generate([], () => x[0].data.reduce((a, b) => a + b, 0))
      const summed = await differentiate({ x }, ({ x }) => sum(x), dy)
      expect(summed.y.shape).toEqual([])
      expectClose(summed.y, total, 2e-6, 'sum', Math.sqrt(count))
      expectClose(
        summed.gradients.x,
        map(x[0], () => 3),
        0,
        'dx of sum',
      )
      if (count === 0) return
      const averaged = await differentiate({ x }, ({ x }) => mean(x), dy)
      expectClose(
        averaged.y,
        map(total, (value) => value / count),
        2e-6,
        'mean',
        1 / Math.sqrt(count),
      )
      expectClose(
        averaged.gradients.x,
        map(x[0], () => 3 / count),
        ROUNDED_ONCE[storage],
        'dx of mean',
      )
    })
  })

  it('the sum of many elements keeps the precision of float32', async () => {
    const x = [generate([300_001], (i) => Math.fround(0.1 + (i % 7) * 0.01)), 'float32'] as const
    const exact = x[0].data.reduce((a, b) => a + b, 0)
    const y = await evaluate({ x }, ({ x }) => sum(x))
    expect(Math.abs(y.data[0] / exact - 1)).toBeLessThan(1e-5)
  })
})

describe('movement of elements', () => {
  it('slice', async () => {
    await checkProperty(axisCase, async ({ shape, storage, seed, axis }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const start = random.integer(0, shape[axis])
      const end = random.integer(start, shape[axis])
      const dy = stored(random.array(shape.map((n, i) => (i === axis ? end - start : n))), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => slice(x, axis, start, end), dy)
      expect(y.shape).toEqual(dy.shape)
      expectClose(y, reference.slice(x[0], axis, start, end), EXACT[storage], 'y')
      expectClose(gradients.x, reference.placed(dy, shape, axis, start), EXACT[storage], 'dx')
    })
  })

  it('concat', async () => {
    await checkProperty(axisCase, async ({ shape, storage, seed, axis }) => {
      const random = randomSource(seed)
      const lengths = [shape[axis], random.integer(0, 5), random.integer(1, 9)]
      const withLength = (length: number): number[] => shape.map((n, i) => (i === axis ? length : n))
      const [a, b, c] = lengths.map((length) => randomOperand(random, withLength(length), storage))
      const whole = withLength(lengths[0] + lengths[1] + lengths[2])
      const dy = stored(random.array(whole), storage)
      const { y, gradients } = await differentiate({ a, b, c }, ({ a, b, c }) => concat([a, b, c], axis), dy)
      let start = 0
      for (const [name, [part]] of Object.entries({ a, b, c })) {
        const end = start + part.shape[axis]
        expectClose(reference.slice(y, axis, start, end), part, 0, `${name} in y`)
        const gradient = gradients[name as 'a' | 'b' | 'c']
        expectClose(gradient, reference.slice(dy, axis, start, end), 0, `gradient of ${name}`)
        start = end
      }
      expect(y.shape).toEqual(whole)
    })
  })

  it('broadcast along a new axis', async () => {
    const cases = fc
      .record({ shape: fc.array(extentOrNone(11), { maxLength: 3 }), storage, seed, count: extentOrNone(13) })
      .chain((example) => fc.nat({ max: example.shape.length }).map((axis) => ({ ...example, axis })))
    await checkProperty(cases, async ({ shape, storage, seed, count, axis }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const dy = stored(random.array([...shape.slice(0, axis), count, ...shape.slice(axis)]), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => broadcast(x, axis, count), dy)
      expectClose(y, reference.repeatAxis(x[0], axis, count), 0, 'y')
      expectClose(gradients.x, reference.sumAxis(dy, axis), ROUNDED_ONCE[storage], 'dx', Math.sqrt(count))
    })
  })

  it('transpose', async () => {
    const cases = fc.record({
      shape: fc.array(extentOrNone(67), { minLength: 2, maxLength: 3 }),
      storage,
      seed,
    })
    await checkProperty(cases, async ({ shape, storage, seed }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const dy = reference.transpose(stored(random.array(shape), storage))
      const { y, gradients } = await differentiate({ x }, ({ x }) => transpose(x), dy)
      expect(y.shape).toEqual(dy.shape)
      expectClose(y, reference.transpose(x[0]), 0, 'y')
      expectClose(gradients.x, reference.transpose(dy), 0, 'dx')
    })
  })

  it('reshape', async () => {
    await checkProperty(shapeCase, async ({ shape, storage, seed }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape, storage)
      const flat = [elementCount(shape)]
      const dy = stored(random.array(flat), storage)
      const { y, gradients } = await differentiate({ x }, ({ x }) => reshape(x, flat), dy)
      expectClose(y, seenAs(x[0], ...flat), 0, 'y')
      expectClose(gradients.x, seenAs(dy, ...shape), 0, 'dx')
    })
  })

  it('patchify', async () => {
    const cases = fc.record({
      batch: extentOrNone(3),
      rows: extent(5),
      columns: extent(5),
      patch: extent(7),
      channels: extent(5),
      storage,
      toStorage: storage,
      seed,
    })
    await checkProperty(
      cases,
      async ({ batch, rows, columns, patch, channels, storage, toStorage, seed }) => {
        const random = randomSource(seed)
        const shape = [batch, rows * patch, columns * patch, channels]
        const images = randomOperand(random, shape, storage)
        const dy = stored(random.array([batch, rows * columns, patch * patch * channels]), toStorage)
        const { y, gradients } = await differentiate(
          { images },
          ({ images }) => patchify(images, patch, toStorage),
          dy,
        )
        expect(y.shape).toEqual(dy.shape)
        expectClose(y, stored(patchesOf(images[0], patch), toStorage), 0, 'patches')
        expectClose(gradients.images, stored(patchifyBackward(dy, shape, patch), storage), 0, 'dImages')
      },
    )
  })
})

describe('cast', () => {
  it('rounds to the nearest bfloat16, ties to even, and widens without loss', async () => {
    await checkProperty(shapeCase, async ({ shape, seed }) => {
      const random = randomSource(seed)
      const x = randomOperand(random, shape)
      const dy = toBfloat16(random.array(shape))
      const narrowed = await differentiate({ x }, ({ x }) => cast(x, 'bfloat16'), dy)
      expectClose(narrowed.y, toBfloat16(x[0]), 0, 'y')
      expectClose(narrowed.gradients.x, dy, 0, 'dx')
      const widened = await differentiate(
        { x: [toBfloat16(x[0]), 'bfloat16'] },
        ({ x }) => cast(x, 'float32'),
        x[0],
      )
      expectClose(widened.y, toBfloat16(x[0]), 0, 'y')
      expectClose(widened.gradients.x, toBfloat16(x[0]), 0, 'dx')
    })
  })

  it('rounds ties to even and keeps what is not finite', async () => {
    const x = Float32Array.of(
      1 + 2 ** -8,
      1 + 3 * 2 ** -8,
      -1 - 2 ** -8,
      3.4e38,
      Infinity,
      -Infinity,
      NaN,
      -0,
    )
    const wanted = [1, 1 + 2 ** -6, -1, Infinity, Infinity, -Infinity, NaN, -0]
    const y = await evaluate({ x: [{ shape: [8], data: Float64Array.from(x) }, 'float32'] }, ({ x }) =>
      cast(x, 'bfloat16'),
    )
    expect([...y.data]).toEqual(wanted)
  })

  it('between integers and floats', async () => {
    const x = [generate([5], (i) => [-3, -0, 0, 7, 2 ** 24][i]), 'float32'] as const
    const y = await evaluate({ x }, ({ x }) => {
      const integers = cast(x, 'int32')
      const floats = cast(integers, 'float32')
      integers.dispose()
      return floats
    })
    expect([...y.data]).toEqual([-3, 0, 0, 7, 2 ** 24])
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
