// The router of Soft MoE (Puigcerver et al., 2024, Algorithms 1 and 2): logits of normalised tokens and slots,
// softmax over tokens for dispatch, softmax over slots for combine, and the two weighted means.
//
// Shapes: x [B, M, d]; phi [d, N, P]; logits, dispatch and combine weights [B, M, N, P]; slots [B, N, P, d].
import { type Ref, zeros } from './array.js'

/**
 * Where eps stands: 'inside' divides by √(Σx² + eps) (the papers' code), 'outside' by ‖x‖ + eps (Algorithm 2).
 */
export type EpsilonMode = 'inside' | 'outside'

export interface NormalisationOptions {
  /** Default 1e-6. */
  readonly epsilon?: number
  /** Default 'inside'. */
  readonly epsilonMode?: EpsilonMode
}

/** How the weights of one side are made: learned softmax, the same for all, or token m with slot m. */
export type WeightsMode = 'soft' | 'uniform' | 'identity'

function inverseNorm(
  squares: number,
  { epsilon = 1e-6, epsilonMode = 'inside' }: NormalisationOptions,
): number {
  return epsilonMode === 'inside' ? 1 / Math.sqrt(squares + epsilon) : 1 / (Math.sqrt(squares) + epsilon)
}

/** Vector i of `array` seen as [outer, length, inner], normalised along `length`. */
function normaliseAlong(
  array: Ref,
  outer: number,
  length: number,
  inner: number,
  options: NormalisationOptions,
): Ref {
  const result = zeros(...array.shape)
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      let squares = 0
      for (let l = 0; l < length; l++) squares += array.data[(o * length + l) * inner + i] ** 2
      const inverse = inverseNorm(squares, options)
      for (let l = 0; l < length; l++) {
        result.data[(o * length + l) * inner + i] = array.data[(o * length + l) * inner + i] * inverse
      }
    }
  }
  return result
}

/**
 * The gradient of `normaliseAlong`. With eps inside the root: r(dŷ − ŷ(ŷ·dŷ)). Outside, with n = ‖x‖ and
 * ρ = 1/(n + eps): ρdŷ − x(x·dŷ)ρ²/n, and 0 for the zero vector.
 */
function normaliseAlongBackward(
  array: Ref,
  gradient: Ref,
  outer: number,
  length: number,
  inner: number,
  options: NormalisationOptions,
): Ref {
  const result = zeros(...array.shape)
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      const at = (l: number): number => (o * length + l) * inner + i
      let squares = 0
      let dot = 0
      for (let l = 0; l < length; l++) {
        squares += array.data[at(l)] ** 2
        dot += array.data[at(l)] * gradient.data[at(l)]
      }
      const inverse = inverseNorm(squares, options)
      const norm = Math.sqrt(squares)
      for (let l = 0; l < length; l++) {
        if (options.epsilonMode !== 'outside') {
          result.data[at(l)] = inverse * gradient.data[at(l)] - inverse ** 3 * dot * array.data[at(l)]
        } else if (norm > 0) {
          result.data[at(l)] =
            inverse * gradient.data[at(l)] - (inverse ** 2 / norm) * dot * array.data[at(l)]
        }
      }
    }
  }
  return result
}

/** Each token x [..., d] with (nearly) unit norm. */
export function normaliseTokens(x: Ref, options: NormalisationOptions = {}): Ref {
  const dim = x.shape[x.shape.length - 1]
  return normaliseAlong(x, dim === 0 ? 0 : x.data.length / dim, dim, 1, options)
}

/** Each slot's column of phi [d, N, P] with (nearly) unit norm. */
export function normaliseSlots(phi: Ref, options: NormalisationOptions = {}): Ref {
  return normaliseAlong(phi, 1, phi.shape[0], phi.shape[1] * phi.shape[2], options)
}

function productOfTokensAndSlots(tokens: Ref, slots: Ref): Ref {
  const [batch, count, dim] = tokens.shape
  const [, experts, slotsPerExpert] = slots.shape
  const numSlots = experts * slotsPerExpert
  const product = zeros(batch, count, experts, slotsPerExpert)
  for (let row = 0; row < batch * count; row++) {
    for (let j = 0; j < numSlots; j++) {
      for (let i = 0; i < dim; i++) {
        product.data[row * numSlots + j] += tokens.data[row * dim + i] * slots.data[i * numSlots + j]
      }
    }
  }
  return product
}

/** logits [B, M, N, P] = scale · (normalised x) · (normalised phi), plus `noise` of that shape if given. */
export function softLogits(
  x: Ref,
  phi: Ref,
  scale: number,
  options: NormalisationOptions = {},
  noise?: Ref,
): Ref {
  const logits = productOfTokensAndSlots(normaliseTokens(x, options), normaliseSlots(phi, options))
  for (let i = 0; i < logits.data.length; i++) {
    logits.data[i] = scale * logits.data[i] + (noise ? noise.data[i] : 0)
  }
  return logits
}

