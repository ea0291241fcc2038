import { given, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { noGrad } from '../core/tape.js'
import type { Tensor } from '../core/tensor.js'
import { constant, lecunNormal } from '../layers/initializers.js'
import type { Experts } from '../layers/experts.js'
import { type LayerContext, requireCount } from '../layers/module.js'
import type { Parameter } from '../layers/parameter.js'
import type { RoutingWeights } from '../native.js'
import { softMoe, type SoftMoEOptions, softRoutingPlan } from '../ops/soft-moe.js'
import { combineWeights, dispatchWeights } from '../ops/soft-routing.js'
import { type MetricsOptions, Router, type RouteOptions, type Routing } from './router.js'
import { softMetrics } from './soft-statistics.js'

/** Options of `SoftRouter`. */
export interface SoftRouterOptions {
  readonly dim: number
  readonly numExperts: number
  /** Slots of each expert. The papers' long runs use 1. */
  readonly slotsPerExpert: number
  /** Where eps stands in the L2 normalisation; see `SoftLogitsOptions`. Default `inside-root`. */
  readonly epsMode?: 'inside-root' | 'outside-root'
  /** Default 1e-6. */
  readonly eps?: number
  /** Standard deviation of noise on the logits, in training. Default 0. */
  readonly noiseStd?: number
  /** First value of the learned scale of the logits. Default 1. */
  readonly scaleInit?: number
  /** Default `soft`; the others are ablations (Soft MoE, section 3.6). */
  readonly dispatch?: RoutingWeights
  /** Default `soft`. */
  readonly combine?: RoutingWeights
}

/** What `SoftMoE.routing` shows. */
export interface SoftRoutingWeights {
  /** float32 `[batch, tokens, slots]`; each slot's weights sum to 1 over tokens. Slot = expert * slotsPerExpert + p. */
  readonly dispatch: Tensor
  /** float32 `[batch, tokens, slots]`; each token's weights sum to 1 over slots. */
  readonly combine: Tensor
}

/** Soft MoE: every slot is a weighted mean of all tokens, every token a weighted mean of all slots. */
export class SoftRouter extends Router {
  readonly method = 'soft'
  readonly callOptions = ['mask'] as const
  readonly options: SoftRouterOptions
  /** Phi, `[dim, numExperts, slotsPerExpert]`. */
  readonly mu: Parameter
  readonly scale: Parameter

  constructor(options: SoftRouterOptions, context: LayerContext = {}) {
    super(context)
    requireObject('the options of SoftRouter', options)
    const { dim, numExperts, slotsPerExpert, noiseStd = 0, scaleInit = 1 } = options
    requireCount('dim', dim)
    requireCount('numExperts', numExperts)
    requireCount('slotsPerExpert', slotsPerExpert)
    if (!(Number.isFinite(noiseStd) && noiseStd >= 0) || !Number.isFinite(scaleInit)) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `noiseStd is ${given(noiseStd)} and scaleInit is ${given(scaleInit)}; wanted finite numbers, noiseStd 0 or more`,
      )
    }
    this.options = options
    // The official initialiser counts experts into the fan-in: variance 1 / (numExperts * dim).
    this.mu = this.parameter('mu', [dim, numExperts, slotsPerExpert], lecunNormal(numExperts * dim))
    this.scale = this.parameter('scale', [1], constant(scaleInit))
  }

  #softOptions(mask: Tensor | null): SoftMoEOptions {
    const { noiseStd = 0, ...options } = this.options
    return this.training && noiseStd > 0
      ? { ...options, mask, noiseStd, key: this.random.next() }
      : { ...options, mask }
  }

  #phi(): Tensor {
    const { dim, numExperts, slotsPerExpert } = this.options
    return this.mu.operand('float32', [dim, numExperts * slotsPerExpert])
  }

  route(x: Tensor, call: RouteOptions = {}): Routing {
    this.requireCallOptions(call)
    const options = this.#softOptions(call.mask ?? null)
    return {
      auxiliaryLoss: null,
      apply: (experts: Experts) =>
        softMoe(x, this.#phi(), this.scale.value, experts.operands(), options, experts.callOptions()),
    }
  }

  override async metrics(x: Tensor, options: MetricsOptions = {}): Promise<Record<string, number>> {
    const { dispatch, combine } = noGrad(() => this.weights(x, options.call))
    try {
      const { dim, numExperts, slotsPerExpert } = this.options
      return softMetrics(
        {
          dispatch: await dispatch.data(),
          combine: await combine.data(),
          mu: await this.mu.value.data(),
          scale: await this.scale.value.item(),
        },
        { batch: x.shape[0] ?? 0, tokens: x.shape[1] ?? 0, dim, numExperts, slotsPerExpert },
        options.similarity,
      )
    } finally {
      dispatch.dispose()
      combine.dispose()
    }
  }

  /** The weights of a batch, for inspection; without noise. @param x - `[batch, tokens, dim]` */
  weights(x: Tensor, call: RouteOptions = {}): SoftRoutingWeights {
    this.requireCallOptions(call)
    const { mask = null } = call
    return this.run(() => {
      const { plan } = softRoutingPlan(x, this.#phi(), this.scale.value, {
        ...this.options,
        noiseStd: 0,
        mask,
      })
      return { dispatch: dispatchWeights(plan, x), combine: combineWeights(plan, x) }
    })
  }
}
