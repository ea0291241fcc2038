/**
 * Soft MoE routing (Puigcerver et al., "From Sparse to Soft Mixtures of Experts", Algorithms 1 and 2): L2-normalised
 * logits, dispatch (softmax over tokens) and combine (softmax over all slots). Neither weight matrix is ever stored.
 */
import { requireObject } from '../core/arguments.js'
import { recordOperation } from '../core/tape.js'
import { handleOf, optionalHandle, type Tensor } from '../core/tensor.js'
import { native, type NativeSoftRouting, type RandomKey, type RoutingWeights } from '../native.js'
import { only, wrap } from './wrap.js'

/** Options of `softLogits`. */
export interface SoftLogitsOptions {
  /** Number of experts; Phi's columns are shared evenly among them, expert-major. */
  readonly numExperts: number
  /** Guards the normalisation against zero vectors. Default 1e-6. */
  readonly eps?: number
  /**
   * Where eps stands: `inside-root`, `x / sqrt(|x|^2 + eps)` (the official code, default), or `outside-root`,
   * `x / (|x| + eps)` (the paper's Algorithm 2).
   */
  readonly epsMode?: 'inside-root' | 'outside-root'
  /** Standard deviation of noise that is added to the logits. Default 0. */
  readonly noiseStd?: number
  /** Key of the noise. */
  readonly key?: RandomKey
  /** int32 `[batch, tokens]`: 0 marks padding, which no slot sees and which gets no output. */
  readonly mask?: Tensor | null
}

/** What dispatch and combine weights are made from. */
export interface SoftRoutingPlan {
  readonly batch: number
  readonly tokens: number
  readonly numExperts: number
  readonly slotsPerExpert: number
  /** How dispatch weights are made; `uniform` and `identity` are the paper's ablations (section 3.6). */
  readonly dispatch: RoutingWeights
  readonly combine: RoutingWeights
  /** float32 `[batch, tokens, slots]`; null if no side is soft. */
  readonly logits: Tensor | null
  /** float32 `[batch, slots]`: log-sum-exp over tokens. */
  readonly dispatchLse: Tensor | null
  /** float32 `[batch, tokens]`: log-sum-exp over slots. */
  readonly combineLse: Tensor | null
  readonly mask: Tensor | null
}

/** The plan as the addon takes it. */
export function nativePlan(plan: SoftRoutingPlan): NativeSoftRouting {
  requireObject('the routing plan', plan)
  return {
    ...plan,
    logits: optionalHandle(plan.logits),
    dispatchLse: optionalHandle(plan.dispatchLse),
    combineLse: optionalHandle(plan.combineLse),
    mask: optionalHandle(plan.mask),
  }
}

/** Logits with both log-sum-exps, and the inverse norms that their gradient needs. */
export interface SoftLogits {
  readonly logits: Tensor
  readonly dispatchLse: Tensor
  readonly combineLse: Tensor
  /** float32 `[batch, tokens]`. */
  readonly tokenNorm: Tensor
  /** float32 `[slots]`. */
  readonly slotNorm: Tensor
}

/**
 * `scale * normalise(x) normalise(phi) (+ noise)` and both log-sum-exps, from one pass over the logits.
 *
 * @param x - `[batch, tokens, dim]`
 * @param phi - float32 `[dim, slots]`
 * @param scaleFactor - float32 tensor of one element
 * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_INVALID_ARGUMENT`
 */
export function softLogits(
  x: Tensor,
  phi: Tensor,
  scaleFactor: Tensor,
  options: SoftLogitsOptions,
): SoftLogits {
  const result = computeSoftLogits(x, phi, scaleFactor, options)
  const { logits, dispatchLse, combineLse, tokenNorm, slotNorm } = result
  recordOperation(
    'softLogits',
    [x, phi, scaleFactor],
    [logits],
    [dispatchLse, combineLse, tokenNorm, slotNorm],
    (dys, [wantsX]) => {
      const [dx, dPhi, dScale] = softLogitsBackward(x, phi, scaleFactor, result, only(dys), options, null)
      return [wantsX ? dx : null, dPhi, dScale]
    },
  )
  return result
}

