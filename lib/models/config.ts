import { SoftMoEError } from '../core/errors.js'
import { requireCount } from '../layers/module.js'
import type { RouterConfig } from '../routers/create-router.js'
import type { RouterName } from '../routers/names.js'

/** Which blocks hold a MoE: indices, the last half, the last n, the last n odd ones (V-MoE), or every n-th. */
export type MoEBlocks =
  | readonly number[]
  | 'last-half'
  | { readonly last: number }
  | { readonly lastOdd: number }
  | { readonly every: number }

/** The MoE layers of a vision transformer. */
export interface MoEConfig {
  readonly router: RouterName | RouterConfig
  readonly numExperts: number
  /** Default `last-half`. */
  readonly blocks?: MoEBlocks
  /**
   * Tokens that are routed together, class tokens included, unless the router's configuration says it; routers by index
   * only. V-MoE: the tokens of 8 images. Default: all tokens of a batch.
   */
  readonly groupSize?: number
  /** Width of the experts' hidden layer. Default the model's `mlpDim`. */
  readonly hiddenDim?: number
  /** Dropout inside the experts. Default 0. */
  readonly dropoutRate?: number
  /** Whether all experts start with the same weights, as in the papers' code. Default false. */
  readonly shareInit?: boolean
}

/** A vision transformer, dense or with MoE layers. */
export interface VisionTransformerConfig {
  /** Height and width in pixels. Default 224. */
  readonly imageSize?: number | readonly [number, number]
  /** Default 3. */
  readonly channels?: number
  /** Side of a patch in pixels. */
  readonly patchSize: number
  readonly width: number
  readonly depth: number
  readonly numHeads: number
  readonly mlpDim: number
  readonly numClasses: number
  /** Mean over tokens (`gap`, default), class token, or multi-head attention pooling. */
  readonly classifier?: 'gap' | 'token' | 'map'
  /** Default `sincos2d`. */
  readonly positionEmbedding?: 'sincos2d' | 'learned'
  /** Layer normalisation of queries and keys. Default false. */
  readonly qkNorm?: boolean
  /** Width of a tanh layer before the head (V-MoE: the model's width). Default none. */
  readonly representationDim?: number
  /** Dropout of embeddings and residual branches. Default 0. */
  readonly dropoutRate?: number
  /** Dropout of attention probabilities. Default 0. */
  readonly attentionDropoutRate?: number
  /** First value of the head's bias; the papers use `-ln(numClasses)` with the sigmoid loss. Default 0. */
  readonly headBias?: number
  readonly moe?: MoEConfig
}

/** Height and width of the images. */
export function imageExtents(config: Pick<VisionTransformerConfig, 'imageSize'>): readonly [number, number] {
  const { imageSize = 224 } = config
  return typeof imageSize === 'number' ? [imageSize, imageSize] : imageSize
}

/** Patches along height and width. @throws `ERR_INVALID_ARGUMENT` if they do not tile the image */
export function patchGrid(
  config: Pick<VisionTransformerConfig, 'imageSize' | 'patchSize'>,
): readonly [number, number] {
  const [height, width] = imageExtents(config)
  const { patchSize } = config
  requireCount('imageSize', height)
  requireCount('imageSize', width)
  requireCount('patchSize', patchSize)
  if (height % patchSize !== 0 || width % patchSize !== 0) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `patches of ${patchSize} pixels do not tile images of ${height} x ${width}; choose a divisor of both`,
    )
  }
  return [height / patchSize, width / patchSize]
}

/** Tokens that the encoder works on: patches, and the class token if there is one. */
export function tokenCount(
  config: Pick<VisionTransformerConfig, 'imageSize' | 'patchSize' | 'classifier'>,
): number {
  const [rows, columns] = patchGrid(config)
  return rows * columns + (config.classifier === 'token' ? 1 : 0)
}

/** Indices of the MoE blocks, ascending. @throws `ERR_INVALID_ARGUMENT` */
export function moeBlockIndices(blocks: MoEBlocks, depth: number): readonly number[] {
  const all = Array.from({ length: depth }, (_, i) => i)
  let chosen: readonly number[]
  if (blocks === 'last-half') {
    chosen = all.slice(Math.ceil(depth / 2))
  } else if (Array.isArray(blocks)) {
    chosen = (blocks as readonly number[]).toSorted((a, b) => a - b)
  } else if ('last' in blocks) {
    requireCount('moe.blocks.last', blocks.last)
    chosen = blocks.last > depth ? [-1] : all.slice(depth - blocks.last)
  } else if ('lastOdd' in blocks) {
    requireCount('moe.blocks.lastOdd', blocks.lastOdd)
    const odd = all.filter((i) => i % 2 === 1)
    chosen = blocks.lastOdd > odd.length ? [-1] : odd.slice(odd.length - blocks.lastOdd)
  } else {
    const { every } = blocks as { readonly every: number }
    requireCount('moe.blocks.every', every)
    chosen = all.filter((i) => (i + 1) % every === 0)
  }
  const wrong = chosen.find((i) => !Number.isInteger(i) || i < 0 || i >= depth)
  if (wrong !== undefined || chosen.length === 0 || new Set(chosen).size !== chosen.length) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `moe.blocks is ${JSON.stringify(blocks)} for a model of depth ${depth}; ` +
        `wanted distinct blocks from 0 to ${depth - 1}, 'last-half', { last }, { lastOdd } or { every }`,
    )
  }
  return chosen
}
