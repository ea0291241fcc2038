// Metrics of the Soft MoE router: mean extreme weights and pairwise cosine similarities.
import { type Ref, zeros } from './array.js'

export interface Similarity {
  readonly min: number
  readonly max: number
  readonly mean: number
}

export interface SoftMetrics {
  readonly combineWeightsMinMean: number
  readonly combineWeightsMaxMean: number
  readonly dispatchWeightsMinMean: number
  readonly dispatchWeightsMaxMean: number
  readonly combineWeightsSimilarity: Similarity
  readonly dispatchWeightsSimilarity: Similarity
  readonly slotSimilarity: Similarity
}

/**
 * Cosine similarity of all pairs of different rows in each group of `rows` [G, R, length], with 1e-9 inside the
 * root. As in the papers' code a self-pair counts as 0 when the largest is sought, and then as that largest.
 */
export function pairwiseSimilarity(rows: Ref): Similarity {
  const [groups, count, length] = rows.shape
  const unit = zeros(groups, count, length)
  for (let r = 0; r < groups * count; r++) {
    let squares = 0
    for (let i = 0; i < length; i++) squares += rows.data[r * length + i] ** 2
    for (let i = 0; i < length; i++)
      unit.data[r * length + i] = rows.data[r * length + i] / Math.sqrt(squares + 1e-9)
  }
  let sum = -groups * count
  let min = Infinity
  let max = 0
  for (let g = 0; g < groups; g++) {
    for (let a = 0; a < count; a++) {
      for (let b = 0; b < count; b++) {
        let cosine = 0
        for (let i = 0; i < length; i++) {
          cosine += unit.data[(g * count + a) * length + i] * unit.data[(g * count + b) * length + i]
        }
        sum += cosine
        if (a === b) continue
        min = Math.min(min, cosine)
        max = Math.max(max, cosine)
      }
    }
  }
  return { min: Math.min(min, max), max, mean: sum / (groups * count * (count - 1)) }
}

/** `array` [outer, length, inner] with its last two axes exchanged. */
function exchangeAxes(array: Ref, outer: number, length: number, inner: number): Ref {
  const result = zeros(outer, inner, length)
  for (let o = 0; o < outer; o++) {
    for (let l = 0; l < length; l++) {
      for (let i = 0; i < inner; i++) {
        result.data[(o * inner + i) * length + l] = array.data[(o * length + l) * inner + i]
      }
    }
  }
  return result
}

/** Mean over all rows of [rows, length] of the row's smallest and of its largest element. */
function meanExtremes(rows: Ref, length: number): { min: number; max: number } {
  const count = rows.data.length / length
  let min = 0
  let max = 0
  for (let r = 0; r < count; r++) {
    const row = rows.data.subarray(r * length, (r + 1) * length)
    min += Math.min(...row) / count
    max += Math.max(...row) / count
  }
  return { min, max }
}

/** Metrics of dispatch and combine weights [B, M, N, P] and of normalised slot parameters [d, N, P]. */
export function softMetrics(dispatch: Ref, combine: Ref, normalisedSlots: Ref): SoftMetrics {
  const [batch, tokens, experts, slotsPerExpert] = combine.shape
  const slots = experts * slotsPerExpert
  const dim = normalisedSlots.shape[0]
  const bySlot = exchangeAxes(dispatch, batch, tokens, slots)
  const combineExtremes = meanExtremes(combine, slots)
  const dispatchExtremes = meanExtremes(bySlot, tokens)
  return {
    combineWeightsMinMean: combineExtremes.min,
    combineWeightsMaxMean: combineExtremes.max,
    dispatchWeightsMinMean: dispatchExtremes.min,
    dispatchWeightsMaxMean: dispatchExtremes.max,
    combineWeightsSimilarity: pairwiseSimilarity({ shape: [batch, tokens, slots], data: combine.data }),
    dispatchWeightsSimilarity: pairwiseSimilarity(bySlot),
    slotSimilarity: pairwiseSimilarity(exchangeAxes(normalisedSlots, 1, dim, slots)),
  }
}