export interface SoftLogitsGradients {
  readonly dx: Ref
  readonly dPhi: Ref
  readonly dScale: number
  /** Σ|dLogits · cosine|: the size that the rounding error of dScale is to be measured against. */
  readonly dScaleMagnitude: number
}

/** Gradients of `softLogits` for dLogits [B, M, N, P]. */
export function softLogitsBackward(
  x: Ref,
  phi: Ref,
  scale: number,
  dLogits: Ref,
  options: NormalisationOptions = {},
): SoftLogitsGradients {
  const [batch, count, dim] = x.shape
  const numSlots = phi.shape[1] * phi.shape[2]
  const tokens = normaliseTokens(x, options)
  const slots = normaliseSlots(phi, options)
  const cosine = productOfTokensAndSlots(tokens, slots)
  const dTokens = zeros(...x.shape)
  const dSlots = zeros(...phi.shape)
  let dScale = 0
  let dScaleMagnitude = 0
  for (let row = 0; row < batch * count; row++) {
    for (let j = 0; j < numSlots; j++) {
      const dLogit = dLogits.data[row * numSlots + j]
      dScale += dLogit * cosine.data[row * numSlots + j]
      dScaleMagnitude += Math.abs(dLogit * cosine.data[row * numSlots + j])
      for (let i = 0; i < dim; i++) {
        dTokens.data[row * dim + i] += scale * dLogit * slots.data[i * numSlots + j]
        dSlots.data[i * numSlots + j] += scale * dLogit * tokens.data[row * dim + i]
      }
    }
  }
  return {
    dx: normaliseAlongBackward(x, dTokens, batch * count, dim, 1, options),
    dPhi: normaliseAlongBackward(phi, dSlots, 1, dim, numSlots, options),
    dScale,
    dScaleMagnitude,
  }
}

function isValid(mask: ArrayLike<number> | undefined, token: number): boolean {
  return mask?.[token] !== 0
}

/** Softmax over the positions `at(0) … at(count − 1)` that `include` names; 0 elsewhere. */
function softmaxInto(
  target: Ref,
  logits: Ref,
  count: number,
  at: (i: number) => number,
  include: (i: number) => boolean,
): void {
  let largest = -Infinity
  for (let i = 0; i < count; i++) if (include(i)) largest = Math.max(largest, logits.data[at(i)])
  let total = 0
  for (let i = 0; i < count; i++) if (include(i)) total += Math.exp(logits.data[at(i)] - largest)
  for (let i = 0; i < count; i++)
    target.data[at(i)] = include(i) ? Math.exp(logits.data[at(i)] - largest) / total : 0
}

/**
 * Dispatch weights [B, M, N, P]: how much of each token a slot takes. The mask [B·M] (0 = padding) gives padding no
 * weight; a sequence without valid tokens has weight 0 everywhere.
 *
 * - soft: softmax of the logits over the valid tokens, per sequence and slot
 * - uniform: 1/(valid tokens)
 * - identity: token m and slot j meet when m ≡ j modulo min(M, N·P); a slot takes the mean of its valid tokens
 */
export function dispatchWeights(logits: Ref, mode: WeightsMode = 'soft', mask?: ArrayLike<number>): Ref {
  const [batch, tokens, experts, slotsPerExpert] = logits.shape
  const slots = experts * slotsPerExpert
  const weights = zeros(...logits.shape)
  for (let b = 0; b < batch; b++) {
    for (let j = 0; j < slots; j++) {
      const at = (m: number): number => (b * tokens + m) * slots + j
      const valid = (m: number): boolean => isValid(mask, b * tokens + m)
      if (mode === 'soft') {
        softmaxInto(weights, logits, tokens, at, valid)
        continue
      }
      const shared = Math.min(tokens, slots)
      const meets = (m: number): boolean => valid(m) && (mode === 'uniform' || m % shared === j % shared)
      let count = 0
      for (let m = 0; m < tokens; m++) if (meets(m)) count++
      for (let m = 0; m < tokens; m++) if (meets(m)) weights.data[at(m)] = 1 / count
    }
  }
  return weights
}

/**
 * Combine weights [B, M, N, P]: how much of each slot's output a token takes; 0 for padding.
 *
 * - soft: softmax of the logits over all slots, per token
 * - uniform: 1/(N·P)
 * - identity: token m takes the mean of the slots that it meets (see `dispatchWeights`)
 */
