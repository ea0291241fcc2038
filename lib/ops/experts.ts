import { requireObject } from '../core/arguments.js'
import { isRecorded, recordOperation } from '../core/tape.js'
import { handleOf, optionalHandle, type Tensor } from '../core/tensor.js'
import { type Activation, native, type RandomKey } from '../native.js'
import { only, saved, wrap, wrapOptional } from './wrap.js'

/** Weights of the experts: E two-layer perceptrons. One expert is the dense MLP. */
export interface ExpertWeights {
  /** `[experts, dim, hidden]`, of the input's dtype; its gradient is float32. */
  readonly w1: Tensor
  /** float32 `[experts, hidden]`. */
  readonly b1: Tensor
  /** `[experts, hidden, out]`, of the input's dtype; its gradient is float32. */
  readonly w2: Tensor
  /** float32 `[experts, out]`. */
  readonly b2: Tensor
}

/** Ragged rows: which rows each expert works on. */
export interface RaggedRows {
  /** int32 `[experts + 1]`: expert e owns rows `offsets[e]` to `offsets[e + 1]`. */
  readonly expertOffsets: Tensor
  /** int32 `[maxRows]`: the row of `x` that each row reads. */
  readonly rowToken: Tensor
}

/** Options of `experts`. */
export interface ExpertsOptions {
  /** Default `gelu` (tanh form). */
  readonly activation?: Activation
  /** Dropout after the activation and after the second product, in [0, 1). Default 0. */
  readonly dropoutRate?: number
  /** Key of the dropout; its stream and the next one are used. */
  readonly key?: RandomKey
}

/** Row sums that bring gradients of gathered rows back to tokens. */
export type GatherGradient = (dRows: Tensor) => Tensor

/**
 * The batched expert MLP: `y_e = activation(x_e w1_e + b1_e) w2_e + b2_e`.
 *
 * @param x - `[experts, rows, dim]`, or `[tokens, dim]` with `rows`
 * @param rows - ragged rows, gathered from `x` inside the product
 * @param gatherGradient - with `rows`: sums row gradients `[maxRows, dim]` into token gradients `[tokens, dim]`
 * @returns `[experts, rows, out]`, or `[maxRows, out]` with `rows`
 * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_DEVICE`; at the next wait `ERR_INVALID_ARGUMENT` for rows by hand that are
 *   wrong (offsets that fall or end beyond the rows, tokens that do not exist)
 */
export function experts(
  x: Tensor,
  weights: ExpertWeights,
  options: ExpertsOptions = {},
  rows?: RaggedRows,
  gatherGradient?: GatherGradient,
): Tensor {
  requireObject('the options of experts', options)
  requireObject('the weights of experts', weights)
  const { activation = 'gelu', dropoutRate = 0, key = { seed: 0, stream: 0 } } = options
  const { w1, b1, w2, b2 } = weights
  const offsets = optionalHandle(rows?.expertOffsets)
  const gather = optionalHandle(rows?.rowToken)
  const [yHandle, preHandle] = native.experts(
    handleOf(x),
    offsets,
    gather,
    handleOf(w1),
    handleOf(b1),
    handleOf(w2),
    handleOf(b2),
    activation,
    dropoutRate,
    key,
    isRecorded(x, w1, b1, w2, b2),
  )
  const y = wrap(yHandle, x.device)
  const pre = wrapOptional(preHandle, x.device)
  recordOperation('experts', [x, w1, b1, w2, b2], [y], [pre], (dys, [wantsX]) => {
    const [dRows, dw1, db1, dw2, db2] = native
      .expertsBackward(
        x.handle,
        offsets === null ? null : optionalHandle(rows?.expertOffsets),
        gather === null ? null : optionalHandle(rows?.rowToken),
        w1.handle,
        w2.handle,
        saved(pre).handle,
        only(dys).handle,
        activation,
        dropoutRate,
        key,
      )
      .map((handle) => wrap(handle, x.device)) as [Tensor, Tensor, Tensor, Tensor, Tensor]
    const dx = !wantsX ? null : gatherGradient === undefined ? dRows : gatherGradient(dRows)
    return [dx, dw1, db1, dw2, db2]
  })
  return y
}
