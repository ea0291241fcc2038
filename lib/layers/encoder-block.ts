import type { Tensor } from '../core/tensor.js'
import { add, dropout } from '../ops/elementwise.js'
import type { RouteOptions } from '../routers/router.js'
import { MultiHeadAttention, type MultiHeadAttentionOptions } from './attention.js'
import type { Mlp } from './experts.js'
import { LayerNorm } from './layer-norm.js'
import { MoE, type MoEOutput } from './moe.js'
import { type LayerContext, Module, requireRate } from './module.js'

/** Options of `EncoderBlock`. */
export interface EncoderBlockOptions extends MultiHeadAttentionOptions {
  /** Dropout of the attention output and of a dense MLP's output, in training. Default 0. */
  readonly residualDropoutRate?: number
}

/** A pre-norm transformer block: `x + attention(norm(x))`, then `x + mlp(norm(x))`; the MLP is dense or a MoE. */
export class EncoderBlock extends Module {
  readonly options: EncoderBlockOptions
  readonly attentionNorm: LayerNorm
  readonly attention: MultiHeadAttention
  readonly mlpNorm: LayerNorm
  readonly mlp: Mlp | MoE

  /** @param makeMlp - makes the MLP, after the attention, so that initial values are drawn in order */
  constructor(
    options: EncoderBlockOptions,
    makeMlp: (context: Required<LayerContext>) => Mlp | MoE,
    context: LayerContext = {},
  ) {
    super(context)
    this.options = options
    requireRate('residualDropoutRate', options.residualDropoutRate ?? 0)
    this.attentionNorm = this.child('LayerNorm_0', new LayerNorm({ dim: options.dim }, this.context))
    this.attention = this.child('SelfAttention', new MultiHeadAttention(options, this.context))
    this.mlpNorm = this.child('LayerNorm_1', new LayerNorm({ dim: options.dim }, this.context))
    const mlp = makeMlp(this.context)
    this.mlp = this.child(mlp instanceof MoE ? 'Moe' : 'Mlp', mlp)
  }

  #dropped(x: Tensor): Tensor {
    const { residualDropoutRate = 0 } = this.options
    return this.training && residualDropoutRate > 0 ? dropout(x, residualDropoutRate, this.random.next()) : x
  }

  /** The input of the MLP or MoE: `x` after attention, and its normalisation. */
  attend(x: Tensor): { readonly residual: Tensor; readonly normalized: Tensor } {
    const residual = add(x, this.#dropped(this.attention.forward(this.attentionNorm.forward(x))))
    return { residual, normalized: this.mlpNorm.forward(residual) }
  }

  /** @param x - `[batch, tokens, dim]` */
  forward(x: Tensor, options?: RouteOptions): MoEOutput {
    return this.run(() => {
      const { residual, normalized } = this.attend(x)
      if (this.mlp instanceof MoE) {
        const { output, auxiliaryLoss } = this.mlp.forwardWithLoss(normalized, options)
        return { output: add(residual, output), auxiliaryLoss }
      }
      return { output: add(residual, this.#dropped(this.mlp.forward(normalized))), auxiliaryLoss: null }
    })
  }
}
