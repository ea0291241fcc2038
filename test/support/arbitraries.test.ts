import { expect, it } from 'vitest'
import { randomSource } from '../reference/array.js'
import { checkProperty, extentOrNone, paddingMask, scoresOf, softCase, sparseCase } from './arbitraries.js'

it('a failing property names its seed and its smallest case', async () => {
  const failing = checkProperty(extentOrNone(64), (value) => {
    expect(value).toBeLessThan(31)
  })
  await expect(failing).rejects.toThrow(/seed: \d+[\s\S]*Counterexample: \[31\]/)
})

it('extents reach none, one and their largest', async () => {
  const seen = new Set<number>()
  await checkProperty(extentOrNone(13), (value) => void seen.add(value), 300)
  expect([...seen].every((value) => value >= 0 && value <= 13)).toBe(true)
  expect([0, 1, 7, 13].every((value) => seen.has(value))).toBe(true)
})

it('sparse cases keep k within the experts and the capacity within the tokens', async () => {
  await checkProperty(
    sparseCase,
    ({ k, experts, capacity, tokens }) => {
      expect(k).toBeLessThanOrEqual(experts)
      expect(capacity).toBeLessThanOrEqual(tokens)
    },
    200,
  )
})

it('masks fit the tokens, and whole sequences are padded as a whole', async () => {
  await checkProperty(
    softCase,
    (example) => {
      const mask = paddingMask(example)
      expect(mask === undefined).toBe(example.padding === 'none')
      expect(mask?.length ?? 0).toBe(mask ? example.batch * example.tokens : 0)
      if (example.padding === 'whole-sequences') {
        mask?.forEach((valid, i) => {
          expect(valid).toBe(mask[i - (i % example.tokens)])
        })
      }
    },
    100,
  )
})

it('scores have the kind that was asked for', () => {
  const values = (kind: 'ties' | 'nan' | 'equal'): number[] => [
    ...scoresOf(kind, [100], randomSource(1)).data,
  ]
  expect(new Set(values('ties')).size).toBe(5)
  expect(values('nan').some(Number.isNaN)).toBe(true)
  expect(new Set(values('equal'))).toEqual(new Set([0.5]))
})
