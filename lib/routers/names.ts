/** The routers' names, apart from their code: the command line lists them also where the native addon does not load. */

/** Names of the routers by index. */
export const SPARSE_ROUTER_NAMES = [
  'tokens-choice',
  'experts-choice',
  'sinkhorn-tokens-choice',
  'sinkhorn-experts-choice',
  'sparsity-constrained',
  'sparsity-constrained-tokens-choice',
] as const

/** Names that `RouterConfig` and the command line know; the ablations are Soft MoE with other weights. */
export const ROUTER_NAMES = [
  'soft',
  'soft-uniform',
  'uniform-soft',
  'uniform',
  'identity',
  ...SPARSE_ROUTER_NAMES,
] as const

/** The name of a router. */
export type RouterName = (typeof ROUTER_NAMES)[number]
/** The name of a router by index. */
export type SparseRouterName = (typeof SPARSE_ROUTER_NAMES)[number]
