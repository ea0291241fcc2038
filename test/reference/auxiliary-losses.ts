// Auxiliary losses of sparse routers, of one group, with their gradients (V-MoE, appendix A; GShard, algorithm 1;
// ST-MoE, equation 5).
import { type Ref, zeros } from './array.js'
import { normalDensity, normalDistribution } from './gelu.js'
import { softmaxRows } from './softmax.js'
import { descendingOrder } from './tokens-choice.js'

export interface RouterLoss {
  readonly loss: number
  /** With respect to the first argument, [S, E]. */
  readonly gradient: Ref
}

/** var(v)/mean(v)² with the population variance, and its derivatives. */
function squaredVariation(values: Float64Array): { value: number; derivatives: Float64Array } {
  const count = values.length
  let mean = 0
  for (const v of values) mean += v / count
  let variance = 0
  for (const v of values) variance += (v - mean) ** 2 / count
  const derivatives = values.map(
    (v) => (2 * (v - mean)) / (count * mean ** 2) - (2 * variance) / (count * mean ** 3),
  )
  return { value: variance / mean ** 2, derivatives }
}

/** Squared coefficient of variation of each expert's sum of clean gates [S, E]. */
export function importanceLoss(gates: Ref): RouterLoss {
  const [tokens, experts] = gates.shape
  const importance = new Float64Array(experts)
  for (let i = 0; i < tokens * experts; i++) importance[i % experts] += gates.data[i]
  const { value, derivatives } = squaredVariation(importance)
  const gradient = zeros(tokens, experts)
  for (let i = 0; i < tokens * experts; i++) gradient.data[i] = derivatives[i % experts]
  return { loss: value, gradient }
}

/**
 * Squared coefficient of variation of each expert's mean probability to be selected if the noise were drawn again.
 * logits and noisyLogits [S, E], noise of standard deviation sigma > 0. The threshold is the k-th largest noisy
 * logit of the token; it moves with that logit.
 */
export function loadLoss(logits: Ref, noisyLogits: Ref, k: number, sigma: number): RouterLoss {
  const [tokens, experts] = logits.shape
  const thresholdExpert = (s: number): number =>
    descendingOrder(experts, (e) => noisyLogits.data[s * experts + e])[k - 1]
  const distance = (s: number, e: number): number =>
    (noisyLogits.data[s * experts + thresholdExpert(s)] - logits.data[s * experts + e]) / sigma
  const load = new Float64Array(experts)
  for (let s = 0; s < tokens; s++) {
    for (let e = 0; e < experts; e++) load[e] += normalDistribution(-distance(s, e)) / tokens
  }
  const { value, derivatives } = squaredVariation(load)
  const gradient = zeros(tokens, experts)
  for (let s = 0; s < tokens; s++) {
    for (let e = 0; e < experts; e++) {
      const slope = (derivatives[e] * normalDensity(distance(s, e))) / (sigma * tokens)
      gradient.data[s * experts + e] += slope
      gradient.data[s * experts + thresholdExpert(s)] -= slope
    }
  }
  return { loss: value, gradient }
}

/** E · Σ_e (fraction of tokens whose best expert is e) · (mean gate of e), gates [S, E]; the fraction is constant. */
export function gshardLoss(gates: Ref): RouterLoss {
  const [tokens, experts] = gates.shape
  const fraction = new Float64Array(experts)
  for (let s = 0; s < tokens; s++) {
    fraction[descendingOrder(experts, (e) => gates.data[s * experts + e])[0]] += 1 / tokens
  }
  let loss = 0
  const gradient = zeros(tokens, experts)
  for (let i = 0; i < tokens * experts; i++) {
    gradient.data[i] = (experts * fraction[i % experts]) / tokens
    loss += gradient.data[i] * gates.data[i]
  }
  return { loss, gradient }
}

/** Mean over the tokens of (log Σ_e exp logits)², logits [S, E]. */
export function zLoss(logits: Ref): RouterLoss {
  const [tokens, experts] = logits.shape
  const softmax = softmaxRows(logits)
  const gradient = zeros(tokens, experts)
  let loss = 0
  for (let s = 0; s < tokens; s++) {
    // log Σ exp l = l₀ − log softmax₀, taken at the largest entry, whose softmax cannot underflow.
    const best = descendingOrder(experts, (e) => logits.data[s * experts + e])[0]
    const logSum = logits.data[s * experts + best] - Math.log(softmax.data[s * experts + best])
    loss += logSum ** 2 / tokens
    for (let e = 0; e < experts; e++) {
      gradient.data[s * experts + e] = (2 * logSum * softmax.data[s * experts + e]) / tokens
    }
  }
  return { loss, gradient }
}
