/** The systems that the study compares: one model, one number of steps, one option changed. */
import {
  expertsChoice,
  type RouterConfig,
  type RouterName,
  sinkhornExpertsChoice,
  sinkhornTokensChoice,
  sparsityConstrained,
  tokensChoice,
} from '../../lib/index.js'

/** A system of the study. */
export interface System {
  readonly name: string
  readonly router: 'dense' | RouterName | RouterConfig
  /** Places in buffers, or slots, for each token: the experts' work, where a dense MLP does 1. */
  readonly placesPerToken: number
}

const exact = { rounding: 'round', multipleOf: 1 } as const

/** With k choices a token and one place a token, the capacity factor of Tokens Choice is 1 / k. */
export const SYSTEMS: readonly System[] = [
  { name: 'dense', router: 'dense', placesPerToken: 1 },
  { name: 'soft', router: 'soft', placesPerToken: 1 },
  { name: 'soft-uniform', router: 'soft-uniform', placesPerToken: 1 },
  { name: 'uniform-soft', router: 'uniform-soft', placesPerToken: 1 },
  { name: 'uniform', router: 'uniform', placesPerToken: 1 },
  { name: 'identity', router: 'identity', placesPerToken: 1 },
  {
    name: 'tokens-choice-k1',
    router: tokensChoice({ ...exact, k: 1, capacityFactor: 1 }),
    placesPerToken: 1,
  },
  {
    name: 'tokens-choice-k1-bpr',
    router: tokensChoice({ ...exact, k: 1, capacityFactor: 1, batchPriority: true }),
    placesPerToken: 1,
  },
  {
    name: 'tokens-choice-k2-half',
    router: tokensChoice({ ...exact, k: 2, capacityFactor: 0.5 }),
    placesPerToken: 1,
  },
  {
    name: 'tokens-choice-k2-half-bpr',
    router: tokensChoice({ ...exact, k: 2, capacityFactor: 0.5, batchPriority: true }),
    placesPerToken: 1,
  },
  {
    name: 'tokens-choice-k2',
    router: tokensChoice({ ...exact, k: 2, capacityFactor: 1 }),
    placesPerToken: 2,
  },
  { name: 'experts-choice', router: expertsChoice({ capacityFactor: 1 }), placesPerToken: 1 },
  {
    name: 'sinkhorn-tokens-choice',
    router: sinkhornTokensChoice({ ...exact, k: 1, capacityFactor: 1 }),
    placesPerToken: 1,
  },
  {
    name: 'sinkhorn-experts-choice',
    router: sinkhornExpertsChoice({ capacityFactor: 1 }),
    placesPerToken: 1,
  },
  { name: 'sparsity-constrained', router: sparsityConstrained({ capacityFactor: 1 }), placesPerToken: 1 },
]
