import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Random } from '../../lib/core/random.js'
import { attention } from '../../lib/index.js'
import { generate, map, randomSource, type Ref } from '../reference/array.js'
import * as reference from '../reference/attention.js'
import { attentionCase, checkProperty, stored } from '../support/arbitraries.js'
import {
  differentiate,
  expectClose,
  expectNoTensorsLeftBehind,
  randomOperand,
  ROUNDED_TWICE,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

const scaled = (array: Ref, factor: number): Ref => map(array, (value) => factor * value)

const largest = (array: Ref): number => array.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0)

/** About the largest inner product of a row of a and a row of b, when their elements have random signs. */
const rowProducts = (a: Ref, b: Ref): number =>
  (largest(a) * largest(b) * Math.sqrt(a.shape[a.shape.length - 1])) / 2

describe('attention', () => {
  const cases = fc.record({
    example: attentionCase,
    dropoutRate: fc.constantFrom(0, 0, 0.25),
    // Factor of the default scale.
    sharpness: fc.constantFrom(1, 1, 4, -1),
  })

  it('averages the values, with every gradient', async () => {
    await checkProperty(
      cases,
      async ({ example, dropoutRate, sharpness }) => {
        const { batch, queries, keys, heads, headDim, storage, seed } = example
        const random = randomSource(seed)
        const q = randomOperand(random, [batch, queries, heads, headDim], storage)
        const k = randomOperand(random, [batch, keys, heads, headDim], storage)
        const v = randomOperand(random, [batch, keys, heads, headDim], storage)
        const dy = stored(random.array(q[0].shape), storage)
        const key = { seed, stream: 3 }
        const scale = sharpness === 1 ? {} : { scale: sharpness / Math.sqrt(headDim) }
        const { y, gradients } = await differentiate(
          { q, k, v },
          ({ q, k, v }) => attention(q, k, v, { ...scale, dropoutRate, key }),
          dy,
        )
        const draws = new Random(seed, 3)
        const dropout = generate([batch, heads, queries, keys], (i) =>
          draws.uniform(i) < dropoutRate ? 0 : 1 / (1 - dropoutRate),
        )
        const sharpQ = scaled(q[0], sharpness)
        expect(y.shape).toEqual(q[0].shape)
        expectClose(y, reference.attention(sharpQ, k[0], v[0], dropout), ROUNDED_TWICE[storage], 'o', 0.1)
        const wanted = reference.attentionBackward(sharpQ, k[0], v[0], dy, dropout)
        const heaviest = largest(reference.attentionWeights(sharpQ, k[0]))
        // A score's gradient is a difference of terms dy·v; it is as exact as they are, however small it comes out.
        const term = (Math.abs(sharpness) / Math.sqrt(headDim)) * rowProducts(dy, v[0])
        expectClose(
          gradients.q,
          scaled(wanted.dq, sharpness),
          ROUNDED_TWICE[storage],
          'dq',
          term * largest(k[0]),
        )
        expectClose(gradients.k, wanted.dk, ROUNDED_TWICE[storage], 'dk', term * largest(q[0]))
        expectClose(gradients.v, wanted.dv, ROUNDED_TWICE[storage], 'dv', heaviest * largest(dy))
      },
      50,
    )
  })

  it('stays finite where scores are far apart', async () => {
    const random = randomSource(4)
    const q = randomOperand(random, [2, 5, 2, 8], 'float32', 300)
    const k = randomOperand(random, [2, 9, 2, 8], 'float32', 300)
    const v = randomOperand(random, [2, 9, 2, 8])
    const dy = random.array(q[0].shape)
    const { y, gradients } = await differentiate({ q, k, v }, ({ q, k, v }) => attention(q, k, v), dy)
    expectClose(y, reference.attention(q[0], k[0], v[0]), 1e-3, 'o')
    for (const gradient of Object.values(gradients)) {
      expect(gradient.data.every(Number.isFinite)).toBe(true)
    }
  })

  it('agrees with the oracle where the keys need several blocks', async () => {
    const random = randomSource(8)
    for (const storage of ['float32', 'bfloat16'] as const) {
      const q = randomOperand(random, [1, 131, 2, 64], storage)
      const k = randomOperand(random, [1, 197, 2, 64], storage)
      const v = randomOperand(random, [1, 197, 2, 64], storage)
      const dy = stored(random.array(q[0].shape), storage)
      const { y, gradients } = await differentiate({ q, k, v }, ({ q, k, v }) => attention(q, k, v), dy)
      expectClose(y, reference.attention(q[0], k[0], v[0]), ROUNDED_TWICE[storage], 'o')
      const wanted = reference.attentionBackward(q[0], k[0], v[0], dy)
      expectClose(gradients.q, wanted.dq, ROUNDED_TWICE[storage], 'dq')
      expectClose(gradients.k, wanted.dk, ROUNDED_TWICE[storage], 'dk')
      expectClose(gradients.v, wanted.dv, ROUNDED_TWICE[storage], 'dv')
    }
  })

  it.each([192, 256])('takes heads of %i, with every gradient', async (headDim) => {
    const random = randomSource(headDim)
    for (const storage of ['float32', 'bfloat16'] as const) {
      const q = randomOperand(random, [1, 67, 2, headDim], storage)
      const k = randomOperand(random, [1, 83, 2, headDim], storage)
      const v = randomOperand(random, [1, 83, 2, headDim], storage)
      const dy = stored(random.array(q[0].shape), storage)
      const key = { seed: 5, stream: 6 }
      const dropoutRate = storage === 'float32' ? 0.25 : 0
      const draws = new Random(key.seed, key.stream)
      const dropout = generate([1, 2, 67, 83], (i) =>
        draws.uniform(i) < dropoutRate ? 0 : 1 / (1 - dropoutRate),
      )
      const { y, gradients } = await differentiate(
        { q, k, v },
        ({ q, k, v }) => attention(q, k, v, { dropoutRate, key }),
        dy,
      )
      expectClose(y, reference.attention(q[0], k[0], v[0], dropout), ROUNDED_TWICE[storage], 'o')
      const wanted = reference.attentionBackward(q[0], k[0], v[0], dy, dropout)
      expectClose(gradients.q, wanted.dq, ROUNDED_TWICE[storage], 'dq')
      expectClose(gradients.k, wanted.dk, ROUNDED_TWICE[storage], 'dk')
      expectClose(gradients.v, wanted.dv, ROUNDED_TWICE[storage], 'dv')
    }
  })

  it('gives the only value where there is one key', async () => {
    const random = randomSource(2)
    const q = randomOperand(random, [2, 3, 2, 5])
    const k = randomOperand(random, [2, 1, 2, 5])
    const v = randomOperand(random, [2, 1, 2, 5])
    const dy = random.array(q[0].shape)
    const { y, gradients } = await differentiate({ q, k, v }, ({ q, k, v }) => attention(q, k, v), dy)
    for (let b = 0; b < 2; b++) {
      for (let m = 0; m < 3; m++) {
        const row = y.data.subarray((b * 3 + m) * 10, (b * 3 + m + 1) * 10)
        expect([...row]).toEqual([...v[0].data.subarray(b * 10, (b + 1) * 10)])
      }
    }
    for (const gradient of [gradients.q, gradients.k]) {
      for (const value of gradient.data) expect(Math.abs(value)).toBeLessThan(1e-6)
    }
  })
})
