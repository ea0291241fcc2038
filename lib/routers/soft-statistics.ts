/** What a Soft MoE router did, in plain numbers (Soft MoE, appendices E, G and I). */
import { requireObject } from '../core/arguments.js'
import { coefficientOfVariation } from './sparse-statistics.js'

/** Weights and parameters of a Soft MoE router on the host. */
export interface SoftWeightValues {
  /** `[batch, tokens, slots]`. */
  readonly dispatch: ArrayLike<number>
  /** `[batch, tokens, slots]`. */
  readonly combine: ArrayLike<number>
  /** `[dim, slots]`. */
  readonly mu: ArrayLike<number>
  readonly scale: number
}

/** Extents of `SoftWeightValues`. */
export interface SoftWeightShape {
  readonly batch: number
  readonly tokens: number
  readonly dim: number
  readonly numExperts: number
  readonly slotsPerExpert: number
}

/** Rows of equal length in `[groups, rows, length]`, wherever they lie. */
interface RowView {
  readonly groups: number
  readonly rows: number
  readonly length: number
  readonly at: (group: number, row: number, i: number) => number
}

/** Mean over all rows of their smallest, largest element, and of their entropy over that of equal weights. */
function rowMeans({ groups, rows, length, at }: RowView): { min: number; max: number; entropy: number } {
  const sums = { min: 0, max: 0, entropy: 0 }
  for (let g = 0; g < groups; g++) {
    for (let r = 0; r < rows; r++) {
      let [min, max, entropy] = [Infinity, -Infinity, 0]
      for (let i = 0; i < length; i++) {
        const weight = at(g, r, i)
        min = Math.min(min, weight)
        max = Math.max(max, weight)
        if (weight > 0) entropy -= weight * Math.log(weight)
      }
      sums.min += min
      sums.max += max
      sums.entropy += length > 1 ? entropy / Math.log(length) : 1
    }
  }
  const count = groups * rows
  return { min: sums.min / count, max: sums.max / count, entropy: sums.entropy / count }
}

/**
 * Cosine similarities of all pairs of different rows of each group, with 1e-9 inside the root. As in the papers' code a
 * row's pair with itself counts as 0 when the largest is sought, and as that largest when the smallest is.
 */
function pairwiseSimilarity({ groups, rows, length, at }: RowView): {
  min: number
  max: number
  mean: number
} {
  let [min, max, sum] = [Infinity, 0, -groups * rows]
  const unit = Array.from({ length: rows }, () => new Float64Array(length))
  for (let g = 0; g < groups; g++) {
    unit.forEach((row, r) => {
      let squares = 0
      for (let i = 0; i < length; i++) squares += at(g, r, i) ** 2
      const inverse = 1 / Math.sqrt(squares + 1e-9)
      for (let i = 0; i < length; i++) row[i] = at(g, r, i) * inverse
    })
    unit.forEach((a, i) => {
      for (let j = i; j < rows; j++) {
        const b = unit[j] ?? a
        const cosine = a.reduce((total, value, at) => total + value * (b[at] ?? 0), 0)
        sum += i === j ? cosine : 2 * cosine
        if (i === j) continue
        min = Math.min(min, cosine)
        max = Math.max(max, cosine)
      }
    })
  }
  return { min: Math.min(min, max), max, mean: sum / (groups * rows * (rows - 1)) }
}

/**
 * The numbers of a Soft MoE routing for `metrics.jsonl`:
 *
 * | name | meaning |
 * | --- | --- |
 * | `combineWeightsMinMean`, `…MaxMean` | mean over the tokens of their smallest and largest weight for a slot |
 * | `dispatchWeightsMinMean`, `…MaxMean` | mean over the slots of their smallest and largest weight for a token |
 * | `combineEntropy`, `dispatchEntropy` | mean entropy over that of equal weights: 1 mixes evenly, 0 picks one |
 * | `importanceVariation` | coefficient of variation of the experts' total combine weight |
 * | `tokensOver2`, `tokensUnderQuarter` | share of the tokens with that total dispatch weight (appendix G) |
 * | `scale` | the learned scale of the logits |
 * | `combineWeightsSimilarity{Min,Max,Mean}` | with `similarity`: cosines of the combine weights of two tokens |
 * | `dispatchWeightsSimilarity…`, `slotSimilarity…` | of the dispatch weights, and the parameters, of two slots |
 */
export function softMetrics(
  values: SoftWeightValues,
  shape: SoftWeightShape,
  similarity = false,
): Record<string, number> {
  requireObject('the weights', values)
  requireObject('the shape of the weights', shape)
  const { dispatch, combine, mu, scale } = values
  const { batch, tokens, dim, numExperts, slotsPerExpert } = shape
  const slots = numExperts * slotsPerExpert
  const combineRows: RowView = {
    groups: batch,
    rows: tokens,
    length: slots,
    at: (b, m, j) => combine[(b * tokens + m) * slots + j] ?? 0,
  }
  const dispatchColumns: RowView = {
    groups: batch,
    rows: slots,
    length: tokens,
    at: (b, j, m) => dispatch[(b * tokens + m) * slots + j] ?? 0,
  }
  const combineMeans = rowMeans(combineRows)
  const dispatchMeans = rowMeans(dispatchColumns)
  const importance = new Float64Array(numExperts)
  const tokenWeights = new Float64Array(batch * tokens)
  for (let i = 0; i < batch * tokens * slots; i++) {
    const expert = Math.floor((i % slots) / slotsPerExpert)
    importance[expert] = (importance[expert] ?? 0) + (combine[i] ?? 0)
    const token = Math.floor(i / slots)
    tokenWeights[token] = (tokenWeights[token] ?? 0) + (dispatch[i] ?? 0)
  }
  const share = (holds: (weight: number) => boolean): number =>
    tokenWeights.filter(holds).length / tokenWeights.length
  const metrics: Record<string, number> = {
    combineWeightsMinMean: combineMeans.min,
    combineWeightsMaxMean: combineMeans.max,
    dispatchWeightsMinMean: dispatchMeans.min,
    dispatchWeightsMaxMean: dispatchMeans.max,
    combineEntropy: combineMeans.entropy,
    dispatchEntropy: dispatchMeans.entropy,
    importanceVariation: coefficientOfVariation(importance),
    tokensOver2: share((weight) => weight > 2),
    tokensUnderQuarter: share((weight) => weight < 0.25),
    scale,
  }
  if (!similarity) return metrics
  const slotParameters: RowView = {
    groups: 1,
    rows: slots,
    length: dim,
    at: (_, j, i) => mu[i * slots + j] ?? 0,
  }
  for (const [name, view] of Object.entries({
    combineWeights: combineRows,
    dispatchWeights: dispatchColumns,
    slot: slotParameters,
  })) {
    if (view.rows < 2) continue
    const { min, max, mean } = pairwiseSimilarity(view)
    metrics[`${name}SimilarityMin`] = min
    metrics[`${name}SimilarityMax`] = max
    metrics[`${name}SimilarityMean`] = mean
  }
  return metrics
}
