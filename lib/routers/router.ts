import type { Tensor } from '../core/tensor.js'
import { Module } from '../layers/module.js'
import type { Experts } from '../layers/experts.js'

/** Options of one call of a MoE layer. */
export interface RouteOptions {
  /** int32 `[batch, tokens]`: 0 marks padding. */
  readonly mask?: Tensor | null
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
  /** @param x - `[batch, tokens, dim]` */
  abstract route(x: Tensor, options?: RouteOptions): Routing
}
