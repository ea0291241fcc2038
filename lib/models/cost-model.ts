/**
 * Parameters and FLOPs of a vision transformer from its configuration alone. A multiply-add counts as 2; only matrix
 * products are counted, as in the papers' tables.
 */
import { requireNumber, requireObject } from '../core/arguments.js'
import { requireCount } from '../layers/module.js'
import { defaultSlotsPerExpert } from '../routers/capacity.js'
import { type RouterConfig, routerConfig, type SparseRouterConfig } from '../routers/create-router.js'
import { EXPERTS_CHOICE_DEFAULTS } from '../routers/experts-choice.js'
import { TOKENS_CHOICE_DEFAULTS } from '../routers/tokens-choice.js'
import { moeBlockIndices, patchGrid, tokenCount, type VisionTransformerConfig } from './config.js'

/** Size of one layer that routes `tokens` tokens of width `dim` to experts with a hidden layer of width `hiddenDim`. */
export interface MoELayerShape {
  readonly tokens: number
  readonly dim: number
  readonly hiddenDim: number
  readonly numExperts: number
  /** Slots of each expert. */
  readonly slotsPerExpert: number
}

/** What a layer or model costs. */
export interface Cost {
  /** Trained scalars. */
  readonly parameters: number
  /** FLOPs of one image's forward pass. */
  readonly flops: number
}

/** The dense MLP of a block. */
export function mlpCost(tokens: number, dim: number, hiddenDim: number): Cost {
  requireNumber('tokens', tokens)
  requireNumber('dim', dim)
  requireNumber('hiddenDim', hiddenDim)
  return { parameters: 2 * dim * hiddenDim + hiddenDim + dim, flops: 4 * tokens * dim * hiddenDim }
}

/** A Soft MoE layer: `2 M T d` each for logits, dispatch and combine, and `4 T d h` for the experts. */
export function softMoeCost(shape: MoELayerShape): Cost {
  requireObject('the shape of the layer', shape)
  const { tokens, dim, hiddenDim, numExperts, slotsPerExpert } = shape
  const slots = numExperts * slotsPerExpert
  const experts = mlpCost(slots, dim, hiddenDim)
  return {
    parameters: numExperts * experts.parameters + dim * slots + 1,
    flops: 6 * tokens * slots * dim + experts.flops,
  }
}

/** What a Soft MoE layer costs more than the dense MLP it replaces (negative FLOPs: it costs less). */
export function softMoeExtraCost(shape: MoELayerShape): Cost {
  const moe = softMoeCost(shape)
  const mlp = mlpCost(shape.tokens, shape.dim, shape.hiddenDim)
  return { parameters: moe.parameters - mlp.parameters, flops: moe.flops - mlp.flops }
}

/** A layer routed by index: a gate of `2 M d E`, and the experts on `rows` rows. */
export function sparseMoeCost(shape: Omit<MoELayerShape, 'slotsPerExpert'>, rows: number): Cost {
  requireObject('the shape of the layer', shape)
  const { tokens, dim, hiddenDim, numExperts } = shape
  const experts = mlpCost(rows, dim, hiddenDim)
  return {
    parameters: numExperts * experts.parameters + dim * numExperts,
    flops: 2 * tokens * dim * numExperts + experts.flops,
  }
}

/** Cost of a whole model, with the parts that the papers' tables compare. */
export interface ModelCost extends Cost {
  /** Cost of one MoE layer, or null for a dense model. */
  readonly moeLayer: Cost | null
}

function attentionCost(queries: number, keys: number, dim: number): Cost {
  return {
    parameters: 4 * (dim * dim + dim),
    flops: 4 * (queries + keys) * dim * dim + 4 * queries * keys * dim,
  }
}

/**
 * Parameters and FLOPs of one image's forward pass.
 *
 * @throws `ERR_INVALID_ARGUMENT` for a configuration that no model can be built from
 * @example costModel({ ...vit('S/16'), numClasses: 1000, moe: { router: 'soft', numExperts: 128, blocks: { last: 6 } } })
 */
export function costModel(config: VisionTransformerConfig): ModelCost {
  const { width, depth, numHeads, mlpDim, numClasses, channels = 3, patchSize } = config
  const {
    classifier = 'gap',
    positionEmbedding = 'sincos2d',
    qkNorm = false,
    representationDim,
    moe,
  } = config
  for (const name of ['width', 'depth', 'numHeads', 'mlpDim', 'numClasses'] as const) {
    requireCount(name, config[name])
  }
  const [rows, columns] = patchGrid(config)
  const tokens = tokenCount(config)
  const patchDim = patchSize * patchSize * channels
  const norm = 2 * width
  const headNorms = qkNorm ? (2 * width) / numHeads : 0

  let parameters = patchDim * width + width + norm
  let flops = 2 * rows * columns * patchDim * width
  if (classifier === 'token') parameters += width
  if (positionEmbedding === 'learned') parameters += tokens * width

  const attention = attentionCost(tokens, tokens, width)
  const dense = mlpCost(tokens, width, mlpDim)
  const moeBlocks = moe === undefined ? 0 : moeBlockIndices(moe.blocks ?? 'last-half', depth).length
  const moeLayer = moe === undefined ? null : moeLayerCost(config, tokens)
  parameters += depth * (attention.parameters + headNorms + 2 * norm) + (depth - moeBlocks) * dense.parameters
  flops += depth * attention.flops + (depth - moeBlocks) * dense.flops
  parameters += moeBlocks * (moeLayer?.parameters ?? 0)
  flops += moeBlocks * (moeLayer?.flops ?? 0)

  if (classifier === 'map') {
    const pooling = attentionCost(1, tokens, width)
    const mlp = mlpCost(1, width, mlpDim)
    parameters += width + pooling.parameters + headNorms + norm + mlp.parameters
    flops += pooling.flops + mlp.flops
  }
  const features = representationDim ?? width
  if (representationDim !== undefined) {
    parameters += width * representationDim + representationDim
    flops += 2 * width * representationDim
  }
  parameters += features * numClasses + numClasses
  flops += 2 * features * numClasses
  return { parameters, flops, moeLayer }
}

function moeLayerCost({ moe, width: dim, mlpDim }: VisionTransformerConfig, tokens: number): Cost | null {
  if (moe === undefined) return null
  const { numExperts, hiddenDim = mlpDim } = moe
  const router: RouterConfig = typeof moe.router === 'string' ? routerConfig(moe.router) : moe.router
  const shape = { tokens, dim, hiddenDim, numExperts }
  if (router.name !== 'soft') return sparseMoeCost(shape, rowsOf(router, shape))
  const { slotsPerExpert = defaultSlotsPerExpert(tokens, numExperts) } = router
  return softMoeCost({ ...shape, slotsPerExpert })
}

/** Rows that the experts work on for one image if no place stays empty; capacities are not rounded. */
function rowsOf(
  router: SparseRouterConfig,
  { tokens, numExperts }: { tokens: number; numExperts: number },
): number {
  switch (router.name) {
    case 'tokens-choice':
    case 'sinkhorn-tokens-choice':
    case 'sparsity-constrained-tokens-choice': {
      const { k = 2, capacityFactor = TOKENS_CHOICE_DEFAULTS.capacityFactor, dropless = false } = router
      return k * tokens * (dropless ? 1 : Math.min(1, capacityFactor))
    }
    case 'experts-choice':
    case 'sinkhorn-experts-choice':
    case 'sparsity-constrained': {
      const { capacityFactor = EXPERTS_CHOICE_DEFAULTS.capacityFactor } = router
      return tokens * Math.min(numExperts, capacityFactor)
    }
  }
}
