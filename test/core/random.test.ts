import { describe, expect, it } from 'vitest'
import { openDevice } from '../../lib/core/device.js'
import { Random, philox4x32, streamOf } from '../../lib/core/random.js'

describe('Philox4x32-10', () => {
  // The known answers published with the generator's reference implementation (Random123, kat_vectors).
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as [[number, number, number, number], [number, number], number[]][])(
    'counter %j key %j',
    (counter, key, expected) => {
      const words = new Uint32Array(4)
      philox4x32(counter, key, words)
      expect([...words]).toEqual(expected)
    },
  )

  it('agrees with 64-bit integer arithmetic on random blocks', () => {
    const MASK = 0xffffffffn
    const reference = (counter: bigint[], key: bigint[]): number[] => {
      let [a, b, c, d] = counter as [bigint, bigint, bigint, bigint]
      let [k, l] = key as [bigint, bigint]
      for (let round = 0; round < 10; round++) {
        const p = 0xd2511f53n * a
        const q = 0xcd9e8d57n * c
        ;[a, b, c, d] = [(q >> 32n) ^ b ^ k, q & MASK, (p >> 32n) ^ d ^ l, p & MASK]
        k = (k + 0x9e3779b9n) & MASK
        l = (l + 0xbb67ae85n) & MASK
      }
      return [a, b, c, d].map(Number)
    }
    const source = new Random(7, 9)
    const words = new Uint32Array(4)
    for (let trial = 0; trial < 200; trial++) {
      const draw = (lane: number) => source.uint32(trial * 6 + lane)
      const counter = [draw(0), draw(1), draw(2), draw(3)] as [number, number, number, number]
      const key = [draw(4), draw(5)] as [number, number]
      philox4x32(counter, key, words)
      expect([...words]).toEqual(reference(counter.map(BigInt), key.map(BigInt)))
    }
  })
})

describe('Random', () => {
  it('gives the same number for the same index in any order', () => {
    const forwards = Array.from({ length: 50 }, (_, index) => new Random(3, 1).uint32(index))
    const random = new Random(3, 1)
    for (let index = 49; index >= 0; index--) expect(random.uint32(index)).toBe(forwards[index])
  })

  it('gives the numbers that the native kernels give', () => {
    const device = openDevice('cpu')
    for (const [seed, stream] of [
      [7, 3],
      [2 ** 40 + 5, streamOf('augmentation', 9)],
    ]) {
      const random = new Random(seed, stream)
      const indices = [...Array(37).keys()]
      const uniform = [...device.uniform([37], { key: { seed, stream } }).dataSync()]
      expect(uniform).toEqual(indices.map((index) => random.uniform(index)))
      const normal = [...device.normal([37], { key: { seed, stream } }).dataSync()]
      for (const index of indices) expect(normal[index]).toBeCloseTo(random.normal(index), 5)
    }
  })

  it('differs between seeds, streams and the upper halves of seed and index', () => {
    const values = [
      new Random(3, 1).uint32(0),
      new Random(4, 1).uint32(0),
      new Random(3, 2).uint32(0),
      new Random(3 + 2 ** 32, 1).uint32(0),
      new Random(3, 1).uint32(4 * 2 ** 32),
    ]
    expect(new Set(values).size).toBe(values.length)
  })

  it('is uniform in [0, 1) and normal with mean 0 and variance 1', () => {
    const random = new Random(11, streamOf('shuffle', 5))
    const count = 40_000
    let sum = 0
    let normalSum = 0
    let normalSquares = 0
    let beyondTwo = 0
    for (let index = 0; index < count; index++) {
      const value = random.uniform(index)
      expect(value >= 0 && value < 1).toBe(true)
      sum += value
      const normal = random.normal(index)
      normalSum += normal
      normalSquares += normal * normal
      if (Math.abs(normal) > 2) beyondTwo++
    }
    // Five standard errors of each estimate.
    expect(Math.abs(sum / count - 0.5)).toBeLessThan(5 * Math.sqrt(1 / 12 / count))
    expect(Math.abs(normalSum / count)).toBeLessThan(5 / Math.sqrt(count))
    expect(Math.abs(normalSquares / count - 1)).toBeLessThan(5 * Math.sqrt(2 / count))
    expect(Math.abs(beyondTwo / count - 0.0455)).toBeLessThan(5 * Math.sqrt(0.0455 / count))
  })

  it('permutes: every position once, orders spread evenly', () => {
    expect([...new Random(1, 2).permutation(1000)].sort((a, b) => a - b)).toEqual([...Array(1000).keys()])
    const seen = new Map<string, number>()
    for (let seed = 0; seed < 2400; seed++) {
      const order = new Random(seed, 0).permutation(4).join()
      seen.set(order, (seen.get(order) ?? 0) + 1)
    }
    expect(seen.size).toBe(24)
    for (const times of seen.values()) expect(Math.abs(times - 100)).toBeLessThan(50)
    expect([...new Random(1, 2).permutation(0)]).toEqual([])
  })

  it.each([-1, 1.5, Number.NaN, 2 ** 53])('refuses the seed %d', (seed) => {
    expect(() => new Random(seed, 0)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
  })

  it('refuses streams and counters out of range', () => {
    expect(() => new Random(0, 2 ** 32)).toThrow(/stream/)
    expect(() => streamOf('shuffle', 2 ** 24)).toThrow(/counter/)
  })
})
