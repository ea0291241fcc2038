import { requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import type { Tensor } from '../core/tensor.js'
import { attention } from '../ops/attention.js'
import { reshape } from '../ops/elementwise.js'
import { LayerNorm } from './layer-norm.js'
import { Linear } from './linear.js'
import { type LayerContext, Module, requireCount, requireRate } from './module.js'

/** Options of `MultiHeadAttention`. */
export interface MultiHeadAttentionOptions {
  readonly dim: number
  readonly numHeads: number
  /** Layer normalisation of queries and keys over each head (Soft MoE's models use it). Default false. */
  readonly qkNorm?: boolean
  /** Dropout of the attention probabilities. Default 0. */
  readonly dropoutRate?: number
}

/** Multi-head attention with query, key, value and output projections. */
export class MultiHeadAttention extends Module {
  readonly options: MultiHeadAttentionOptions
  readonly query: Linear
  readonly key: Linear
  readonly value: Linear
  readonly out: Linear
  readonly queryNorm: LayerNorm | null
  readonly keyNorm: LayerNorm | null

  constructor(options: MultiHeadAttentionOptions, context: LayerContext = {}) {
    super(context)
    requireObject('the options of MultiHeadAttention', options)
    this.options = options
    const { dim, numHeads, qkNorm = false, dropoutRate = 0 } = options
    requireCount('dim', dim)
    requireCount('numHeads', numHeads)
    requireRate('dropoutRate', dropoutRate)
    if (dim % numHeads !== 0) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `dim ${dim} is not a multiple of numHeads ${numHeads}; every head takes the same share`,
      )
    }
    const headDim = dim / numHeads
    const projection = (): Linear =>
      new Linear(
        { inDim: dim, outDim: dim, kernelShape: [dim, numHeads, headDim], biasShape: [numHeads, headDim] },
        this.context,
      )
    this.query = this.child('query', projection())
    this.key = this.child('key', projection())
    this.value = this.child('value', projection())
    this.out = this.child(
      'out',
      new Linear({ inDim: dim, outDim: dim, kernelShape: [numHeads, headDim, dim] }, this.context),
    )
    const norm = (): LayerNorm => new LayerNorm({ dim: headDim, bias: false }, this.context)
    this.queryNorm = qkNorm ? this.child('query_ln', norm()) : null
    this.keyNorm = qkNorm ? this.child('key_ln', norm()) : null
  }

  /**
   * @param x - what asks, `[batch, queries, dim]`
   * @param source - what is looked at, `[batch, keys, dim]`; default `x` (self-attention)
   * @returns `[batch, queries, dim]`
   */
  forward(x: Tensor, source: Tensor = x): Tensor {
    return this.run(() => {
      const { dim, numHeads, dropoutRate = 0 } = this.options
      const heads = (t: Tensor): Tensor =>
        reshape(t, [t.shape[0] ?? 0, t.shape[1] ?? 0, numHeads, dim / numHeads])
      let q = heads(this.query.forward(x))
      let k = heads(this.key.forward(source))
      if (this.queryNorm !== null) q = this.queryNorm.forward(q)
      if (this.keyNorm !== null) k = this.keyNorm.forward(k)
      const options = this.training && dropoutRate > 0 ? { dropoutRate, key: this.random.next() } : {}
      const o = attention(q, k, heads(this.value.forward(source)), options)
      return this.out.forward(reshape(o, x.shape))
    })
  }
}
