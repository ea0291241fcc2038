import { requireCount, requireObject } from '../core/arguments.js'
import { handleOf, type Tensor } from '../core/tensor.js'
import { add, asDType, broadcast, reshape } from '../ops/elementwise.js'
import { MultiHeadAttention, type MultiHeadAttentionOptions } from './attention.js'
import { Mlp } from './experts.js'
import { xavierUniform } from './initializers.js'
import { LayerNorm } from './layer-norm.js'
import { type LayerContext, Module } from './module.js'
import type { Parameter } from './parameter.js'

/** Options of `MapHead`. */
export interface MapHeadOptions extends MultiHeadAttentionOptions {
  readonly hiddenDim: number
}

/** Multi-head attention pooling: a learned probe attends to all tokens, followed by an MLP with a residual. */
export class MapHead extends Module {
  readonly probe: Parameter
  readonly attention: MultiHeadAttention
  readonly norm: LayerNorm
  readonly mlp: Mlp

  constructor(options: MapHeadOptions, context: LayerContext = {}) {
    super(context)
    requireObject('the options of MapHead', options)
    const { dim, hiddenDim } = options
    requireCount('dim', dim)
    this.probe = this.parameter('probe', [1, 1, dim], xavierUniform(1, dim))
    this.attention = this.child('MultiHeadDotProductAttention', new MultiHeadAttention(options, this.context))
    this.norm = this.child('LayerNorm', new LayerNorm({ dim }, this.context))
    this.mlp = this.child('Mlp', new Mlp({ dim, hiddenDim }, this.context))
  }

  /** @param x - `[batch, tokens, dim]`; returns `[batch, dim]` */
  forward(x: Tensor): Tensor {
    handleOf(x)
    return this.run(() => {
      const [batch = 0, , dim = 0] = x.shape
      const probe = asDType(broadcast(this.probe.operand('float32', [1, dim]), 0, batch), this.dtype)
      const pooled = this.attention.forward(probe, x)
      return reshape(add(pooled, this.mlp.forward(this.norm.forward(pooled))), [batch, dim])
    })
  }
}
