import { SoftMoEError } from '../core/errors.js'
import type { CapacityOptions } from '../routers/capacity.js'
import type { RouterConfig } from '../routers/create-router.js'
import { expertsChoice, type ExpertsChoiceConfig } from '../routers/experts-choice.js'
import { sinkhornExpertsChoice, type SinkhornOptions, sinkhornTokensChoice } from '../routers/sinkhorn.js'
import { sparsityConstrained, sparsityConstrainedTokensChoice } from '../routers/sparsity-constrained.js'
import { tokensChoice, type TokensChoiceConfig } from '../routers/tokens-choice.js'
import type { MoEConfig, VisionTransformerConfig } from './config.js'

/** The buffers of a router by index in the official code's configuration. */
export interface FlaxDispatcher {
  readonly name?: string
  readonly capacity_factor?: number
  readonly capacity_ceil_or_round?: 'ceil' | 'round'
  readonly capacity_multiple_of?: number | null
  readonly batch_priority?: boolean
}

/** The router part of the official code's configuration. */
export interface FlaxRouter {
  readonly name: string
  readonly num_slots?: number
  readonly num_selected_experts?: number
  readonly noise_std?: number
  readonly importance_loss_weight?: number
  readonly load_loss_weight?: number
  readonly gshard_loss_weight?: number
  readonly maxiter?: number
  readonly use_softmax_combine_weights?: boolean
  readonly dispatcher?: FlaxDispatcher
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

/** The defined values of an object: options that are left out keep their defaults. */
function given<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}

function capacityFromFlax({
  capacity_factor: capacityFactor,
  capacity_ceil_or_round: rounding = 'ceil',
  capacity_multiple_of: multipleOf = 4,
}: FlaxDispatcher = {}): CapacityOptions & { readonly capacityFactor?: number } {
  return given({ capacityFactor, rounding, multipleOf: multipleOf === null ? 1 : Math.max(1, multipleOf) })
}

function tokensChoiceFromFlax(router: FlaxRouter): Omit<TokensChoiceConfig, 'name'> {
  return {
    ...capacityFromFlax(router.dispatcher),
    ...given({
      k: router.num_selected_experts ?? 1,
      noiseStd: router.noise_std,
      gshardLossWeight: router.gshard_loss_weight,
      importanceLossWeight: router.importance_loss_weight,
      loadLossWeight: router.load_loss_weight,
      batchPriority: router.dispatcher?.batch_priority,
    }),
  }
}

function expertsChoiceFromFlax(router: FlaxRouter): Omit<ExpertsChoiceConfig, 'name'> {
  return { ...capacityFromFlax(router.dispatcher), ...given({ noiseStd: router.noise_std }) }
}

const FLAX_ROUTERS: Readonly<Record<string, (router: FlaxRouter) => RouterConfig>> = {
  SoftRouter: (router) => ({ name: 'soft', ...given({ slotsPerExpert: router.num_slots }) }),
  // The official class weighs these losses 1 where the configuration says nothing.
  NoisyTopExpertsPerItemRouter: (router) =>
    tokensChoice({ importanceLossWeight: 1, loadLossWeight: 1, ...tokensChoiceFromFlax(router) }),
  NoisyTopItemsPerExpertRouter: (router) => expertsChoice(expertsChoiceFromFlax(router)),
  KLProjectionNoisyTopExpertsPerItemRouter: (router) =>
    sinkhornTokensChoice({ ...tokensChoiceFromFlax(router), ...planFromFlax(router) }),
  KLProjectionNoisyTopItemsPerExpertRouter: (router) =>
    sinkhornExpertsChoice({ ...expertsChoiceFromFlax(router), ...planFromFlax(router) }),
  KSparseProjectionTransportTopExpertsPerItemRouter: (router) =>
    sparsityConstrainedTokensChoice({ ...tokensChoiceFromFlax(router), ...iterationsFromFlax(router) }),
  KSparseProjectionTransportTopItemsPerExpertRouter: (router) =>
    sparsityConstrained({ ...capacityFromFlax(router.dispatcher), ...iterationsFromFlax(router) }),
  SparseProjectionTransportTopItemsPerExpertRouter: (router) =>
    sparsityConstrained({
      ...capacityFromFlax(router.dispatcher),
      ...iterationsFromFlax(router),
      constrained: false,
    }),
}

function planFromFlax(router: FlaxRouter): SinkhornOptions {
  const gates = router.use_softmax_combine_weights === false ? 'plan' : 'softmax'
  return { ...given({ iterations: router.maxiter }), gates }
}

function iterationsFromFlax(router: FlaxRouter): { readonly iterations?: number } {
  if (router.use_softmax_combine_weights === false) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the router '${router.name}' weighs outputs with its plan, whose gradient is not defined where the constraint ` +
        'binds; set use_softmax_combine_weights to true',
    )
  }
  return given({ iterations: router.maxiter })
}

function routerFromFlax(router: FlaxRouter): RouterConfig {
  const make = FLAX_ROUTERS[router.name.split('.').at(-1) ?? '']
  if (make === undefined) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the router '${router.name}' of the configuration is not known; ` +
        `wanted one of ${Object.keys(FLAX_ROUTERS).join(', ')}`,
    )
  }
  return make(router)
}

function moeFromFlax({
  layers,
  num_experts: numExperts,
  group_size: groupSize,
  router,
}: FlaxModelConfig['moe']): MoEConfig | undefined {
  if (layers === undefined || layers.length === 0 || numExperts === undefined || router === undefined)
    return undefined
  return { router: routerFromFlax(router), numExperts, blocks: layers, ...given({ groupSize }) }
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
