/**
 * The Soft MoE layer as one differentiable operation. The forward is dispatch, experts, combine; knowing all three, the
 * backward makes the gradient of the logits of both softmaxes in one pass and adds the routing's share of dx to the
 * dispatch's in place. It keeps logits, log-sum-exps, slots and pre-activations, never a dispatch or combine matrix.
 */
import { visitTensors } from '../core/lifetime.js'
import { isRecorded, recordOperation } from '../core/tape.js'
import { handleOf, type Tensor } from '../core/tensor.js'
import { native } from '../native.js'
import type { ExpertsOptions, ExpertWeights } from './experts.js'
import { FrozenExperts } from './frozen-experts.js'
import {
  computeSoftLogits,
  nativePlan,
  type SoftLogits,
  softLogitsBackward,
  type SoftLogitsOptions,
  type SoftRoutingPlan,
} from './soft-routing.js'
import { only, saved, wrap, wrapOptional } from './wrap.js'

/** How a Soft MoE layer routes. */
export interface SoftMoEOptions extends SoftLogitsOptions {
  readonly slotsPerExpert: number
  /** Default `soft`; `uniform` and `identity` are the ablations of the paper's section 3.6. */
  readonly dispatch?: SoftRoutingPlan['dispatch']
  /** Default `soft`. */
  readonly combine?: SoftRoutingPlan['combine']
}

/** The routing of tokens `x`: the plan, and the logits if a side is soft. */
export function softRoutingPlan(
  x: Tensor,
  phi: Tensor,
  scaleFactor: Tensor,
  options: SoftMoEOptions,
): { readonly plan: SoftRoutingPlan; readonly logits: SoftLogits | null } {
  const { numExperts, slotsPerExpert, dispatch = 'soft', combine = 'soft', mask = null } = options
  const soft = dispatch === 'soft' || combine === 'soft'
  const logits = soft ? computeSoftLogits(x, phi, scaleFactor, options) : null
  const plan: SoftRoutingPlan = {
    batch: x.shape[0] ?? 0,
    tokens: x.shape[1] ?? 0,
    numExperts,
    slotsPerExpert,
    dispatch,
    combine,
    logits: logits?.logits ?? null,
    dispatchLse: logits?.dispatchLse ?? null,
    combineLse: logits?.combineLse ?? null,
    mask,
  }
  return { plan, logits }
}

/**
 * `combine(experts(dispatch(x)))` (Soft MoE, Algorithm 1).
 *
 * @param x - `[batch, tokens, dim]`
 * @param phi - float32 `[dim, slots]`, slots expert-major
 * @param scaleFactor - float32 tensor of one element
 * @param weights - of the experts; frozen ones have no gradient, which the caller sees to
 * @returns `[batch, tokens, dim]`
 * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_DEVICE`, `ERR_INVALID_ARGUMENT`
 */
export function softMoe(
  x: Tensor,
  phi: Tensor,
  scaleFactor: Tensor,
  weights: ExpertWeights | FrozenExperts,
  options: SoftMoEOptions,
  expertOptions: ExpertsOptions = {},
): Tensor {
  if (weights instanceof FrozenExperts) {
    return frozenSoftMoe(x, phi, scaleFactor, weights, options, expertOptions)
  }
  const { activation = 'gelu', dropoutRate = 0, key = { seed: 0, stream: 0 } } = expertOptions
  const { w1, b1, w2, b2 } = weights
  const { device } = x
  const recorded = isRecorded(x, phi, scaleFactor, w1, b1, w2, b2)
  const { plan, logits } = softRoutingPlan(x, phi, scaleFactor, options)
  const operands = nativePlan(plan)
  const slotsIn = wrap(native.tokensToSlots(operands, 'dispatch', handleOf(x)), device)
  const [outHandle, preHandle] = native.experts(
    slotsIn.handle,
    null,
    null,
    handleOf(w1),
    handleOf(b1),
    handleOf(w2),
    handleOf(b2),
    activation,
    dropoutRate,
    key,
    recorded,
  )
  const slotsOut = wrap(outHandle, device)
  const pre = wrapOptional(preHandle, device)
  const y = wrap(native.slotsToTokens(operands, 'combine', slotsOut.handle), device)
  const kept: (Tensor | null)[] = [slotsIn, slotsOut, pre]
  if (logits !== null) {
    const { dispatchLse, combineLse, tokenNorm, slotNorm } = logits
    kept.push(logits.logits, dispatchLse, combineLse, tokenNorm, slotNorm)
  }
  recordOperation('softMoe', [x, phi, scaleFactor, w1, b1, w2, b2], [y], kept, (dys, [wantsX]) => {
    const dy = only(dys)
    const dSlotsOut = wrap(native.tokensToSlots(operands, 'combine', dy.handle), device)
    const [dSlotsInHandle, ...expertGradients] = native.expertsBackward(
      slotsIn.handle,
      null,
      null,
      w1.handle,
      w2.handle,
      saved(pre).handle,
      dSlotsOut.handle,
      activation,
      dropoutRate,
      key,
    )
    dSlotsOut.dispose()
    const dSlotsIn = wrap(dSlotsInHandle, device)
    const dWeights = expertGradients.map((gradient) => wrap(gradient, device))
    let dx: Tensor | null = wrap(native.slotsToTokens(operands, 'dispatch', dSlotsIn.handle), device)
    let dPhi: Tensor | null = null
    let dScale: Tensor | null = null
    if (logits !== null) {
      const dispatchSide = plan.dispatch === 'soft'
      const combineSide = plan.combine === 'soft'
      const dLogits = wrap(
        native.softLogitsGradient(
          operands,
          dispatchSide ? x.handle : null,
          dispatchSide ? slotsIn.handle : null,
          dispatchSide ? dSlotsIn.handle : null,
          combineSide ? dy.handle : null,
          combineSide ? y.handle : null,
          combineSide ? slotsOut.handle : null,
        ),
        device,
      )
      const direct = dx
      ;[dx, dPhi, dScale] = softLogitsBackward(x, phi, scaleFactor, logits, dLogits, options, direct)
      direct.dispose()
      dLogits.dispose()
    }
    dSlotsIn.dispose()
    if (!wantsX) {
      dx.dispose()
      dx = null
    }
    return [dx, dPhi, dScale, ...dWeights]
  })
  if (!recorded) for (const tensor of kept) tensor?.dispose()
  return y
}

function frozenSoftMoe(
  x: Tensor,
  phi: Tensor,
  scaleFactor: Tensor,
  experts: FrozenExperts,
  options: SoftMoEOptions,
  { activation = 'gelu' }: ExpertsOptions,
): Tensor {
  const { plan, logits } = softRoutingPlan(x, phi, scaleFactor, options)
  const operands = nativePlan(plan)
  const slotsIn = wrap(native.tokensToSlots(operands, 'dispatch', handleOf(x)), x.device)
  const slotsOut = experts.apply(slotsIn, activation)
  const y = wrap(native.slotsToTokens(operands, 'combine', slotsOut.handle), x.device)
  slotsIn.dispose()
  slotsOut.dispose()
  if (logits !== null) visitTensors(logits, (tensor) => tensor.dispose())
  return y
}
