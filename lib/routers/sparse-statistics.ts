/** What a routing by index did, in plain numbers. */
import { requireCount, requireObject, requireSize } from '../core/arguments.js'
import type { SparseRouting } from './sparse.js'

/** A routing by index on the host: the rows that the experts work on. */
export interface SparseRoutingTable {
  readonly groups: number
  readonly tokensPerGroup: number
  readonly numExperts: number
  /** Places in each expert's buffer, for each group. */
  readonly capacity: number
  /** Assignments before any was dropped. */
  readonly requested: number
  /** Token of each row, counted over all groups; rows are expert-major. */
  readonly rowToken: Int32Array
  readonly rowExpert: Int32Array
  readonly rowGate: Float32Array
  /** Load of each expert: the tokens it processes. */
  readonly tokensPerExpert: Int32Array
  /** How many experts process each token. */
  readonly expertsPerToken: Int32Array
  /** Sum of each expert's softmax gates over all tokens, selected or not. */
  readonly importance: Float64Array
}

/** Reads a routing from its device. */
export async function readSparseRouting(routing: SparseRouting): Promise<SparseRoutingTable> {
  requireObject('the routing', routing)
  const { groups, tokensPerGroup, numExperts, capacity, requested } = routing
  const [offsets, tokens, gates, softmax] = await Promise.all([
    routing.expertOffsets.data(),
    routing.rowToken.data(),
    routing.rowGate.data(),
    routing.softmax.data(),
  ])
  const rows = offsets[numExperts] ?? 0
  const tokensPerExpert = Int32Array.from(
    { length: numExperts },
    (_, e) => (offsets[e + 1] ?? 0) - (offsets[e] ?? 0),
  )
  const rowExpert = new Int32Array(rows)
  tokensPerExpert.forEach((_, e) => rowExpert.fill(e, offsets[e], offsets[e + 1]))
  const rowToken = Int32Array.from(tokens.subarray(0, rows))
  const expertsPerToken = new Int32Array(groups * tokensPerGroup)
  for (const token of rowToken) expertsPerToken[token] = (expertsPerToken[token] ?? 0) + 1
  const importance = new Float64Array(numExperts)
  softmax.forEach((gate, i) => (importance[i % numExperts] = (importance[i % numExperts] ?? 0) + gate))
  return {
    groups,
    tokensPerGroup,
    numExperts,
    capacity,
    requested,
    rowToken,
    rowExpert,
    rowGate: Float32Array.from(gates.subarray(0, rows)),
    tokensPerExpert,
    expertsPerToken,
    importance,
  }
}

/** Tokens that no expert processes, ascending. */
export function droppedTokens({ expertsPerToken }: SparseRoutingTable): number[] {
  return Array.from(expertsPerToken.keys()).filter((token) => expertsPerToken[token] === 0)
}

/** The experts that process each token, by falling gate; empty for a dropped token. */
export function expertsOfTokens(table: SparseRoutingTable): number[][] {
  const rows: number[][] = Array.from(table.expertsPerToken, () => [])
  table.rowToken.forEach((token, row) => rows[token]?.push(row))
  const gate = (row: number): number => table.rowGate[row] ?? 0
  return rows.map((own) =>
    own.sort((a, b) => gate(b) - gate(a) || a - b).map((row) => table.rowExpert[row] ?? 0),
  )
}

/** How many tokens are processed by 0, 1, 2 … experts. */
export function expertsPerTokenHistogram({ expertsPerToken }: SparseRoutingTable): number[] {
  const most = expertsPerToken.reduce((largest, count) => Math.max(largest, count), 0)
  const histogram = new Array<number>(most + 1).fill(0)
  for (const count of expertsPerToken) histogram[count] = (histogram[count] ?? 0) + 1
  return histogram
}

/** How many rows have a gate in each of `bins` equal parts of [0, 1]. */
export function gateHistogram({ rowGate }: SparseRoutingTable, bins = 20): number[] {
  requireCount('bins', bins)
  requireSize('the histogram', bins)
  const histogram = new Array<number>(bins).fill(0)
  for (const gate of rowGate) {
    const bin = Math.min(bins - 1, Math.floor(gate * bins))
    histogram[bin] = (histogram[bin] ?? 0) + 1
  }
  return histogram
}