export function combineWeights(logits: Ref, mode: WeightsMode = 'soft', mask?: ArrayLike<number>): Ref {
  const [batch, tokens, experts, slotsPerExpert] = logits.shape
  const slots = experts * slotsPerExpert
  const weights = zeros(...logits.shape)
  for (let row = 0; row < batch * tokens; row++) {
    if (!isValid(mask, row)) continue
    const at = (j: number): number => row * slots + j
    if (mode === 'soft') {
      softmaxInto(weights, logits, slots, at, () => true)
      continue
    }
    const shared = Math.min(tokens, slots)
    const meets = (j: number): boolean => mode === 'uniform' || j % shared === (row % tokens) % shared
    let count = 0
    for (let j = 0; j < slots; j++) if (meets(j)) count++
    for (let j = 0; j < slots; j++) if (meets(j)) weights.data[at(j)] = 1 / count
  }
  return weights
}

/** Gradient of the soft dispatch weights: dWeights → dLogits, both [B, M, N, P]. */
export function dispatchWeightsBackward(weights: Ref, dWeights: Ref): Ref {
  const [batch, tokens, experts, slotsPerExpert] = weights.shape
  const slots = experts * slotsPerExpert
  const dLogits = zeros(...weights.shape)
  for (let b = 0; b < batch; b++) {
    for (let j = 0; j < slots; j++) {
      const at = (m: number): number => (b * tokens + m) * slots + j
      let dot = 0
      for (let m = 0; m < tokens; m++) dot += weights.data[at(m)] * dWeights.data[at(m)]
      for (let m = 0; m < tokens; m++)
        dLogits.data[at(m)] = weights.data[at(m)] * (dWeights.data[at(m)] - dot)
    }
  }
  return dLogits
}

/** Gradient of the soft combine weights: dWeights → dLogits, both [B, M, N, P]. */
export function combineWeightsBackward(weights: Ref, dWeights: Ref): Ref {
  const [batch, tokens, experts, slotsPerExpert] = weights.shape
  const slots = experts * slotsPerExpert
  const dLogits = zeros(...weights.shape)
  for (let row = 0; row < batch * tokens; row++) {
    let dot = 0
    for (let j = 0; j < slots; j++) dot += weights.data[row * slots + j] * dWeights.data[row * slots + j]
    for (let j = 0; j < slots; j++) {
      dLogits.data[row * slots + j] = weights.data[row * slots + j] * (dWeights.data[row * slots + j] - dot)
    }
  }
  return dLogits
}

/** Slots [B, N, P, d]: each the weighted sum of the tokens x [B, M, d], weights [B, M, N, P]. */
export function tokensToSlots(weights: Ref, x: Ref): Ref {
  const [batch, tokens, experts, slotsPerExpert] = weights.shape
  const slots = experts * slotsPerExpert
  const dim = x.shape[2]
  const result = zeros(batch, experts, slotsPerExpert, dim)
  for (let b = 0; b < batch; b++) {
    for (let m = 0; m < tokens; m++) {
      for (let j = 0; j < slots; j++) {
        const weight = weights.data[(b * tokens + m) * slots + j]
        for (let i = 0; i < dim; i++) {
          result.data[(b * slots + j) * dim + i] += weight * x.data[(b * tokens + m) * dim + i]
        }
      }
    }
  }
  return result
}

/** Tokens [B, M, d]: each the weighted sum of the slots [B, N, P, d], weights [B, M, N, P]. */
export function slotsToTokens(weights: Ref, slotRows: Ref): Ref {
  const [batch, tokens, experts, slotsPerExpert] = weights.shape
  const slots = experts * slotsPerExpert
  const dim = slotRows.shape[3]
  const result = zeros(batch, tokens, dim)
  for (let b = 0; b < batch; b++) {
    for (let m = 0; m < tokens; m++) {
      for (let j = 0; j < slots; j++) {
        const weight = weights.data[(b * tokens + m) * slots + j]
        for (let i = 0; i < dim; i++) {
          result.data[(b * tokens + m) * dim + i] += weight * slotRows.data[(b * slots + j) * dim + i]
        }
      }
    }
  }
  return result
}

/** [B, M, N, P]: the inner product of every token [B, M, d] with every slot [B, N, P, d] of its sequence. */
export function tokenSlotProducts(x: Ref, slotRows: Ref): Ref {
  const [batch, tokens, dim] = x.shape
  const [, experts, slotsPerExpert] = slotRows.shape
  const slots = experts * slotsPerExpert
  const result = zeros(batch, tokens, experts, slotsPerExpert)
  for (let b = 0; b < batch; b++) {
    for (let m = 0; m < tokens; m++) {
      for (let j = 0; j < slots; j++) {
        for (let i = 0; i < dim; i++) {
          result.data[(b * tokens + m) * slots + j] +=
            x.data[(b * tokens + m) * dim + i] * slotRows.data[(b * slots + j) * dim + i]
        }
      }
    }
  }
  return result
}
