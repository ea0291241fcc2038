import { SoftMoEError } from '../core/errors.js'
import type { LayerContext } from '../layers/module.js'
import { defaultSlotsPerExpert } from './capacity.js'
import type { Router } from './router.js'
import { SoftRouter, type SoftRouterOptions } from './soft.js'

/** A router by name, with its options. Fields that the layer knows (dim, experts) are left out. */
export type RouterConfig = {
  readonly name: 'soft'
  /** Default: as many slots in total as tokens, rounded half to even. */
  readonly slotsPerExpert?: number
} & Omit<SoftRouterOptions, 'dim' | 'numExperts' | 'slotsPerExpert'>

/** What a layer knows about its router. */
export interface RouterShape {
  readonly dim: number
  readonly numExperts: number
  /** Tokens of a sequence. */
  readonly tokens: number
}

/** Names that `RouterConfig` and the command line know; the ablations are Soft MoE with other weights. */
export const ROUTER_NAMES = ['soft', 'soft-uniform', 'uniform-soft', 'uniform', 'identity'] as const

export type RouterName = (typeof ROUTER_NAMES)[number]

/** The configuration that a name stands for. @throws `ERR_INVALID_ARGUMENT` */
export function routerConfig(name: RouterName): RouterConfig {
  switch (name) {
    case 'soft':
      return { name: 'soft' }
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
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the router is '${String(name)}'; wanted one of ${ROUTER_NAMES.join(', ')}`,
      )
  }
}

/** Makes the router of a layer. */
export function createRouter(
  router: RouterName | RouterConfig,
  shape: RouterShape,
  context: LayerContext = {},
): Router {
  const config = typeof router === 'string' ? routerConfig(router) : router
  const { dim, numExperts, tokens } = shape
  switch (config.name) {
    case 'soft': {
      const { name, slotsPerExpert = defaultSlotsPerExpert(tokens, numExperts), ...options } = config
      name satisfies 'soft'
      return new SoftRouter({ ...options, dim, numExperts, slotsPerExpert }, context)
    }
    default:
      config.name satisfies never
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the router is '${String(config.name)}'; wanted one of ${ROUTER_NAMES.join(', ')}`,
      )
  }
}