/** `softLogits` without recording. */
export function computeSoftLogits(
  x: Tensor,
  phi: Tensor,
  scaleFactor: Tensor,
  options: SoftLogitsOptions,
): SoftLogits {
  requireObject('the options of softLogits', options)
  const { eps = 1e-6, epsMode = 'inside-root', noiseStd = 0, key = { seed: 0, stream: 0 } } = options
  const [logits, dispatchLse, combineLse, tokenNorm, slotNorm] = native
    .softLogits(
      handleOf(x),
      handleOf(phi),
      handleOf(scaleFactor),
      optionalHandle(options.mask),
      options.numExperts,
      eps,
      epsMode === 'inside-root',
      noiseStd,
      key,
    )
    .map((handle) => wrap(handle, x.device)) as [Tensor, Tensor, Tensor, Tensor, Tensor]
  return { logits, dispatchLse, combineLse, tokenNorm, slotNorm }
}

/** Gradients of the logits; `dxDirect` is added to in place and becomes dx. */
export function softLogitsBackward(
  x: Tensor,
  phi: Tensor,
  scaleFactor: Tensor,
  forward: SoftLogits,
  dLogits: Tensor,
  options: SoftLogitsOptions,
  dxDirect: Tensor | null,
): [Tensor, Tensor, Tensor] {
  const { eps = 1e-6, epsMode = 'inside-root' } = options
  const [dx, dPhi, dScale] = native.softLogitsBackward(
    x.handle,
    phi.handle,
    scaleFactor.handle,
    forward.tokenNorm.handle,
    forward.slotNorm.handle,
    dLogits.handle,
    options.numExperts,
    eps,
    epsMode === 'inside-root',
    optionalHandle(dxDirect),
  )
  return [wrap(dx, x.device), wrap(dPhi, x.device), wrap(dScale, x.device)]
}

/**
 * Fills the slots: `slots[j] = sum over tokens m of D[m, j] x[m]`.
 *
 * @param x - `[batch, tokens, dim]`
 * @returns `[experts, batch * slotsPerExpert, dim]`
 */
export function dispatch(plan: SoftRoutingPlan, x: Tensor): Tensor {
  const operands = nativePlan(plan)
  const slots = wrap(native.tokensToSlots(operands, 'dispatch', handleOf(x)), x.device)
  recordOperation('dispatch', [x, plan.logits], [slots], [], (dys, [wantsX, wantsLogits]) => {
    const dSlots = only(dys)
    return [
      wantsX ? wrap(native.slotsToTokens(operands, 'dispatch', dSlots.handle), x.device) : null,
      wantsLogits && plan.dispatch === 'soft'
        ? wrap(
            native.softLogitsGradient(operands, x.handle, slots.handle, dSlots.handle, null, null, null),
            x.device,
          )
        : null,
    ]
  })
  return slots
}

/**
 * Reads the slots: `y[m] = sum over slots j of C[m, j] slots[j]`.
 *
 * @param slots - `[experts, batch * slotsPerExpert, dim]`
 * @returns `[batch, tokens, dim]`
 */
export function combine(plan: SoftRoutingPlan, slots: Tensor): Tensor {
  const operands = nativePlan(plan)
  const y = wrap(native.slotsToTokens(operands, 'combine', handleOf(slots)), slots.device)
  recordOperation('combine', [slots, plan.logits], [y], [], (dys, [wantsSlots, wantsLogits]) => {
    const dy = only(dys)
    return [
      wantsSlots ? wrap(native.tokensToSlots(operands, 'combine', dy.handle), slots.device) : null,
      wantsLogits && plan.combine === 'soft'
        ? wrap(
            native.softLogitsGradient(operands, null, null, null, dy.handle, y.handle, slots.handle),
            slots.device,
          )
        : null,
    ]
  })
  return y
}

/** Dispatch weights D, float32 `[batch, tokens, slots]`, for inspection; not differentiable. */
export function dispatchWeights(plan: SoftRoutingPlan, like: Tensor): Tensor {
  handleOf(like)
  return wrap(native.softWeights(nativePlan(plan), 'dispatch', like.device), like.device)
}

/** Combine weights C, float32 `[batch, tokens, slots]`, for inspection; not differentiable. */
export function combineWeights(plan: SoftRoutingPlan, like: Tensor): Tensor {
  handleOf(like)
  return wrap(native.softWeights(nativePlan(plan), 'combine', like.device), like.device)
}
