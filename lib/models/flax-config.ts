import { SoftMoEError } from '../core/errors.js'
import type { RouterConfig } from '../routers/create-router.js'
import type { MoEConfig, VisionTransformerConfig } from './config.js'

/** The router part of the official code's configuration. */
export interface FlaxRouter {
  readonly name: string
  readonly num_slots?: number
}

/** A model in the words of the official code (google-research/vmoe), as JSON beside exported parameters. */
export interface FlaxModelConfig {
  readonly classes: number
  readonly patch: number
  readonly image: number
  readonly width: number
  readonly depth: number
  readonly heads: number
  readonly mlp: number
  readonly classifier: 'gap' | 'token' | 'map'
  readonly position_emb: { readonly name: 'sincos2d' | 'learned' }
  readonly qk_norm: boolean
  readonly representation: number | null
  readonly moe: {
    readonly layers?: readonly number[]
    readonly num_experts?: number
    readonly group_size?: number
    readonly router?: FlaxRouter
  }
}

function routerFromFlax(router: FlaxRouter): RouterConfig {
  if (router.name.endsWith('SoftRouter')) {
    return router.num_slots === undefined
      ? { name: 'soft' }
      : { name: 'soft', slotsPerExpert: router.num_slots }
  }
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `the router '${router.name}' of the configuration is not known; wanted SoftRouter`,
  )
}

function moeFromFlax({
  layers,
  num_experts: numExperts,
  router,
}: FlaxModelConfig['moe']): MoEConfig | undefined {
  if (layers === undefined || layers.length === 0 || numExperts === undefined || router === undefined)
    return undefined
  return { router: routerFromFlax(router), numExperts, blocks: layers }
}

/** The model that an official configuration describes. @throws `ERR_INVALID_ARGUMENT` for a router it cannot build */
export function configFromFlax(config: FlaxModelConfig): VisionTransformerConfig {
  const moe = moeFromFlax(config.moe)
  return {
    imageSize: config.image,
    patchSize: config.patch,
    width: config.width,
    depth: config.depth,
    numHeads: config.heads,
    mlpDim: config.mlp,
    numClasses: config.classes,
    classifier: config.classifier,
    positionEmbedding: config.position_emb.name,
    qkNorm: config.qk_norm,
    ...(config.representation === null ? {} : { representationDim: config.representation }),
    ...(moe === undefined ? {} : { moe }),
  }
}
