import { describe, expect, it } from 'vitest'
import { type RouterConfig, SparseMoE, type SparseRouterConfig } from '../../lib/index.js'
import { fromArray, generate, randomSource, type Ref, reshape } from '../reference/array.js'
import {
  sparseMoE,
  sparseMoEBackward,
  type SparseMoEOptions,
  type SparseMoEWeights,
} from '../reference/sparse-moe.js'
import { sparsePlan, type SparsePlanOptions } from '../reference/sparse-transport.js'
import { checkProperty, extent, seed } from '../support/arbitraries.js'
import { expectClose, expectNoTensorsLeftBehind } from '../support/tensors.js'
import { differentiateLayer, inGroups, layerWith, randomWeights } from './layers.js'
import fc from 'fast-check'

expectNoTensorsLeftBehind()

const NO_LOSSES = { importanceLossWeight: 0, loadLossWeight: 0 } as const

/** Two identical experts in the gate network and some identical tokens: exact ties. */
function withTies(
  x: Ref,
  weights: SparseMoEWeights,
): { readonly x: Ref; readonly weights: SparseMoEWeights } {
  const [, tokens, dim] = x.shape
  const [, experts] = weights.router.shape
  const router = generate(weights.router.shape, (i) => {
    const e = i % experts
    return weights.router.data[i - e + (e >= experts / 2 ? e - Math.ceil(experts / 2) : e)]
  })
  const tied = generate(x.shape, (i) => {
    const sequence = Math.floor(i / (tokens * dim))
    const token = Math.floor(i / dim) % tokens
    return x.data[(sequence * tokens + (token % Math.ceil(tokens / 2))) * dim + (i % dim)]
  })
  return { x: tied, weights: { ...weights, router } }
}

/** Whether the plan meets its constraints from the start: Adam then steps by the sign of rounding errors. */
function isSolvedAtStart(gates: Ref, { k, byRows = false }: SparsePlanOptions): boolean {
  const [tokens, experts] = gates.shape
  const plan = sparsePlan(gates, { k, byRows, iterations: 0 })
  const sums = new Float64Array(byRows ? experts : tokens)
  plan.data.forEach((mass, i) => (sums[byRows ? i % experts : Math.floor(i / experts)] += mass))
  const target = byRows ? tokens / experts : 1
  return sums.every((sum) => Math.abs(sum - target) < 1e-2)
}

/** Whether rounding cannot change who works on what; sums of all gates, say, are 1 but for rounding. */
function selectionIsStable(x: Ref, weights: SparseMoEWeights, options: SparseMoEOptions): boolean {
  const { plan } = options
  if (typeof plan === 'object') {
    const { groups } = sparseMoE(x, weights, { ...options, plan: 'softmax' })
    if (groups.some(({ scores }) => isSolvedAtStart(scores, plan))) return false
  }
  const selection = (router: Ref): string =>
    JSON.stringify(sparseMoE(x, { ...weights, router }, options).groups.map((group) => group.assignments))
  const chosen = selection(weights.router)
  const random = randomSource(1)
  return [1, 2, 3].every(() => {
    const shaken = generate(
      weights.router.shape,
      (i) => weights.router.data[i] * (1 + 1e-6 * random.normal()),
    )
    return selection(shaken) === chosen
  })
}

interface RouterCase {
  readonly config: SparseRouterConfig
  readonly oracle: (places: { tokens: number; experts: number }) => Omit<SparseMoEOptions, 'activation'>
}

/** Places of a buffer: the product with the factor, rounded up. */
const ceil = (tokens: number, experts: number, factor: number): number =>
  Math.min(tokens, Math.ceil((tokens * factor) / experts))

