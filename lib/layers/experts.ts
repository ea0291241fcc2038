import { requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { isRecording } from '../core/tape.js'
import type { Tensor } from '../core/tensor.js'
import type { Activation, WeightFormat } from '../native.js'
import {
  experts,
  type ExpertsOptions,
  type ExpertWeights,
  type GatherGradient,
  type RaggedRows,
} from '../ops/experts.js'
import { reshape } from '../ops/elementwise.js'
import { FrozenExperts, requireWeightFormat } from '../ops/frozen-experts.js'
import { type Initializer, normal, sharedAlongFirstAxis, xavierUniform } from './initializers.js'
import { type LayerContext, Module, requireCount, requireRate } from './module.js'
import type { Parameter } from './parameter.js'

/** Options of an MLP. */
export interface MlpOptions {
  readonly dim: number
  /** Width of the hidden layer; the papers use `4 * dim`. */
  readonly hiddenDim: number
  /** Default `gelu` (tanh form). */
  readonly activation?: Activation
  /** Dropout after the activation and after the second product, in training. Default 0. */
  readonly dropoutRate?: number
}

/** Options of `Experts`. */
export interface ExpertsLayerOptions extends MlpOptions {
  readonly numExperts: number
  /** Whether all experts start with the same weights, as in the papers' code. Default false: independent. */
  readonly shareInit?: boolean
}

/** How weights are frozen. */
export interface FreezeOptions {
  /**
   * What the weights are stored and multiplied in: `float32` gives the bits of the plain layer; `bfloat16` rounds weights
   * and activations of the products; `int8` has a scale for each output column of each expert and brings every row of
   * activations to 8 bits on the fly.
   */
  readonly format: WeightFormat
  /**
   * Whether the float32 parameters stay, to train on after `unfreeze()`. Default true. Without them the layer takes the
   * memory of the frozen weights alone, and can no longer be trained, changed or saved.
   */
  readonly keepMasters?: boolean
}

class ExpertLayer extends Module {
  readonly kernel: Parameter
  readonly bias: Parameter

  constructor(
    shape: { readonly kernel: readonly number[]; readonly bias: readonly number[] },
    init: { readonly kernel: Initializer; readonly bias: Initializer },
    context: LayerContext,
  ) {
    super(context)
    this.kernel = this.parameter('kernel', shape.kernel, init.kernel)
    this.bias = this.parameter('bias', shape.bias, init.bias)
  }
}

/** A batch of two-layer MLPs. `numExperts` null makes one dense MLP, stored without the expert axis. */
export abstract class MlpBase extends Module {
  #frozen: { readonly experts: FrozenExperts; readonly versions: readonly number[] } | null = null
  readonly options: MlpOptions
  readonly numExperts: number
  readonly first: ExpertLayer
  readonly second: ExpertLayer

  protected constructor(
    options: MlpOptions,
    numExperts: number | null,
    shareInit: boolean,
    context: LayerContext,
  ) {
    super(context)
    requireObject('the options of an MLP', options)
    this.options = options
    this.numExperts = numExperts ?? 1
    const { dim, hiddenDim, dropoutRate = 0 } = options
    requireCount('dim', dim)
    requireCount('hiddenDim', hiddenDim)
    requireCount('numExperts', this.numExperts)
    requireRate('dropoutRate', dropoutRate)
    const leading = numExperts === null ? [] : [numExperts]
    const layer = (inDim: number, outDim: number): ExpertLayer => {
      const kernel = xavierUniform(inDim, outDim)
      const bias = normal(1e-6)
      return new ExpertLayer(
        { kernel: [...leading, inDim, outDim], bias: [...leading, outDim] },
        shareInit
          ? { kernel: sharedAlongFirstAxis(kernel), bias: sharedAlongFirstAxis(bias) }
          : { kernel, bias },
        this.context,
      )
    }
    this.first = this.child('Dense_0', layer(dim, hiddenDim))
    this.second = this.child('Dense_1', layer(hiddenDim, dim))
  }

  /** The parameters as operations take them. */
  weights(): ExpertWeights {
    const { dim, hiddenDim } = this.options
    const e = this.numExperts
    return {
      w1: this.first.kernel.operand(this.dtype, [e, dim, hiddenDim]),
      b1: this.first.bias.operand('float32', [e, hiddenDim]),
      w2: this.second.kernel.operand(this.dtype, [e, hiddenDim, dim]),
      b2: this.second.bias.operand('float32', [e, dim]),
    }
  }

  /**
   * Packs the weights once for inference, in the order in which this machine reads them. Calling it again takes the
   * parameters anew. CPU only.
   *
   * @throws `ERR_INVALID_ARGUMENT` for an unknown format, `ERR_DEVICE` on a device that serves no frozen weights,
   *   `ERR_FROZEN` if the parameters were dropped before, `ERR_OUT_OF_MEMORY`
   */
  freeze(options: FreezeOptions): this {
    requireObject('the options of freeze', options)
    const { format, keepMasters = true } = options
    requireWeightFormat(format)
    const { dim, hiddenDim } = this.options
    const e = this.numExperts
    const experts = new FrozenExperts(
      {
        w1: this.first.kernel.operand('float32', [e, dim, hiddenDim]),
        b1: this.first.bias.operand('float32', [e, hiddenDim]),
        w2: this.second.kernel.operand('float32', [e, hiddenDim, dim]),
        b2: this.second.bias.operand('float32', [e, dim]),
      },
      format,
    )
    this.#frozen?.experts.dispose()
    this.#frozen = { experts, versions: this.#versions() }
    if (!keepMasters) for (const [, parameter] of this.namedParameters()) parameter.release()
    return this
  }

  /** Drops the frozen weights: the layer computes with its parameters again. */
  unfreeze(): this {
    this.#frozen?.experts.dispose()
    this.#frozen = null
    return this
  }

  /** The format of the frozen weights, or null. */
  get frozen(): WeightFormat | null {
    return this.#frozen?.experts.format ?? null
  }

  #versions(): readonly number[] {
    return Array.from(this.namedParameters(), ([, parameter]) => parameter.version)
  }

  /**
   * What the layer computes with: its frozen weights, or its parameters.
   *
   * @throws `ERR_FROZEN` for frozen weights while a tape records or dropout is on, or when a parameter changed since
   */
  operands(): ExpertWeights | FrozenExperts {
    if (this.#frozen === null) return this.weights()
    const { experts, versions } = this.#frozen
    const { dropoutRate = 0 } = this.options
    const now = this.#versions()
    const refusal = isRecording()
      ? 'have no gradient; call unfreeze() to train, or noGrad() around inference'
      : this.training && dropoutRate > 0
        ? `have no dropout, and this layer drops ${dropoutRate} in training; call eval(), or unfreeze() to train`
        : now.some((version, i) => version !== versions[i])
          ? 'are not those of the parameters, which changed since; call freeze() again, or unfreeze()'
          : null
    if (refusal === null) return experts
    throw new SoftMoEError('ERR_FROZEN', `the weights of this layer, frozen as ${experts.format}, ${refusal}`)
  }

  protected apply(x: Tensor, rows?: RaggedRows, gatherGradient?: GatherGradient): Tensor {
    const operands = this.operands()
    const options = this.callOptions()
    return operands instanceof FrozenExperts
      ? operands.apply(x, options.activation ?? 'gelu', rows)
      : experts(x, operands, options, rows, gatherGradient)
  }

  override dispose(): void {
    super.dispose()
    this.unfreeze()
  }

  /** Activation and, in training, dropout with a fresh key. */
  callOptions(): ExpertsOptions {
    const { activation = 'gelu', dropoutRate = 0 } = this.options
    return this.training && dropoutRate > 0
      ? { activation, dropoutRate, key: this.random.next() }
      : { activation }
  }
}

/** The MLPs of a module, dense and of experts. */
export function* mlpsOf(module: Module): IterableIterator<MlpBase> {
  if (module instanceof MlpBase) yield module
  for (const child of module.children().values()) yield* mlpsOf(child)
}

/** The dense MLP of a ViT block: `gelu(x W1 + b1) W2 + b2`. */
export class Mlp extends MlpBase {
  constructor(options: MlpOptions, context: LayerContext = {}) {
    super(options, null, false, context)
  }

  /** @param x - `[..., dim]` */
  forward(x: Tensor): Tensor {
    return this.run(() => {
      const { dim } = this.options
      const rows = reshape(x, [1, x.size / dim, dim])
      return reshape(this.apply(rows), x.shape)
    })
  }
}

/** The experts of a MoE layer: `numExperts` MLPs, each on its own rows. */
export class Experts extends MlpBase {
  readonly shareInit: boolean

  constructor(options: ExpertsLayerOptions, context: LayerContext = {}) {
    requireObject('the options of Experts', options)
    super(options, options.numExperts, options.shareInit ?? false, context)
    this.shareInit = options.shareInit ?? false
  }

  /**
   * @param x - `[experts, rows, dim]`, or `[tokens, dim]` with ragged rows
   * @returns `[experts, rows, dim]`, or `[maxRows, dim]`
   */
  forward(x: Tensor, rows?: RaggedRows, gatherGradient?: GatherGradient): Tensor {
    return this.apply(x, rows, gatherGradient)
  }

  /** Gives every expert the weights of a dense MLP (sparse upcycling). @throws `ERR_SHAPE` */
  upcycle(mlp: Mlp): void {
    const pairs = [
      [this.first, mlp.first],
      [this.second, mlp.second],
    ] as const
    for (const [own, dense] of pairs) {
      for (const name of ['kernel', 'bias'] as const) {
        const values = dense[name].value.dataSync() as Float32Array
        const repeated = new Float32Array(values.length * this.numExperts)
        for (let e = 0; e < this.numExperts; e++) repeated.set(values, e * values.length)
        own[name].set(repeated)
      }
    }
  }
}
