import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { broadcast, cast, concat, mean, patchify, reshape, slice, sum, transpose } from '../../lib/index.js'
import {
  elementCount,
  generate,
  map,
  randomSource,
  reshape as seenAs,
  toBfloat16,
} from '../reference/array.js'
import * as reference from '../reference/elementwise.js'
import { patchify as patchesOf, patchifyBackward } from '../reference/embeddings.js'
import { checkProperty, extent, extentOrNone, seed, storage, stored } from '../support/arbitraries.js'
import {
  differentiate,
  evaluate,
  EXACT,
  expectClose,
  expectNoTensorsLeftBehind,
  randomOperand,
  ROUNDED_ONCE,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

/** Any shape of rank 1 to 4; an axis may be empty. */
const shape = fc.array(extentOrNone(17), { minLength: 1, maxLength: 4 })

const shapeCase = fc.record({ shape, storage, seed })

/** A shape and one of its axes. */
const axisCase = fc
  .record({ shape, storage, seed })
  .chain((example) => fc.nat({ max: example.shape.length - 1 }).map((axis) => ({ ...example, axis })))

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
