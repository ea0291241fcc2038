import { requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import type { Tensor } from '../core/tensor.js'
import { Module } from '../layers/module.js'
import type { Experts } from '../layers/experts.js'
import type { RoutingPriority } from '../native.js'

/**
 * Options of one call of a MoE layer. All but the mask change the compute of a trained layer (V-MoE, section 4: no
 * parameter depends on them); default is what the router was made with.
 */
export interface RouteOptions {
  /** int32 `[batch, tokens]`: 0 marks padding (Soft MoE only). */
  readonly mask?: Tensor | null
  /** Experts of each token (Tokens Choice only). */
  readonly k?: number
  /** Places in the experts' buffers, in relation to the tokens (routers by index). */
  readonly capacityFactor?: number
  /** Who gets the places (Tokens Choice only). */
  readonly priority?: RoutingPriority
  /** Whether nothing is dropped, whatever the capacity (Tokens Choice only). */
  readonly dropless?: boolean
}

/** Options of a router's metrics. */
export interface MetricsOptions {
  /** The options of the call that is measured. */
  readonly call?: RouteOptions
  /** Whether cosine similarities of weights are measured, too (Soft MoE; quadratic in tokens and slots). Default false. */
  readonly similarity?: boolean
}

/** How one batch of tokens is routed. Every layer of the papers is `Y = combine(experts(dispatch(X)))`. */
export interface Routing {
  /** `combine(experts(dispatch(x)))` for the tokens that were routed, `[batch, tokens, dim]` -> the same. */
  apply(experts: Experts): Tensor
  /** Weighted sum of the router's auxiliary losses, a float32 tensor of shape `[]`, or null. */
  readonly auxiliaryLoss: Tensor | null
}

/** Decides which expert works on what. Adding a router is adding one file with a subclass of this. */
export abstract class Router extends Module {
  /** Name of the method, as on the command line. */
  abstract readonly method: string
  /** The options of a call that this router has a use for. */
  abstract readonly callOptions: readonly (keyof RouteOptions)[]
  /** @param x - `[batch, tokens, dim]` */
  abstract route(x: Tensor, options?: RouteOptions): Routing

  /** Numbers that say how a batch is routed, without noise. @param x - `[batch, tokens, dim]` */
  abstract metrics(x: Tensor, options?: MetricsOptions): Promise<Record<string, number>>

  /** Throws `ERR_INVALID_ARGUMENT` for an option of a call that this router has no use for. */
  protected requireCallOptions(options: RouteOptions): void {
    requireObject('the options of a call', options)
    const names = Object.keys(options) as (keyof RouteOptions)[]
    const unknown = names.find(
      (name) => options[name] !== undefined && options[name] !== null && !this.callOptions.includes(name),
    )
    if (unknown === undefined) return
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `a call of a layer with the router '${this.method}' was given ${unknown}; ` +
        `this router takes ${this.callOptions.join(', ')}: leave it out, or use another router`,
    )
  }
}
