// The entropic transport plan of one group: rows sum to 1, columns to S/E (Routers in Vision Mixture of Experts).
import { type Ref, zeros } from './array.js'

function logSumExp(count: number, value: (index: number) => number): number {
  let largest = -Infinity
  for (let i = 0; i < count; i++) largest = Math.max(largest, value(i))
  let total = 0
  for (let i = 0; i < count; i++) total += Math.exp(value(i) - largest)
  return largest + Math.log(total)
}

/**
 * logits [S, E] → plan [S, E] by Sinkhorn's iteration in the log domain:
 * g_e = ln(S/E) − lse_s(L + f), f_s = −lse_e(L + g), repeated; plan = exp(L + f + g).
 */
export function sinkhornPlan(logits: Ref, iterations = 20): Ref {
  const [tokens, experts] = logits.shape
  const f = new Float64Array(tokens)
  const g = new Float64Array(experts)
  for (let iteration = 0; iteration < iterations; iteration++) {
    for (let e = 0; e < experts; e++) {
      g[e] = Math.log(tokens / experts) - logSumExp(tokens, (s) => logits.data[s * experts + e] + f[s])
    }
    for (let s = 0; s < tokens; s++) f[s] = -logSumExp(experts, (e) => logits.data[s * experts + e] + g[e])
  }
  const plan = zeros(tokens, experts)
  for (let s = 0; s < tokens; s++) {
    for (let e = 0; e < experts; e++) {
      plan.data[s * experts + e] = Math.exp(logits.data[s * experts + e] + f[s] + g[e])
    }
  }
  return plan
}

/** The solution of `matrix` · x = `right` by Gaussian elimination with row exchange; both are changed. */
export function solveLinearSystem(matrix: Float64Array[], right: Float64Array): Float64Array {
  const size = right.length
  for (let column = 0; column < size; column++) {
    let pivot = column
    for (let row = column; row < size; row++) {
      if (Math.abs(matrix[row][column]) > Math.abs(matrix[pivot][column])) pivot = row
    }
    ;[matrix[column], matrix[pivot]] = [matrix[pivot], matrix[column]]
    ;[right[column], right[pivot]] = [right[pivot], right[column]]
    for (let row = column + 1; row < size; row++) {
      const factor = matrix[row][column] / matrix[column][column]
      for (let i = column; i < size; i++) matrix[row][i] -= factor * matrix[column][i]
      right[row] -= factor * right[column]
    }
  }
  const solution = new Float64Array(size)
  for (let row = size - 1; row >= 0; row--) {
    let sum = right[row]
    for (let i = row + 1; i < size; i++) sum -= matrix[row][i] * solution[i]
    solution[row] = sum / matrix[row][row]
  }
  return solution
}

/**
 * The implicit gradient at convergence: plan and dPlan [S, E] → dLogits [S, E] = plan ⊙ (dPlan − λ1ᵀ − 1μᵀ), where
 * λ and μ make its row and column sums vanish. μ of the last expert is pinned to 0.
 */
export function sinkhornPlanBackward(plan: Ref, dPlan: Ref): Ref {
  const [tokens, experts] = plan.shape
  const size = tokens + experts - 1
  const matrix = Array.from({ length: size }, () => new Float64Array(size))
  const right = new Float64Array(size)
  for (let s = 0; s < tokens; s++) {
    for (let e = 0; e < experts; e++) {
      const mass = plan.data[s * experts + e]
      const weighted = mass * dPlan.data[s * experts + e]
      matrix[s][s] += mass
      right[s] += weighted
      if (e === experts - 1) continue
      matrix[tokens + e][tokens + e] += mass
      matrix[tokens + e][s] += mass
      matrix[s][tokens + e] += mass
      right[tokens + e] += weighted
    }
  }
  const multipliers = solveLinearSystem(matrix, right)
  const dLogits = zeros(tokens, experts)
  for (let s = 0; s < tokens; s++) {
    for (let e = 0; e < experts; e++) {
      const column = e === experts - 1 ? 0 : multipliers[tokens + e]
      dLogits.data[s * experts + e] =
        plan.data[s * experts + e] * (dPlan.data[s * experts + e] - multipliers[s] - column)
    }
  }
  return dLogits
}
