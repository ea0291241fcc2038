/**
 * Routing by index: which experts a token selects (V-MoE, section 2) or which tokens an expert selects (Experts Choice),
 * and the rows that the experts then work on. Tokens are routed in groups; gates and scores are float32
 * `[groups, tokens, experts]`. Selections, positions and row lists are constants to the gradient; gates are not.
 *
 * Selections and lists that come from the functions here are used as they are. Others are checked on the device before
 * anything follows them; what is wrong with them is told by the next wait as `ERR_INVALID_ARGUMENT`, and the results of
 * the operation are then without meaning.
 */
import { requireObject } from '../core/arguments.js'
import { recordOperation } from '../core/tape.js'
import { handleOf, optionalHandle, type Tensor } from '../core/tensor.js'
import { native, type NativeRowLists, type RoutingPriority } from '../native.js'
import type { GatherGradient } from './experts.js'
import { only, wrap } from './wrap.js'

/** The experts of each token, and its places in their buffers. */
export interface ExpertSelection {
  /** int32 `[groups, tokens, k]`, best first. */
  readonly expert: Tensor
  /** int32 `[groups, tokens, k]`: how many assignments to that expert come before this one. */
  readonly position: Tensor
}

/** Which token each row of the experts carries, and which rows a token is in; int32. Unused entries are -1. */
export interface RowLists {
  /** `[experts + 1]`: expert e owns rows `expertOffsets[e]` to `expertOffsets[e + 1]`. */
  readonly expertOffsets: Tensor
  /** `[maxRows]`: token of each row, counted over all groups; within an expert by group, then by place. */
  readonly rowToken: Tensor
  /** `[groups * tokens + 1]`: token n is in rows `tokenRows[tokenOffsets[n] … tokenOffsets[n + 1])`. */
  readonly tokenOffsets: Tensor
  /** `[maxRows]`. */
  readonly tokenRows: Tensor
}

function nativeLists(lists: RowLists): NativeRowLists {
  requireObject('the row lists', lists)
  return {
    expertOffsets: handleOf(lists.expertOffsets),
    rowToken: handleOf(lists.rowToken),
    tokenOffsets: handleOf(lists.tokenOffsets),
    tokenRows: handleOf(lists.tokenRows),
  }
}

/**
 * The k best experts of each token: descending scores, ties to the lower expert, NaN counts as -infinity. Places in the
 * experts' buffers are given out choice by choice, all first choices before any second.
 *
 * @param scores - float32 `[groups, tokens, experts]`
 * @param priority - who is served first: tokens in order (`none`), by their best score (`max`, Batch Priority Routing,
 *   V-MoE, section 4.1) or by the sum of their selected scores (`sum`)
 * @throws `ERR_INVALID_ARGUMENT` unless 1 <= k <= experts; `ERR_SHAPE`, `ERR_DTYPE`
 */
export function selectExperts(
  scores: Tensor,
  k: number,
  priority: RoutingPriority = 'none',
): ExpertSelection {
  const [expert, position] = native.tokensChoice(handleOf(scores), k, priority)
  return { expert: wrap(expert, scores.device), position: wrap(position, scores.device) }
}

/**
 * The `capacity` best tokens of each expert: descending scores, ties to the lower token, NaN counts as -infinity.
 *
 * @param scores - float32 `[groups, tokens, experts]`
 * @returns int32 `[groups, experts, capacity]`, indices within the group
 * @throws `ERR_INVALID_ARGUMENT` unless 1 <= capacity <= tokens; `ERR_SHAPE`, `ERR_DTYPE`
 */
export function selectTokens(scores: Tensor, capacity: number): Tensor {
  return wrap(native.expertsChoice(handleOf(scores), capacity), scores.device)
}

type ListHandles = ReturnType<typeof native.rowsFromTokensChoice>

function wrapLists([expertOffsets, rowToken, tokenOffsets, tokenRows]: ListHandles, like: Tensor): RowLists {
  const { device } = like
  return {
    expertOffsets: wrap(expertOffsets, device),
    rowToken: wrap(rowToken, device),
    tokenOffsets: wrap(tokenOffsets, device),
    tokenRows: wrap(tokenRows, device),
  }
}

/** Rows of the assignments whose position is below `capacity`; the others are dropped. */
export function rowsOfSelectedExperts(
  selection: ExpertSelection,
  numExperts: number,
  capacity: number,
): RowLists {
  requireObject('the selection', selection)
  const { expert, position } = selection
  return wrapLists(
    native.rowsFromTokensChoice(handleOf(expert), handleOf(position), numExperts, capacity),
    expert,
  )
}

/** Rows of tokens selected by experts. @param tokensPerGroup - tokens of a group */
export function rowsOfSelectedTokens(token: Tensor, tokensPerGroup: number): RowLists {
  return wrapLists(native.rowsFromExpertsChoice(handleOf(token), tokensPerGroup), token)
}

/**
 * The gate of each row: `gates[token of the row, expert of the row]`.
 *
 * @param gates - float32 `[groups, tokens, experts]`
 * @returns float32 `[maxRows]`, 0 for unused rows
 */
export function gatherGates(gates: Tensor, lists: RowLists): Tensor {
  const rowGate = wrap(native.gatherGates(handleOf(gates), nativeLists(lists)), gates.device)
  recordOperation('gatherGates', [gates], [rowGate], [], (dys) => [
    wrap(native.gatherGatesBackward(only(dys).handle, gates.shape, nativeLists(lists)), gates.device),
  ])
  return rowGate
}

/**
 * Gates divided by the sum of the token's k selected gates; 0 for experts that were not selected.
 *
 * @param gates - float32 `[groups, tokens, experts]`
 * @param expert - int32 `[groups, tokens, k]`
 */
export function normalizeSelected(gates: Tensor, expert: Tensor): Tensor {
  const y = wrap(native.normalizeSelected(handleOf(gates), handleOf(expert)), gates.device)
  recordOperation('normalizeSelected', [gates], [y], [], (dys) => [
    wrap(native.normalizeSelectedBackward(gates.handle, expert.handle, only(dys).handle), gates.device),
  ])
  return y
}

/**
 * Brings the experts' outputs back to the tokens: `y[n] = sum over the rows r of token n of rowGate[r] * rows[r]`. A
 * token without rows gets 0.
 *
 * @param rows - `[maxRows, dim]`
 * @param rowGate - float32 `[maxRows]`
 * @returns `[groups * tokens, dim]`, of the rows' dtype
 */
export function combineRows(rows: Tensor, rowGate: Tensor, lists: RowLists): Tensor {
  const y = wrap(native.combineRows(handleOf(rows), optionalHandle(rowGate), nativeLists(lists)), rows.device)
  recordOperation('combineRows', [rows, rowGate], [y], [], (dys) => {
    const [dRows, dRowGate] = native.combineRowsBackward(
      rows.handle,
      rowGate.handle,
      only(dys).handle,
      nativeLists(lists),
    )
    return [wrap(dRows, rows.device), wrap(dRowGate, rows.device)]
  })
  return y
}

/** Sums the gradients of gathered rows `[maxRows, dim]` into those of their tokens `[groups * tokens, dim]`. */
export function gatherGradient(lists: RowLists): GatherGradient {
  return (dRows) => wrap(native.combineRows(handleOf(dRows), null, nativeLists(lists)), dRows.device)
}
