import { requireObject } from '../core/arguments.js'
import type { Tensor } from '../core/tensor.js'
import { layerNorm } from '../ops/normalization.js'
import { ones, zeros } from './initializers.js'
import { type LayerContext, Module, requireCount } from './module.js'
import type { Parameter } from './parameter.js'

/** Options of `LayerNorm`. */
export interface LayerNormOptions {
  readonly dim: number
  /** Default true; QK-norm has none. */
  readonly bias?: boolean
  /** Default 1e-6. */
  readonly eps?: number
}

/** Layer normalisation over the last axis, with a learned scale and bias. */
export class LayerNorm extends Module {
  readonly scale: Parameter
  readonly bias: Parameter | null
  readonly eps: number

  constructor(options: LayerNormOptions, context: LayerContext = {}) {
    super(context)
    requireObject('the options of LayerNorm', options)
    requireCount('dim', options.dim)
    this.eps = options.eps ?? 1e-6
    this.scale = this.parameter('scale', [options.dim], ones)
    this.bias = options.bias === false ? null : this.parameter('bias', [options.dim], zeros)
  }

  /** @param x - `[..., dim]` */
  forward(x: Tensor): Tensor {
    return layerNorm(x, this.scale.value, this.bias?.value, this.eps)
  }
}
