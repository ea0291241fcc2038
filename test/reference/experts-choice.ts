// Experts Choice: each expert takes its best tokens (Zhou et al., 2022).
import type { Ref } from './array.js'
import { type Assignment, descendingOrder } from './tokens-choice.js'

/** The `capacity` best tokens of each expert, best first: scores [S, E] → [E, capacity] flat. capacity ≤ S. */
export function topTokens(scores: Ref, capacity: number): number[] {
  const [tokens, experts] = scores.shape
  return Array.from({ length: experts }, (_, e) =>
    descendingOrder(tokens, (s) => scores.data[s * experts + e]).slice(0, capacity),
  ).flat()
}

/** Routes one group by its scores [S, E]; a token's position is its rank with the expert. */
export function expertsChoice(scores: Ref, capacity: number): Assignment[] {
  return topTokens(scores, capacity).map((token, i) => ({
    token,
    expert: Math.floor(i / capacity),
    position: i % capacity,
  }))
}

export interface ExpertsChoiceMetrics {
  readonly expertsPerTokenMin: number
  readonly expertsPerTokenMax: number
  readonly minSelectedGate: number
  readonly maxSelectedGate: number
  /** `tokensWithAtLeast(n)`: share of the tokens that at least n experts took. */
  tokensWithAtLeast(experts: number): number
}

/** Statistics of one group's assignments with its gates [S, E]. */
export function expertsChoiceMetrics(gates: Ref, assignments: readonly Assignment[]): ExpertsChoiceMetrics {
  const [tokens, experts] = gates.shape
  const perToken = new Array<number>(tokens).fill(0)
  for (const { token } of assignments) perToken[token]++
  const selected = assignments.map(({ token, expert }) => gates.data[token * experts + expert])
  return {
    expertsPerTokenMin: Math.min(...perToken),
    expertsPerTokenMax: Math.max(...perToken),
    minSelectedGate: Math.min(...selected),
    maxSelectedGate: Math.max(...selected),
    tokensWithAtLeast: (least) => perToken.filter((count) => count >= least).length / tokens,
  }
}
