import { given, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import type { LayerContext } from '../layers/module.js'
import { defaultSlotsPerExpert } from './capacity.js'
import { type ExpertsChoiceConfig, ExpertsChoiceRouter } from './experts-choice.js'
import { ROUTER_NAMES, type RouterName, type SparseRouterName } from './names.js'
import type { Router } from './router.js'
import {
  type SinkhornExpertsChoiceConfig,
  SinkhornExpertsChoiceRouter,
  type SinkhornTokensChoiceConfig,
  SinkhornTokensChoiceRouter,
} from './sinkhorn.js'
import { SoftRouter, type SoftRouterOptions } from './soft.js'
import type { SparseRouter } from './sparse.js'
import {
  type SparsityConstrainedConfig,
  SparsityConstrainedRouter,
  type SparsityConstrainedTokensChoiceConfig,
  SparsityConstrainedTokensChoiceRouter,
} from './sparsity-constrained.js'
import { type TokensChoiceConfig, TokensChoiceRouter } from './tokens-choice.js'

/** Configuration of Soft MoE and its ablations. */
export interface SoftRouterConfig extends Omit<SoftRouterOptions, 'dim' | 'numExperts' | 'slotsPerExpert'> {
  readonly name: 'soft'
  /** Default: as many slots in total as tokens, rounded half to even. */
  readonly slotsPerExpert?: number
}

/** A router by index, with its options. */
export type SparseRouterConfig =
  | TokensChoiceConfig
  | ExpertsChoiceConfig
  | SinkhornTokensChoiceConfig
  | SinkhornExpertsChoiceConfig
  | SparsityConstrainedConfig
  | SparsityConstrainedTokensChoiceConfig

/** A router by name, with its options. Fields that the layer knows (dim, experts) are left out. */
export type RouterConfig = SoftRouterConfig | SparseRouterConfig

/** What a layer knows about its router. */
export interface RouterShape {
  readonly dim: number
  readonly numExperts: number
  /** Tokens of a sequence. */
  readonly tokens: number
  /** Tokens that are routed together, unless the router's configuration says it. Soft MoE routes each sequence alone. */
  readonly groupSize?: number
}

function unknownRouter(name: unknown): SoftMoEError {
  return new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `the router is ${given(name)}; wanted one of ${ROUTER_NAMES.join(', ')}`,
  )
}

/** The configuration that a name stands for. @throws `ERR_INVALID_ARGUMENT` */
export function routerConfig(name: RouterName): RouterConfig {
  switch (name) {
    case 'soft':
    case 'tokens-choice':
    case 'experts-choice':
    case 'sinkhorn-tokens-choice':
    case 'sinkhorn-experts-choice':
    case 'sparsity-constrained':
    case 'sparsity-constrained-tokens-choice':
      return { name }
    case 'soft-uniform':
      return { name: 'soft', combine: 'uniform' }
    case 'uniform-soft':
      return { name: 'soft', dispatch: 'uniform' }
    case 'uniform':
      return { name: 'soft', dispatch: 'uniform', combine: 'uniform' }
    case 'identity':
      return { name: 'soft', dispatch: 'identity', combine: 'identity' }
    default:
      name satisfies never
      throw unknownRouter(name)
  }
}

/** Makes the router of a layer. @throws `ERR_INVALID_ARGUMENT` */
export function createRouter(
  router: RouterName | RouterConfig,
  shape: RouterShape,
  context: LayerContext = {},
): Router {
  const config = typeof router === 'string' ? routerConfig(router) : router
  requireObject('the router', config)
  requireObject('the sizes of the router', shape)
  if (config.name !== 'soft') return createSparseRouter(config, shape, context)
  const { name, slotsPerExpert = defaultSlotsPerExpert(shape.tokens, shape.numExperts), ...options } = config
  name satisfies 'soft'
  const { dim, numExperts, tokens, groupSize = tokens } = shape
  if (groupSize !== tokens) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `groupSize is ${groupSize} for Soft MoE, which routes each sequence of ${tokens} tokens alone; leave it out`,
    )
  }
  return new SoftRouter({ ...options, dim, numExperts, slotsPerExpert }, context)
}

/** Makes the router by index of a layer. @throws `ERR_INVALID_ARGUMENT` */
export function createSparseRouter(
  router: SparseRouterName | SparseRouterConfig,
  sizes: Omit<RouterShape, 'tokens'>,
  context: LayerContext = {},
): SparseRouter {
  requireObject('the sizes of the router', sizes)
  const { dim, numExperts, groupSize } = sizes
  const config: SparseRouterConfig = typeof router === 'string' ? { name: router } : router
  const shape = groupSize === undefined ? { dim, numExperts } : { groupSize, dim, numExperts }
  requireObject('the router', config)
  switch (config.name) {
    case 'tokens-choice':
      return new TokensChoiceRouter({ ...shape, ...config }, context)
    case 'experts-choice':
      return new ExpertsChoiceRouter({ ...shape, ...config }, context)
    case 'sinkhorn-tokens-choice':
      return new SinkhornTokensChoiceRouter({ ...shape, ...config }, context)
    case 'sinkhorn-experts-choice':
      return new SinkhornExpertsChoiceRouter({ ...shape, ...config }, context)
    case 'sparsity-constrained':
      return new SparsityConstrainedRouter({ ...shape, ...config }, context)
    case 'sparsity-constrained-tokens-choice':
      return new SparsityConstrainedTokensChoiceRouter({ ...shape, ...config }, context)
    default:
      config satisfies never
      throw unknownRouter((config as { readonly name: unknown }).name)
  }
}
