// The whole Soft MoE layer: y = combine(experts(dispatch(x))), forward and all gradients
// (Puigcerver et al., 2024, Algorithm 1; ablations of section 3.6).
import { add, type Ref, zeros } from './array.js'
import { type ExpertOptions, type ExpertWeights, uniformExperts, uniformExpertsBackward } from './experts.js'
import {
  combineWeights,
  combineWeightsBackward,
  dispatchWeights,
  dispatchWeightsBackward,
  type NormalisationOptions,
  slotsToTokens,
  softLogits,
  softLogitsBackward,
  tokenSlotProducts,
  tokensToSlots,
  type WeightsMode,
} from './soft-routing.js'

/** phi [d, N, P], scale, and the weights of the N experts. */
export interface SoftMoEWeights extends ExpertWeights {
  readonly phi: Ref
  readonly scale: number
}

export interface SoftMoEOptions extends NormalisationOptions, ExpertOptions {
  /** Default 'soft'. */
  readonly dispatch?: WeightsMode
  /** Default 'soft'. */
  readonly combine?: WeightsMode
  /** [B·M], 0 where a token is padding. */
  readonly mask?: ArrayLike<number>
  /** Added to the logits [B, M, N, P]. */
  readonly noise?: Ref
}

export interface SoftMoEResult {
  /** [B, M, o] */
  readonly y: Ref
  /** [B, M, N, P] each */
  readonly logits: Ref
  readonly dispatch: Ref
  readonly combine: Ref
  /** [B, N, P, d] and [B, N, P, o] */
  readonly slotInputs: Ref
  readonly slotOutputs: Ref
}

export interface SoftMoEGradients {
  readonly dx: Ref
  readonly dPhi: Ref
  readonly dScale: number
  readonly dScaleMagnitude: number
  readonly dw1: Ref
  readonly db1: Ref
  readonly dw2: Ref
  readonly db2: Ref
}

/** Slots [B, N, P, d] as the experts' rows [N, B·P, d]: row b·P + p of expert n. */
export function slotsToExpertRows(slots: Ref): Ref {
  const [batch, experts, slotsPerExpert, dim] = slots.shape
  const rows = zeros(experts, batch * slotsPerExpert, dim)
  for (let b = 0; b < batch; b++) {
    for (let n = 0; n < experts; n++) {
      for (let p = 0; p < slotsPerExpert; p++) {
        const from = ((b * experts + n) * slotsPerExpert + p) * dim
        const to = ((n * batch + b) * slotsPerExpert + p) * dim
        for (let i = 0; i < dim; i++) rows.data[to + i] = slots.data[from + i]
      }
    }
  }
  return rows
}

/** The inverse of `slotsToExpertRows`: [N, B·P, d] → [B, N, P, d]. */
export function expertRowsToSlots(rows: Ref, batch: number): Ref {
  const [experts, count, dim] = rows.shape
  const slotsPerExpert = batch === 0 ? 0 : count / batch
  const slots = zeros(batch, experts, slotsPerExpert, dim)
  for (let b = 0; b < batch; b++) {
    for (let n = 0; n < experts; n++) {
      for (let p = 0; p < slotsPerExpert; p++) {
        const to = ((b * experts + n) * slotsPerExpert + p) * dim
        const from = ((n * batch + b) * slotsPerExpert + p) * dim
        for (let i = 0; i < dim; i++) slots.data[to + i] = rows.data[from + i]
      }
    }
  }
  return slots
}

/** x [B, M, d] → y [B, M, o] and everything between. */
export function softMoE(x: Ref, weights: SoftMoEWeights, options: SoftMoEOptions = {}): SoftMoEResult {
  const logits = softLogits(x, weights.phi, weights.scale, options, options.noise)
  const dispatch = dispatchWeights(logits, options.dispatch, options.mask)
  const combine = combineWeights(logits, options.combine, options.mask)
  const slotInputs = tokensToSlots(dispatch, x)
  const rows = uniformExperts(slotsToExpertRows(slotInputs), weights, options)
  const slotOutputs = expertRowsToSlots(rows, x.shape[0])
  return { y: slotsToTokens(combine, slotOutputs), logits, dispatch, combine, slotInputs, slotOutputs }
}

/** All gradients of `softMoE` for dy [B, M, o]. */
export function softMoEBackward(
  x: Ref,
  weights: SoftMoEWeights,
  dy: Ref,
  options: SoftMoEOptions = {},
): SoftMoEGradients {
  const forward = softMoE(x, weights, options)
  const dSlotOutputs = tokensToSlots(forward.combine, dy)
  const { dx: dRows, ...dExperts } = uniformExpertsBackward(
    slotsToExpertRows(forward.slotInputs),
    weights,
    slotsToExpertRows(dSlotOutputs),
    options,
  )
  const dSlotInputs = expertRowsToSlots(dRows, x.shape[0])
  let dLogits = zeros(...forward.logits.shape)
  if ((options.dispatch ?? 'soft') === 'soft') {
    dLogits = add(dLogits, dispatchWeightsBackward(forward.dispatch, tokenSlotProducts(x, dSlotInputs)))
  }
  if ((options.combine ?? 'soft') === 'soft') {
    dLogits = add(
      dLogits,
      combineWeightsBackward(forward.combine, tokenSlotProducts(dy, forward.slotOutputs)),
    )
  }
  const { dx: dxRouter, ...dRouter } = softLogitsBackward(x, weights.phi, weights.scale, dLogits, options)
  return { dx: add(slotsToTokens(forward.dispatch, dSlotInputs), dxRouter), ...dRouter, ...dExperts }
}
