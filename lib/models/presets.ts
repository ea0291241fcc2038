import { requireObject, requireString } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { requireCount } from '../layers/module.js'
import type { SparseRouterConfig } from '../routers/create-router.js'
import type { SparseRouterName } from '../routers/names.js'
import { tokensChoice } from '../routers/tokens-choice.js'
import { type MoEBlocks, tokenCount, type VisionTransformerConfig } from './config.js'

/** The backbone of a vision transformer, without classes and MoE. */
export type Backbone = Pick<VisionTransformerConfig, 'patchSize' | 'width' | 'depth' | 'numHeads' | 'mlpDim'>

type Size = Omit<Backbone, 'patchSize'>

const VIT_SIZES = {
  Ti: { width: 192, depth: 12, numHeads: 3, mlpDim: 768 },
  S: { width: 384, depth: 12, numHeads: 6, mlpDim: 1536 },
  B: { width: 768, depth: 12, numHeads: 12, mlpDim: 3072 },
  L: { width: 1024, depth: 24, numHeads: 16, mlpDim: 4096 },
  H: { width: 1280, depth: 32, numHeads: 16, mlpDim: 5120 },
} as const satisfies Record<string, Size>

/** V-MoE's S is wider and shallower than the usual one; its other sizes are the same. */
const VMOE_SIZES = {
  ...VIT_SIZES,
  S: { width: 512, depth: 8, numHeads: 8, mlpDim: 2048 },
} as const satisfies Record<string, Size>

function backbone(sizes: Readonly<Record<string, Size>>, name: string): Backbone {
  requireString('the name of the model', name)
  const match = /^([A-Za-z]+)\/(\d+)$/.exec(name)
  const sizeName = match?.[1] ?? ''
  const size = Object.hasOwn(sizes, sizeName) ? sizes[sizeName] : undefined
  const patchSize = Number(match?.[2])
  if (size === undefined || !(patchSize >= 4 && patchSize <= 32)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the model is '${name}'; wanted a size (${Object.keys(sizes).join(', ')}) and a patch from 4 to 32, like 'S/16'`,
    )
  }
  return { patchSize, ...size }
}

/**
 * The backbones of the Soft MoE paper.
 *
 * @param name - size and patch, `Ti/4` … `H/32`
 * @example new VisionTransformer({ ...vit('S/16'), numClasses: 10 })
 */
export function vit(name: string): Backbone {
  return backbone(VIT_SIZES, name)
}

/** The backbones of the V-MoE paper. */
export function vmoe(name: string): Backbone {
  return backbone(VMOE_SIZES, name)
}

/** Options of `vmoeConfig`. */
export interface VMoEOptions {
  readonly numClasses: number
  /** Default 224. */
  readonly imageSize?: number
  /** Default 3. */
  readonly channels?: number
  /** Default 32; the released checkpoints have 8. */
  readonly numExperts?: number
  /** `{ lastOdd: n }`, the paper's Last-n (default, n = 2), or `{ every: n }`, its Every-n. */
  readonly blocks?: MoEBlocks
  /** Default Tokens Choice with k = 2 and capacity factor 1.05. */
  readonly router?: SparseRouterName | SparseRouterConfig
  /** Images whose tokens are routed together; batches must be whole multiples. Default 8, as in the papers' code. */
  readonly imagesPerGroup?: number
}

/**
 * A model of the V-MoE paper: class token, learned positions, a representation layer, MoE layers in every second block or
 * in the last odd ones, experts that start alike.
 *
 * @param name - size and patch: `S/32`, `B/16`, `L/16`, `H/14` …
 * @throws `ERR_INVALID_ARGUMENT`
 * @example new VisionTransformer(vmoeConfig('B/16', { numClasses: 1000, blocks: { every: 2 } }))
 */
export function vmoeConfig(name: string, options: VMoEOptions): VisionTransformerConfig {
  requireObject('the options of vmoeConfig', options)
  const { numClasses, imageSize = 224, channels = 3, numExperts = 32, imagesPerGroup = 8 } = options
  const { blocks = { lastOdd: 2 }, router = tokensChoice({ k: 2, capacityFactor: 1.05 }) } = options
  requireCount('numClasses', numClasses)
  requireCount('imagesPerGroup', imagesPerGroup)
  const size = vmoe(name)
  const classifier = 'token'
  const tokens = tokenCount({ imageSize, patchSize: size.patchSize, classifier })
  return {
    ...size,
    imageSize,
    channels,
    numClasses,
    classifier,
    positionEmbedding: 'learned',
    representationDim: size.width,
    headBias: -Math.log(numClasses),
    moe: { router, numExperts, blocks, groupSize: imagesPerGroup * tokens, shareInit: true },
  }
}

/** Blocks that hold a MoE in the Soft MoE paper: the last n of each size. */
export const SOFT_MOE_LAST_BLOCKS: Readonly<Record<string, number>> = { S: 6, B: 6, L: 12, H: 16 }
