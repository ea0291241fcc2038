/**
 * Transport plans between the tokens of a group and its experts ("Routers in Vision Mixture of Experts", section 3): of
 * all plans whose rows sum to 1 and whose columns sum to tokens / experts, the one that fits the logits best under a
 * regulariser.
 */
import { given, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { recordOperation } from '../core/tape.js'
import { handleOf, type Tensor } from '../core/tensor.js'
import { native } from '../native.js'
import { only, wrap } from './wrap.js'

/** Queued work cannot be called back: a slip of the hand must not keep the device busy for days. */
const MOST_ITERATIONS = 100_000

function requireIterations(operation: string, iterations: number): void {
  if (typeof iterations === 'number' && iterations <= MOST_ITERATIONS) return
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `${operation}: iterations is ${given(iterations)}; wanted 1 to ${MOST_ITERATIONS}`,
  )
}

/**
 * The entropic plan by Sinkhorn's iteration in the log domain. Rows sum to 1, columns nearly to tokens / experts. Its
 * gradient is that of the converged plan, by implicit differentiation.
 *
 * @param logits - float32 `[groups, tokens, experts]`
 * @param iterations - 1 to 100,000, default 20
 * @returns float32 `[groups, tokens, experts]`
 * @throws `ERR_INVALID_ARGUMENT`, `ERR_SHAPE`, `ERR_DTYPE`
 */
export function sinkhornPlan(logits: Tensor, iterations = 20): Tensor {
  requireIterations('sinkhornPlan', iterations)
  const plan = wrap(native.sinkhornPlan(handleOf(logits), iterations), logits.device)
  recordOperation('sinkhornPlan', [logits], [plan], [], (dys) => [
    wrap(native.sinkhornPlanBackward(plan.handle, only(dys).handle), logits.device),
  ])
  return plan
}

/** Options of `sparsePlan`. */
export interface SparsePlanOptions {
  /** Non-zeros allowed in each column (an expert's), or in each row with `byRows`. Default 0: any number. */
  readonly k?: number
  /** Constrains the rows (tokens) instead of the columns. Default false. */
  readonly byRows?: boolean
  /** Steps of Adam on the semi-dual, 1 to 100,000. Default 20. */
  readonly iterations?: number
}

/**
 * The quadratic plan, with at most k non-zeros a column (Liu, Puigcerver and Blondel, "Sparsity-constrained optimal
 * transport"). Columns sum to tokens / experts; rows come near to 1 only where k does not bind (with `byRows` the other
 * way round). A constant to the gradient.
 *
 * @param similarity - float32 `[groups, tokens, experts]`
 * @returns float32 `[groups, tokens, experts]`
 * @throws `ERR_INVALID_ARGUMENT`, `ERR_SHAPE`, `ERR_DTYPE`
 */
export function sparsePlan(similarity: Tensor, options: SparsePlanOptions = {}): Tensor {
  requireObject('the options of sparsePlan', options)
  const { k = 0, byRows = false, iterations = 20 } = options
  requireIterations('sparsePlan', iterations)
  const plan = wrap(native.sparsePlan(handleOf(similarity), k, byRows, iterations), similarity.device)
  recordOperation('sparsePlan', [], [plan], [], () => []) // no operand has a gradient
  return plan
}
