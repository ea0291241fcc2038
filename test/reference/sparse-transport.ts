// The sparsity-constrained quadratic transport plan (Liu, Puigcerver and Blondel, 2023), by Adam on its semi-dual:
//   F(α) = Σ_e b_e max_{p in the simplex, at most k non-zeros} [p·(α + sim_e) − (γ b_e/2)‖p‖²] − α·a
import { type Ref, zeros } from './array.js'
import { descendingOrder } from './tokens-choice.js'

export interface SparsePlanOptions {
  /** Non-zeros allowed in each column (row with `byRows`); Infinity for the plain quadratic plan. */
  readonly k: number
  /** Default 20. */
  readonly iterations?: number
  /** Constrain the rows (tokens) instead of the columns (experts). Default false. */
  readonly byRows?: boolean
  /** Default 1. */
  readonly gamma?: number
  /** Default 0.01. */
  readonly learningRate?: number
  /** Stops after the step whose gradient had at most this norm. Default 1e-3. */
  readonly tolerance?: number
}

/** The nearest point of the simplex to x among those with at most k non-zeros; ties go to the lower index. */
export function sparseSimplexProjection(x: Float64Array, k: number): Float64Array {
  const order = descendingOrder(x.length, (i) => x[i]).slice(0, k)
  let sum = 0
  let threshold = 0
  order.forEach((index, rank) => {
    sum += x[index]
    const candidate = (1 - sum) / (rank + 1)
    if (x[index] + candidate > 0) threshold = candidate
  })
  const projection = new Float64Array(x.length)
  for (const index of order) projection[index] = Math.max(0, x[index] + threshold)
  return projection
}

/** Plan [rows, columns] with rows of mass `rowMass`, columns of mass `columnMass` and k-sparse columns. */
function columnSparsePlan(
  similarity: Ref,
  rowMass: number,
  columnMass: number,
  { k, iterations = 20, gamma = 1, learningRate = 0.01, tolerance = 1e-3 }: SparsePlanOptions,
): Ref {
  const [rows, columns] = similarity.shape
  const alpha = new Float64Array(rows)
  const planOf = (): Ref => {
    const plan = zeros(rows, columns)
    for (let c = 0; c < columns; c++) {
      const scores = alpha.map((a, r) => (a + similarity.data[r * columns + c]) / (gamma * columnMass))
      const projection = sparseSimplexProjection(scores, k)
      for (let r = 0; r < rows; r++) plan.data[r * columns + c] = columnMass * projection[r]
    }
    return plan
  }
  const first = new Float64Array(rows)
  const second = new Float64Array(rows)
  for (let step = 1; step <= iterations; step++) {
    const plan = planOf()
    let squares = 0
    for (let r = 0; r < rows; r++) {
      let gradient = -rowMass
      for (let c = 0; c < columns; c++) gradient += plan.data[r * columns + c]
      squares += gradient ** 2
      first[r] = 0.9 * first[r] + 0.1 * gradient
      second[r] = 0.999 * second[r] + 0.001 * gradient ** 2
      const meanOfGradient = first[r] / (1 - 0.9 ** step)
      const meanOfSquare = second[r] / (1 - 0.999 ** step)
      alpha[r] -= (learningRate * meanOfGradient) / (Math.sqrt(meanOfSquare) + 1e-8)
    }
    if (Math.sqrt(squares) <= tolerance) break
  }
  return planOf()
}

function transpose(matrix: Ref): Ref {
  const [rows, columns] = matrix.shape
  const result = zeros(columns, rows)
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) result.data[c * rows + r] = matrix.data[r * columns + c]
  }
  return result
}

/** similarity [S, E] → plan [S, E]: rows about 1 (exactly with `byRows`), columns S/E (about, with `byRows`). */
export function sparsePlan(similarity: Ref, options: SparsePlanOptions): Ref {
  const [tokens, experts] = similarity.shape
  if (!options.byRows) return columnSparsePlan(similarity, 1, tokens / experts, options)
  return transpose(columnSparsePlan(transpose(similarity), tokens / experts, 1, options))
}
