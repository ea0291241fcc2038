// Tokens Choice: each token selects its k best experts, places in the experts' buffers are given out choice by
// choice, and what does not fit is dropped (V-MoE, sections 2.2 and 2.3; Batch Priority Routing, section 4.1).
import { type Ref, zeros } from './array.js'

/** Who is served first: tokens in order, by their best gate, or by the sum of their selected gates. */
export type Priority = 'token-order' | 'max-gate' | 'sum-of-gates'

/** One token in one place of one expert's buffer. Tokens and positions count within the group. */
export interface Assignment {
  readonly token: number
  readonly expert: number
  readonly position: number
}

/** Indices 0 … count−1 by descending score; ties go to the lower index, NaN counts as −infinity. */
export function descendingOrder(count: number, score: (index: number) => number): number[] {
  const scores = Array.from({ length: count }, (_, i) => (Number.isNaN(score(i)) ? -Infinity : score(i)))
  return scores
    .map((_, i) => i)
    .sort((a, b) => (scores[a] === scores[b] ? a - b : scores[a] > scores[b] ? -1 : 1))
}

/** The k best experts of each token, best first: scores [S, E] → [S, k] flat. */
export function topExperts(scores: Ref, k: number): number[] {
  const [tokens, experts] = scores.shape
  return Array.from({ length: tokens }, (_, s) =>
    descendingOrder(experts, (e) => scores.data[s * experts + e]).slice(0, k),
  ).flat()
}

/**
 * Place of each assignment in its expert's buffer, [S, k] flat: the number of earlier assignments to that expert,
 * counting also those that will not fit. All first choices come before any second choice.
 */
export function bufferPositions(
  scores: Ref,
  selected: readonly number[],
  k: number,
  priority: Priority = 'token-order',
): number[] {
  const [tokens, experts] = scores.shape
  const selectedScore = (s: number, choice: number): number => {
    const score = scores.data[s * experts + selected[s * k + choice]]
    return Number.isNaN(score) ? -Infinity : score
  }
  const tokenScore = (s: number): number => {
    if (priority === 'token-order') return 0
    if (priority === 'max-gate') return selectedScore(s, 0)
    let sum = 0
    for (let choice = 0; choice < k; choice++) sum += selectedScore(s, choice)
    return sum
  }
  const taken = new Array<number>(experts).fill(0)
  const positions = new Array<number>(tokens * k).fill(-1)
  const order = descendingOrder(tokens, tokenScore)
  for (let choice = 0; choice < k; choice++) {
    for (const s of order) positions[s * k + choice] = taken[selected[s * k + choice]]++
  }
  return positions
}

export interface TokensChoiceOptions {
  readonly k: number
  /** Buffer length; Infinity drops nothing. */
  readonly capacity: number
  /** Default 'token-order'. */
  readonly priority?: Priority
}

export interface TokensChoice {
  /** [S, k] flat each. */
  readonly experts: readonly number[]
  readonly positions: readonly number[]
  readonly kept: readonly boolean[]
  /** The kept assignments. */
  readonly assignments: readonly Assignment[]
}

/** Routes one group by its scores [S, E]. */
export function tokensChoice(scores: Ref, options: TokensChoiceOptions): TokensChoice {
  const { k, capacity, priority } = options
  const experts = topExperts(scores, k)
  const positions = bufferPositions(scores, experts, k, priority)
  const kept = positions.map((position) => position < capacity)
  const assignments = experts
    .map((expert, i) => ({ token: Math.floor(i / k), expert, position: positions[i] }))
    .filter((_, i) => kept[i])
  return { experts, positions, kept, assignments }
}

/**
 * Gates [S, E] divided by the sum of the token's k selected gates, dropped ones included; 0 where not selected.
 */
export function renormalisedGates(gates: Ref, selected: readonly number[], k: number): Ref {
  const [tokens, experts] = gates.shape
  const result = zeros(tokens, experts)
  for (let s = 0; s < tokens; s++) {
    const chosen = selected.slice(s * k, (s + 1) * k)
    const sum = chosen.reduce((total, e) => total + gates.data[s * experts + e], 0)
    for (const e of chosen) result.data[s * experts + e] = gates.data[s * experts + e] / sum
  }
  return result
}

/** The gradient of `renormalisedGates`: d(renormalised) [S, E] → dGates [S, E]. */
export function renormalisedGatesBackward(
  gates: Ref,
  selected: readonly number[],
  k: number,
  dResult: Ref,
): Ref {
  const [tokens, experts] = gates.shape
  const dGates = zeros(tokens, experts)
  for (let s = 0; s < tokens; s++) {
    const chosen = selected.slice(s * k, (s + 1) * k)
    const sum = chosen.reduce((total, e) => total + gates.data[s * experts + e], 0)
    let dot = 0
    for (const e of chosen) dot += dResult.data[s * experts + e] * gates.data[s * experts + e]
    for (const e of chosen)
      dGates.data[s * experts + e] = dResult.data[s * experts + e] / sum - dot / sum ** 2
  }
  return dGates
}

/** Combine weights [S, E, capacity]: the gate where token, expert and position meet, else 0. */
export function combineTensor(gates: Ref, assignments: readonly Assignment[], capacity: number): Ref {
  const [tokens, experts] = gates.shape
  const combine = zeros(tokens, experts, capacity)
  for (const { token, expert, position } of assignments) {
    combine.data[(token * experts + expert) * capacity + position] = gates.data[token * experts + expert]
  }
  return combine
}
