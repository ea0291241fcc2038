import { requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { RandomSource } from '../core/random-source.js'
import { noGrad } from '../core/tape.js'
import { handleOf, type Tensor } from '../core/tensor.js'
import { createSparseRouter, type SparseRouterConfig } from '../routers/create-router.js'
import type { SparseRouterName } from '../routers/names.js'
import type { Router, RouteOptions } from '../routers/router.js'
import { SoftRouter, type SoftRouterOptions, type SoftRoutingWeights } from '../routers/soft.js'
import type { SparseRouter, SparseRouting } from '../routers/sparse.js'
import { Experts, type ExpertsLayerOptions, type Mlp } from './experts.js'
import { type LayerContext, Module } from './module.js'

/** What a MoE layer returns. */
export interface MoEOutput {
  /** `[batch, tokens, dim]`. */
  readonly output: Tensor
  /** Weighted sum of the router's auxiliary losses, a float32 tensor of shape `[]`, or null. */
  readonly auxiliaryLoss: Tensor | null
}

/** A mixture-of-experts layer: `Y = combine(experts(dispatch(X)))` with any router. */
export class MoE<R extends Router = Router> extends Module {
  readonly router: R
  readonly experts: Experts

  constructor(router: R, expertOptions: ExpertsLayerOptions, context: LayerContext = {}) {
    super(context)
    this.router = this.child('Router', router)
    this.experts = this.child('Mlp', new Experts(expertOptions, this.context))
  }

  /** @param x - `[batch, tokens, dim]` */
  forward(x: Tensor, options?: RouteOptions): Tensor {
    return this.run(() => this.forwardWithLoss(x, options).output)
  }

  /** As `forward`, with the auxiliary loss to add to the task's. */
  forwardWithLoss(x: Tensor, options?: RouteOptions): MoEOutput {
    requireTokens(x, this.experts.options.dim)
    return this.run(() => {
      const routing = this.router.route(x, options)
      return { output: routing.apply(this.experts), auxiliaryLoss: routing.auxiliaryLoss }
    })
  }

  /** Gives every expert the weights of a dense MLP (sparse upcycling). @throws `ERR_SHAPE` */
  upcycle(mlp: Mlp): this {
    this.experts.upcycle(mlp)
    return this
  }
}

/** Options of `SoftMoE`. */
export interface SoftMoELayerOptions
  extends SoftRouterOptions, Omit<ExpertsLayerOptions, 'dim' | 'numExperts'> {}

/**
 * The Soft MoE layer (Puigcerver et al., "From Sparse to Soft Mixtures of Experts").
 *
 * @example
 * const layer = new SoftMoE({ dim: 384, hiddenDim: 1536, numExperts: 128, slotsPerExpert: 1 })
 * const y = layer.forward(x) // [batch, tokens, 384]
 */
export class SoftMoE extends MoE<SoftRouter> {
  constructor(options: SoftMoELayerOptions, context: LayerContext = {}) {
    const shared = { ...context, random: context.random ?? new RandomSource() }
    super(new SoftRouter(options, shared), options, shared)
  }

  /** A layer whose experts all start as copies of a trained dense MLP. */
  static fromDense(
    mlp: Mlp,
    options: Omit<SoftMoELayerOptions, 'dim' | 'hiddenDim' | 'activation'>,
    context: LayerContext = {},
  ): SoftMoE {
    const layer = new SoftMoE(
      { ...mlp.options, ...options },
      { device: mlp.device, dtype: mlp.dtype, random: mlp.random, ...context },
    )
    return layer.upcycle(mlp)
  }

  /**
   * Dispatch and combine weights of a batch, for inspection; nothing is recorded. The caller disposes of them.
   *
   * @param x - `[batch, tokens, dim]`
   */
  routing(x: Tensor, options?: RouteOptions): SoftRoutingWeights {
    return noGrad(() => this.router.weights(x, options))
  }
}

/** Options of `SparseMoE`. */
export interface SparseMoELayerOptions extends ExpertsLayerOptions {
  /** Made by `tokensChoice`, `expertsChoice` and the like, or a name for the papers' defaults. */
  readonly router: SparseRouterName | SparseRouterConfig
  /** Tokens that are routed together, unless the router says it. Default: all tokens of a batch. */
  readonly groupSize?: number
}

/**
 * A mixture-of-experts layer that routes by index: V-MoE and its relatives. The experts work on the rows that are there,
 * not on empty places of the buffers.
 *
 * @example
 * const router = tokensChoice({ k: 2, capacityFactor: 1.05, batchPriority: true })
 * const layer = new SparseMoE({ dim: 384, hiddenDim: 1536, numExperts: 32, router })
 * const { output, auxiliaryLoss } = layer.forwardWithLoss(x) // x [batch, tokens, 384]
 * const cheaper = layer.eval().forward(x, { k: 1, capacityFactor: 0.5, priority: 'max' })
 */
export class SparseMoE extends MoE<SparseRouter> {
  constructor(options: SparseMoELayerOptions, context: LayerContext = {}) {
    requireObject('the options of SparseMoE', options)
    const shared = { ...context, random: context.random ?? new RandomSource() }
    super(createSparseRouter(options.router, options, shared), options, shared)
  }

  /** A layer whose experts all start as copies of a trained dense MLP (sparse upcycling). */
  static fromDense(
    mlp: Mlp,
    options: Omit<SparseMoELayerOptions, 'dim' | 'hiddenDim' | 'activation'>,
    context: LayerContext = {},
  ): SparseMoE {
    const layer = new SparseMoE(
      { ...mlp.options, ...options },
      { device: mlp.device, dtype: mlp.dtype, random: mlp.random, ...context },
    )
    return layer.upcycle(mlp)
  }

  /**
   * How a batch is routed, without noise, for inspection; nothing is recorded. `readSparseRouting` turns it into plain
   * numbers. The caller disposes of the tensors.
   *
   * @param x - `[batch, tokens, dim]`
   */
  routing(x: Tensor, options?: RouteOptions): SparseRouting {
    requireTokens(x, this.experts.options.dim)
    return this.router.routing(x, options)
  }
}

/** Throws unless `x` is `[batch, tokens, dim]`. */
function requireTokens(x: Tensor, dim: number): void {
  handleOf(x)
  if (x.shape.length !== 3 || x.shape[2] !== dim) {
    throw new SoftMoEError(
      'ERR_SHAPE',
      `the layer got a tensor of shape [${x.shape.join(', ')}]; wanted [batch, tokens, ${dim}]`,
    )
  }
}