const ROUTERS: readonly RouterCase[] = [
  {
    config: {
      name: 'tokens-choice',
      k: 1,
      capacityFactor: 0.7,
      multipleOf: 1,
      ...NO_LOSSES,
      zLossWeight: 0.1,
    },
    oracle: ({ tokens, experts }) => ({
      choice: 'tokens',
      k: 1,
      capacity: ceil(tokens, experts, 0.7),
      auxiliary: { z: 0.1 },
    }),
  },
  {
    config: {
      name: 'tokens-choice',
      capacityFactor: 1.05,
      multipleOf: 1,
      priority: 'max',
      importanceLossWeight: 0.5,
      gshardLossWeight: 0.25,
    },
    oracle: ({ tokens, experts }) => ({
      choice: 'tokens',
      k: 2,
      capacity: ceil(2 * tokens, experts, 1.05),
      priority: 'max-gate',
      auxiliary: { importance: 0.5, gshard: 0.25 },
    }),
  },
  {
    config: {
      name: 'tokens-choice',
      k: 2,
      capacityFactor: 0.5,
      priority: 'sum',
      renormalise: true,
      multipleOf: 1,
      ...NO_LOSSES,
    },
    oracle: ({ tokens, experts }) => ({
      choice: 'tokens',
      k: 2,
      capacity: ceil(2 * tokens, experts, 0.5),
      priority: 'sum-of-gates',
      renormalise: true,
    }),
  },
  {
    config: { name: 'tokens-choice', k: 2, dropless: true, ...NO_LOSSES },
    oracle: () => ({ choice: 'tokens', k: 2, capacity: Infinity }),
  },
  {
    config: { name: 'experts-choice', capacityFactor: 2, rounding: 'ceil' },
    oracle: ({ tokens, experts }) => ({ choice: 'experts', capacity: ceil(tokens, experts, 2) }),
  },
  {
    config: { name: 'sinkhorn-tokens-choice', k: 2, capacityFactor: 1, multipleOf: 1 },
    oracle: ({ tokens, experts }) => ({
      choice: 'tokens',
      k: 2,
      capacity: ceil(2 * tokens, experts, 1),
      plan: 'sinkhorn',
    }),
  },
  {
    config: { name: 'sinkhorn-experts-choice', rounding: 'ceil' },
    oracle: ({ tokens, experts }) => ({
      choice: 'experts',
      capacity: ceil(tokens, experts, 1),
      plan: 'sinkhorn',
    }),
  },
  {
    config: { name: 'sinkhorn-experts-choice', rounding: 'ceil', gates: 'plan', iterations: 100 },
    oracle: ({ tokens, experts }) => ({
      choice: 'experts',
      capacity: ceil(tokens, experts, 1),
      plan: 'sinkhorn',
      sinkhornIterations: 100,
      gatesFromPlan: true,
    }),
  },
  {
    config: { name: 'sparsity-constrained', rounding: 'ceil' },
    oracle: ({ tokens, experts }) => {
      const capacity = ceil(tokens, experts, 1)
      return { choice: 'experts', capacity, plan: { k: capacity } }
    },
  },
  {
    config: { name: 'sparsity-constrained', rounding: 'ceil', constrained: false, iterations: 5 },
    oracle: ({ tokens, experts }) => ({
      choice: 'experts',
      capacity: ceil(tokens, experts, 1),
      plan: { k: Infinity, iterations: 5 },
    }),
  },
  {
    config: { name: 'sparsity-constrained-tokens-choice', k: 2, capacityFactor: 1.5, multipleOf: 1 },
    oracle: ({ tokens, experts }) => ({
      choice: 'tokens',
      k: 2,
      capacity: ceil(2 * tokens, experts, 1.5),
      plan: { k: 2, byRows: true },
    }),
  },
]

describe.each(ROUTERS.map((router, index) => ({ ...router, index })))(
  '$config.name ($index) against the oracle',
  ({ config, oracle }) => {
    const routedCase = fc.record({
      batch: fc.integer({ min: 1, max: 3 }),
      tokens: extent(23),
      groupsPerBatch: fc.constantFrom(1, 0),
      dim: extent(13),
      experts: fc.integer({ min: 2, max: 11 }),
      ties: fc.boolean(),
      seed,
    })

    it('gives its outputs, losses and every gradient', async () => {
      await checkProperty(
        routedCase,
        async ({ batch, tokens, groupsPerBatch, dim, experts, ties, seed }) => {
          const random = randomSource(seed)
          const drawn = {
            x: random.array([batch, tokens, dim]),
            weights: randomWeights(random, experts, dim, 5),
          }
          // A plan's equal entries are computed in different lanes; ties of gates alone are exact.
          const exactTies = ties && ['tokens-choice', 'experts-choice'].includes(config.name)
          const { x, weights } = exactTies ? withTies(drawn.x, drawn.weights) : drawn
          const dy = random.array([batch, tokens, dim])
          const groupSize = groupsPerBatch === 1 ? batch * tokens : tokens
          const options: SparseMoEOptions = {
            ...oracle({ tokens: groupSize, experts }),
            activation: 'gelu_tanh',
          }
          fc.pre(exactTies || selectionIsStable(inGroups(x, groupSize), weights, options))
          const layer = layerWith(weights, { router: config, groupSize })
          const { y, auxiliaryLoss, gradients } = await differentiateLayer(layer, x, dy)
          const grouped = inGroups(x, groupSize)
          const expected = sparseMoE(grouped, weights, options)
          expectClose(y, reshape(expected.y, ...x.shape), 2e-5, 'y', 1)
          expect(Math.abs(auxiliaryLoss - expected.auxiliaryLoss)).toBeLessThanOrEqual(2e-5)
          const wanted = sparseMoEBackward(grouped, weights, inGroups(dy, groupSize), options, 1)
          const size = Math.sqrt(batch * tokens)
          for (const name of ['dx', 'dRouter', 'dw1', 'db1', 'dw2', 'db2'] as const) {
            const reference = fromArray(wanted[name].data, gradients[name].shape)
            expectClose(gradients[name], reference, 3e-5, name, name === 'dx' ? 1 : size)
          }
        },
        30,
      )
    })
  },
)

describe('every router by index', () => {
  it('is known by its name', () => {
    for (const { config } of ROUTERS) {
      const router: RouterConfig['name'] = config.name
      const layer = new SparseMoE({ dim: 4, hiddenDim: 4, numExperts: 2, router: config })
      expect(layer.router.method).toBe(router)
      expect([...layer.parameters().keys()][0]).toBe('Router/dense/kernel')
      layer.dispose()
    }
  })
})