/** How a routing is spread, each list as shares that sum to 1 (to 0 if there is nothing to share). */
export interface SparseHistograms {
  /** Share of the rows that each expert processes, `[numExperts]`. */
  readonly load: readonly number[]
  /** Share of the softmax gates that each expert has over all tokens, selected or not, `[numExperts]`. */
  readonly importance: readonly number[]
  /** Share of the tokens that 0, 1, 2 … experts process. */
  readonly expertsPerToken: readonly number[]
  /** Share of the rows with a gate in each of 20 equal parts of [0, 1]. */
  readonly gates: readonly number[]
}

/** The histograms of a routing for `metrics.jsonl` and the report. */
export function sparseHistograms(table: SparseRoutingTable): SparseHistograms {
  const shares = (counts: ArrayLike<number>): number[] => {
    const all = Array.from(counts)
    const sum = all.reduce((total, count) => total + count, 0)
    return all.map((count) => (sum > 0 ? count / sum : 0))
  }
  return {
    load: shares(table.tokensPerExpert),
    importance: shares(table.importance),
    expertsPerToken: shares(expertsPerTokenHistogram(table)),
    gates: shares(gateHistogram(table)),
  }
}

/** Population deviation over mean; 0 if all values are 0. */
export function coefficientOfVariation(values: ArrayLike<number>): number {
  requireObject('the values', values)
  const all = Array.from(values)
  const mean = all.reduce((sum, value) => sum + value, 0) / all.length
  if (mean === 0) return 0
  return Math.sqrt(all.reduce((sum, value) => sum + (value - mean) ** 2, 0) / all.length) / mean
}

/**
 * The numbers of a routing for `metrics.jsonl`:
 *
 * | name | meaning |
 * | --- | --- |
 * | `droppedFraction` | share of the tokens that no expert processes |
 * | `droppedAssignments` | share of the assignments for which there was no place |
 * | `expertsPerTokenMin`, `…Mean`, `…Max` | experts that process a token |
 * | `tokensWithAtLeast1`, `2`, `4` … | share of the tokens that so many experts process |
 * | `expertImbalance` | largest load over mean load |
 * | `loadVariation`, `importanceVariation` | coefficients of variation over the experts |
 * | `gateMin`, `gateMean`, `gateMax` | gates of the rows |
 */
export function sparseMetrics(table: SparseRoutingTable): Record<string, number> {
  requireObject('the routing table', table)
  const { numExperts, requested, rowGate, tokensPerExpert, expertsPerToken, importance } = table
  const tokens = expertsPerToken.length
  const rows = rowGate.length
  const extremes = (values: Int32Array | Float32Array): { min: number; max: number; mean: number } => {
    let [min, max, sum] = [Infinity, -Infinity, 0]
    for (const value of values) {
      min = Math.min(min, value)
      max = Math.max(max, value)
      sum += value
    }
    return values.length === 0 ? { min: 0, max: 0, mean: 0 } : { min, max, mean: sum / values.length }
  }
  const perToken = extremes(expertsPerToken)
  const perExpert = extremes(tokensPerExpert)
  const gates = extremes(rowGate)
  const atLeast = (least: number): number => expertsPerToken.filter((count) => count >= least).length / tokens
  const metrics: Record<string, number> = {
    droppedFraction: 1 - atLeast(1),
    droppedAssignments: 1 - rows / requested,
    expertsPerTokenMin: perToken.min,
    expertsPerTokenMean: perToken.mean,
    expertsPerTokenMax: perToken.max,
    expertImbalance: perExpert.mean === 0 ? 0 : perExpert.max / perExpert.mean,
    loadVariation: coefficientOfVariation(tokensPerExpert),
    importanceVariation: coefficientOfVariation(importance),
    gateMin: gates.min,
    gateMean: gates.mean,
    gateMax: gates.max,
  }
  for (let least = 1; least < numExperts; least *= 2) metrics[`tokensWithAtLeast${least}`] = atLeast(least)
  metrics[`tokensWithAtLeast${numExperts}`] = atLeast(numExperts)
  return metrics
}
