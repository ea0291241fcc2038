import { requireObject } from '../core/arguments.js'
import type { FloatDType } from '../core/dtype.js'
import { isRecorded, recordOperation } from '../core/tape.js'
import { handleOf, optionalHandle, type Tensor } from '../core/tensor.js'
import { type Activation, native, type TensorHandle } from '../native.js'
import { only, saved, wrap, wrapOptional } from './wrap.js'

/** Options of `linear`. */
export interface LinearOptions {
  /** Applied to the result. Default `none`. */
  readonly activation?: Activation
  /** dtype of the result: `x`'s (default) or float32. */
  readonly dtype?: FloatDType
}

/** `x` in `dtype`; the caller disposes of a copy. */
function converted(x: Tensor, dtype: string): TensorHandle {
  return x.dtype === dtype ? x.handle : wrap(native.cast(x.handle, dtype as FloatDType), x.device).handle
}

/**
 * `activation(x w + bias)`.
 *
 * @param x - `[..., in]`
 * @param w - `[in, out]`, of `x`'s dtype; its gradient is float32
 * @param bias - float32 `[out]`
 * @returns `[..., out]`
 * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_DEVICE`
 */
export function linear(x: Tensor, w: Tensor, bias?: Tensor | null, options: LinearOptions = {}): Tensor {
  requireObject('the options of linear', options)
  handleOf(x)
  const { activation = 'none' } = options
  const dtype = options.dtype ?? x.dtype
  const savePre = activation !== 'none' && isRecorded(x, w, bias)
  const [yHandle, preHandle] = native.linear(
    handleOf(x),
    handleOf(w),
    optionalHandle(bias),
    activation,
    savePre,
    dtype,
  )
  const y = wrap(yHandle, x.device)
  const pre = wrapOptional(preHandle, x.device)
  recordOperation('linear', [x, w, bias], [y], [pre], (dys, [wantsX, wantsW, wantsBias]) => {
    let dy = converted(only(dys), x.dtype)
    if (activation !== 'none')
      dy = wrap(native.activateBackward(saved(pre).handle, dy, activation), x.device).handle
    const dx = wantsX ? wrap(native.linearBackwardInput(dy, w.handle), x.device) : null
    if (!wantsW && !wantsBias) return [dx, null, null]
    const [dw, dBias] = native.linearBackwardWeight(x.handle, dy, wantsBias)
    return [dx, wrap(dw, x.device), wrapOptional(dBias, x.device)]
  })
  return y
}

/** Options of `matmul`. */
export interface MatMulOptions {
  /** Whether `a` is stored as `[..., k, m]`. Default false. */
  readonly transposeA?: boolean
  /** Whether `b` is stored as `[..., n, k]`. Default false. */
  readonly transposeB?: boolean
  /** dtype of the result: `a`'s (default) or float32. */
  readonly dtype?: FloatDType
}

/**
 * Batched matrix product `[..., m, k] x [..., k, n] -> [..., m, n]` with float32 sums.
 *
 * @throws `ERR_SHAPE`, `ERR_INVALID_ARGUMENT`, `ERR_DTYPE`
 */
export function matmul(a: Tensor, b: Tensor, options: MatMulOptions = {}): Tensor {
  requireObject('the options of matmul', options)
  handleOf(a)
  const { transposeA = false, transposeB = false } = options
  const dtype = options.dtype ?? a.dtype
  const product = (
    left: TensorHandle,
    right: TensorHandle,
    transposeLeft: boolean,
    transposeRight: boolean,
    to: Tensor,
  ): Tensor => wrap(native.matmul(left, right, transposeLeft, transposeRight, 1, to.dtype), to.device)
  const y = wrap(native.matmul(handleOf(a), handleOf(b), transposeA, transposeB, 1, dtype), a.device)
  recordOperation('matmul', [a, b], [y], [], (dys, [wantsA, wantsB]) => {
    const dy = converted(only(dys), a.dtype)
    let da: Tensor | null = null
    let db: Tensor | null = null
    if (wantsA) {
      da = transposeA
        ? product(b.handle, dy, transposeB, true, a)
        : product(dy, b.handle, false, !transposeB, a)
    }
    if (wantsB) {
      db = transposeB
        ? product(dy, a.handle, true, transposeA, b)
        : product(a.handle, dy, !transposeA, false, b)
    }
    return [da, db]
  })
  return y
}
