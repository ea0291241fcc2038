import { requireObject } from '../core/arguments.js'
import type { FloatDType } from '../core/dtype.js'
import type { Tensor } from '../core/tensor.js'
import type { Activation } from '../native.js'
import { linear } from '../ops/linear.js'
import { type Initializer, xavierUniform, zeros } from './initializers.js'
import { type LayerContext, Module, requireCount } from './module.js'
import type { Parameter } from './parameter.js'

/** Options of `Linear`. */
export interface LinearLayerOptions {
  readonly inDim: number
  readonly outDim: number
  /** Default true. */
  readonly bias?: boolean
  /** Default `none`. */
  readonly activation?: Activation
  /** dtype of the result; default the layer's. */
  readonly outDType?: FloatDType
  /** Default Glorot uniform. */
  readonly kernelInit?: Initializer
  /** Default zeros. */
  readonly biasInit?: Initializer
  /** Shape under which the kernel is stored (a Flax layout with heads, say). Default `[inDim, outDim]`. */
  readonly kernelShape?: readonly number[]
  /** Shape under which the bias is stored. Default `[outDim]`. */
  readonly biasShape?: readonly number[]
}

/** `activation(x kernel + bias)` over the last axis. */
export class Linear extends Module {
  readonly options: LinearLayerOptions
  readonly kernel: Parameter
  readonly bias: Parameter | null

  constructor(options: LinearLayerOptions, context: LayerContext = {}) {
    super(context)
    requireObject('the options of Linear', options)
    this.options = options
    const { inDim, outDim, kernelInit = xavierUniform(inDim, outDim), biasInit = zeros } = options
    requireCount('inDim', inDim)
    requireCount('outDim', outDim)
    this.kernel = this.parameter('kernel', options.kernelShape ?? [inDim, outDim], kernelInit)
    this.bias =
      options.bias === false ? null : this.parameter('bias', options.biasShape ?? [outDim], biasInit)
  }

  /** @param x - `[..., inDim]`; returns `[..., outDim]` */
  forward(x: Tensor): Tensor {
    const { inDim, outDim, activation = 'none', outDType = this.dtype } = this.options
    return linear(
      x,
      this.kernel.operand(this.dtype, [inDim, outDim]),
      this.bias?.operand('float32', [outDim]) ?? null,
      { activation, dtype: outDType },
    )
  }
}
