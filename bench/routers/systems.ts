/** The systems that the study compares: one model, one way of training, one option changed. */
import {
  type AugmentOptions,
  expertsChoice,
  type RouterConfig,
  type RouterName,
  sinkhornExpertsChoice,
  sinkhornTokensChoice,
  sparsityConstrained,
  tokensChoice,
} from '../../lib/index.js'

/** The vision transformer of every system: 16 tokens an image. */
export const MODEL = { patchSize: 7, width: 64, depth: 4, numHeads: 4, mlpDim: 128 } as const

/** Experts in the last half of the blocks, of every system but the dense one. */
export const NUM_EXPERTS = 8

/** How every system is trained. */
export const TRAINING = {
  batchSize: 64,
  learningRate: 3e-3,
  weightDecay: 0.05,
  labelSmoothing: 0,
  clipNorm: 1,
  augment: { cropPadding: 1, flip: false } satisfies AugmentOptions,
  precision: 'float32',
} as const

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
  // From 1 the learned scale of the logits hardly moves in a short run, and routing stays almost uniform.
  {
    name: 'soft-sharp',
    router: { name: 'soft', scaleInit: Math.sqrt(MODEL.width) },
    placesPerToken: 1,
  },
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
