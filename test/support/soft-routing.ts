// Soft MoE cases on a device: operands, plans from the oracle's numbers, and the layer put together from operations.
import {
  combine,
  dispatch,
  experts,
  softLogits,
  type SoftLogitsOptions,
  type SoftRoutingPlan,
  type Tensor,
} from '../../lib/index.js'
import { softMoe } from '../../lib/ops/soft-moe.js'
import { type RandomSource, type Ref, reshape, zeros } from '../reference/array.js'
import { combineWeights, dispatchWeights } from '../reference/soft-routing.js'
import { paddingMask, type SoftCase } from './arbitraries.js'
import { device, type Operand, randomOperand } from './tensors.js'

export const EPSILON_MODES = { inside: 'inside-root', outside: 'outside-root' } as const

/** The mask of a case as a tensor, int32 [batch, tokens]; null when it has none. */
export function maskTensor(mask: Int32Array | undefined, batch: number, tokens: number): Tensor | null {
  return mask === undefined ? null : device.tensor(mask, [batch, tokens])
}

/** Phi [dim, slots] as the oracles see it, [dim, experts, slotsPerExpert]. */
export function phiOf(phi: Ref, { dim, experts, slotsPerExpert }: SoftCase): Ref {
  return reshape(phi, dim, experts, slotsPerExpert)
}

export interface LayerOperands {
  readonly x: Operand
  readonly phi: Operand
  readonly scale: Operand
  readonly w1: Operand
  readonly b1: Operand
  readonly w2: Operand
  readonly b2: Operand
}

/** A tensor for each operand. */
export type LayerTensors = { readonly [Name in keyof LayerOperands]: Tensor }

/** What of a case the layer's operations are told. */
export type LayerShape = Pick<SoftCase, 'experts' | 'slotsPerExpert' | 'dispatch' | 'combine'>

/** Operands of a whole Soft MoE layer of a case; outputs are as wide as inputs. */
export function layerOperands(example: SoftCase, random: RandomSource): LayerOperands {
  const { batch, tokens, dim, experts: count, slotsPerExpert, hidden, storage } = example
  return {
    x: randomOperand(random, [batch, tokens, dim], storage),
    phi: randomOperand(random, [dim, count * slotsPerExpert], 'float32', 1 / Math.sqrt(count * dim)),
    scale: [{ shape: [1], data: Float64Array.of(example.scale) }, 'float32'],
    w1: randomOperand(random, [count, dim, hidden], storage, 1 / Math.sqrt(dim)),
    b1: randomOperand(random, [count, hidden]),
    w2: randomOperand(random, [count, hidden, dim], storage, 1 / Math.sqrt(hidden)),
    b2: randomOperand(random, [count, dim]),
  }
}

/** combine(experts(dispatch(x))) from the operations, as a layer puts them together. */
export function softMoELayer(
  tensors: LayerTensors,
  example: LayerShape,
  options: Omit<SoftLogitsOptions, 'numExperts'> = {},
): Tensor {
  const { x, phi, scale, ...weights } = tensors
  const [batch, tokens] = x.shape
  const { logits, dispatchLse, combineLse } = softLogits(x, phi, scale, {
    ...options,
    numExperts: example.experts,
  })
  const plan: SoftRoutingPlan = {
    batch,
    tokens,
    numExperts: example.experts,
    slotsPerExpert: example.slotsPerExpert,
    dispatch: example.dispatch,
    combine: example.combine,
    logits,
    dispatchLse,
    combineLse,
    mask: options.mask ?? null,
  }
  return combine(plan, experts(dispatch(plan, x), weights))
}

/** The same layer as the one fused operation. */
export function fusedSoftMoELayer(
  tensors: LayerTensors,
  { experts: numExperts, slotsPerExpert, dispatch, combine }: LayerShape,
  options: Omit<SoftLogitsOptions, 'numExperts'> = {},
): Tensor {
  const { x, phi, scale, ...weights } = tensors
  return softMoe(x, phi, scale, weights, { ...options, numExperts, slotsPerExpert, dispatch, combine })
}

function logSumExp(values: readonly number[]): number {
  const largest = Math.max(...values)
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0))
}

/** Log-sum-exps of logits [B, M, N, P]: over the valid tokens [B, slots] (Infinity without any), over slots [B, M]. */
export function logSumExps(logits: Ref, mask?: Int32Array): { dispatchLse: Ref; combineLse: Ref } {
  const [batch, tokens, count, slotsPerExpert] = logits.shape
  const slots = count * slotsPerExpert
  const dispatchLse = zeros(batch, slots)
  const combineLse = zeros(batch, tokens)
  for (let b = 0; b < batch; b++) {
    for (let j = 0; j < slots; j++) {
      const valid = Array.from({ length: tokens }, (_, m) => b * tokens + m).filter(
        (row) => mask?.[row] !== 0,
      )
      const values = valid.map((row) => logits.data[row * slots + j])
      dispatchLse.data[b * slots + j] = values.length === 0 ? Infinity : logSumExp(values)
    }
    for (let m = 0; m < tokens; m++) {
      const row = b * tokens + m
      combineLse.data[row] = logSumExp([...logits.data.subarray(row * slots, (row + 1) * slots)])
    }
  }
  return { dispatchLse, combineLse }
}

/** What a case's dispatch and combine weights are, [B, M, N, P] each. */
export function weightsOf(example: SoftCase, logits: Ref): { dispatch: Ref; combine: Ref } {
  const mask = paddingMask(example)
  return {
    dispatch: dispatchWeights(logits, example.dispatch, mask),
    combine: combineWeights(logits, example.combine, mask),
  }
}
