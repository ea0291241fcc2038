import { requireArray, requireNumber } from '../core/arguments.js'
import type { DType, FloatDType } from '../core/dtype.js'
import { SoftMoEError } from '../core/errors.js'
import { recordOperation } from '../core/tape.js'
import { handleOf, type Tensor } from '../core/tensor.js'
import { type Activation, native, type RandomKey } from '../native.js'
import { only, wrap } from './wrap.js'

/** The same elements, in row-major order, under another shape; shares memory. @throws `ERR_SHAPE` */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const y = wrap(native.reshape(handleOf(x), shape), x.device)
  recordOperation('reshape', [x], [y], [], (dys) => {
    const dy = only(dys)
    return [wrap(native.reshape(dy.handle, x.shape), x.device)]
  })
  return y
}

/** Converts the elements to `dtype`, rounding to nearest even. */
export function cast(x: Tensor, dtype: DType): Tensor {
  const y = wrap(native.cast(handleOf(x), dtype), x.device)
  if (dtype !== 'int32' && x.dtype !== 'int32') {
    recordOperation('cast', [x], [y], [], (dys) => [wrap(native.cast(only(dys).handle, x.dtype), x.device)])
  }
  return y
}

/** `x` itself if it has the dtype, else `cast(x, dtype)`. */
export function asDType(x: Tensor, dtype: FloatDType): Tensor {
  handleOf(x)
  return x.dtype === dtype ? x : cast(x, dtype)
}

/**
 * `a + alpha * b`. The shape of `b` is that of `a` or the end of it (a bias, position embeddings).
 *
 * @returns a tensor of `a`'s shape and dtype
 * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_DEVICE`
 */
export function add(a: Tensor, b: Tensor, alpha = 1): Tensor {
  const y = wrap(native.add(handleOf(a), handleOf(b), alpha), a.device)
  recordOperation('add', [a, b], [y], [], (dys, [, wantsB]) => {
    const dy = only(dys)
    return [dy, wantsB ? gradientOfAddend(dy, b, alpha) : null]
  })
  return y
}

function gradientOfAddend(dy: Tensor, b: Tensor, alpha: number): Tensor {
  // In float32 if either is: a position embedding's gradient is not to be rounded to the tokens' bfloat16.
  const dtype = b.dtype === 'float32' ? 'float32' : dy.dtype
  let gradient = dy
  if (dy.shape.length !== b.shape.length) {
    const rows = wrap(native.reshape(dy.handle, [b.size === 0 ? 0 : dy.size / b.size, b.size]), b.device)
    gradient = wrap(native.sum(rows.handle, 0, alpha, dtype), b.device)
    gradient = wrap(native.reshape(gradient.handle, b.shape), b.device)
  } else if (alpha !== 1) {
    const wide = dy.dtype === dtype ? dy : wrap(native.cast(dy.handle, dtype), b.device)
    gradient = wrap(native.scale(wide.handle, alpha, null), b.device)
  }
  return gradient.dtype === b.dtype ? gradient : wrap(native.cast(gradient.handle, b.dtype), b.device)
}

/** Elementwise product of two tensors of one shape and dtype. */
export function multiply(a: Tensor, b: Tensor): Tensor {
  const y = wrap(native.multiply(handleOf(a), handleOf(b)), a.device)
  recordOperation('multiply', [a, b], [y], [], (dys, [wantsA, wantsB]) => {
    const dy = only(dys)
    return [
      wantsA ? wrap(native.multiply(dy.handle, b.handle), a.device) : null,
      wantsB ? wrap(native.multiply(dy.handle, a.handle), a.device) : null,
    ]
  })
  return y
}

/**
 * `x` times a number, or times a float32 tensor of one element (a learned temperature, say).
 *
 * @throws `ERR_SHAPE`, `ERR_DTYPE`
 */
export function scale(x: Tensor, factor: number | Tensor): Tensor {
  if (typeof factor === 'number') {
    const y = wrap(native.scale(handleOf(x), factor, null), x.device)
    recordOperation('scale', [x], [y], [], (dys) => [
      wrap(native.scale(only(dys).handle, factor, null), x.device),
    ])
    return y
  }
  const y = wrap(native.scale(handleOf(x), 1, handleOf(factor)), x.device)
  recordOperation('scale', [x, factor], [y], [], (dys, [wantsX, wantsFactor]) => {
    const dy = only(dys)
    let dFactor: Tensor | null = null
    if (wantsFactor) {
      const products = wrap(native.multiply(dy.handle, x.handle), x.device)
      const total = wrap(native.sumAll(products.handle, 1), x.device)
      dFactor = wrap(native.reshape(total.handle, factor.shape), x.device)
    }
    return [wantsX ? wrap(native.scale(dy.handle, 1, factor.handle), x.device) : null, dFactor]
  })
  return y
}

/** Elements `start` to `end` (exclusive) of one axis. @throws `ERR_INVALID_ARGUMENT` */
export function slice(x: Tensor, axis: number, start: number, end: number): Tensor {
  const y = wrap(native.slice(handleOf(x), axis, start, end), x.device)
  recordOperation('slice', [x], [y], [], (dys) => [
    wrap(native.sliceBackward(only(dys).handle, x.shape, axis, start), x.device),
  ])
  return y
}

/** Joins tensors of one dtype along an axis; the other extents agree. @throws `ERR_SHAPE`, `ERR_DTYPE` */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  requireArray('the tensors of concat', parts)
  const first = parts[0]
  if (first === undefined) {
    throw new SoftMoEError('ERR_INVALID_ARGUMENT', 'concat: no tensors were given; wanted at least one')
  }
  const y = wrap(
    native.concat(
      parts.map((part) => handleOf(part)),
      axis,
    ),
    first.device,
  )
  recordOperation('concat', parts, [y], [], (dys, wanted) => {
    const dy = only(dys)
    let start = 0
    return parts.map((part, i) => {
      const from = start
      start += part.shape[axis] ?? 0
      return wanted[i] ? wrap(native.slice(dy.handle, axis, from, start), first.device) : null
    })
  })
  return y
}

/** Repeats `x` along a new axis. */
export function broadcast(x: Tensor, axis: number, count: number): Tensor {
  const y = wrap(native.broadcast(handleOf(x), axis, count, 1), x.device)
  recordOperation('broadcast', [x], [y], [], (dys) => [
    wrap(native.sum(only(dys).handle, axis, 1, x.dtype), x.device),
  ])
  return y
}

function reduce(
  name: string,
  x: Tensor,
  axis: number | undefined,
  factor: (extent: number) => number,
): Tensor {
  handleOf(x)
  if (axis !== undefined) {
    requireNumber('axis', axis)
    const extent = x.shape[axis] ?? 0
    const weight = factor(extent)
    const y = wrap(native.sum(handleOf(x), axis, weight, x.dtype), x.device)
    recordOperation(name, [x], [y], [], (dys) => [
      wrap(native.broadcast(only(dys).handle, axis, extent, weight), x.device),
    ])
    return y
  }
  const weight = factor(x.size)
  const y = wrap(native.sumAll(handleOf(x), weight), x.device)
  recordOperation(name, [x], [y], [], (dys) => [
    wrap(native.broadcastScalar(only(dys).handle, x.shape, x.dtype, weight), x.device),
  ])
  return y
}

/** Sum over one axis, which disappears, or of all elements (a float32 tensor of shape `[]`). */
export function sum(x: Tensor, axis?: number): Tensor {
  return reduce('sum', x, axis, () => 1)
}

/** Mean over one axis, which disappears, or of all elements (a float32 tensor of shape `[]`). */
export function mean(x: Tensor, axis?: number): Tensor {
  return reduce('mean', x, axis, (extent) => 1 / extent)
}

/** Elementwise activation. `gelu` is the tanh approximation (the papers' code), `gelu-erf` the exact form. */
export function activate(x: Tensor, activation: Activation): Tensor {
  const y = wrap(native.activate(handleOf(x), activation), x.device)
  recordOperation(activation, [x], [y], [], (dys) => [
    wrap(native.activateBackward(x.handle, only(dys).handle, activation), x.device),
  ])
  return y
}

/**
 * Sets each element to 0 with probability `rate` and divides the others by `1 - rate`.
 *
 * @param key - key of the random numbers; the same key drops the same elements on every device
 */
export function dropout(x: Tensor, rate: number, key: RandomKey): Tensor {
  if (rate === 0) return x
  const y = wrap(native.dropout(handleOf(x), rate, key), x.device)
  recordOperation('dropout', [x], [y], [], (dys) => [
    wrap(native.dropout(only(dys).handle, rate, key), x.device),
  ])
  return y
}

/** Swaps the last two axes. */
export function transpose(x: Tensor): Tensor {
  const y = wrap(native.transpose(handleOf(x)), x.device)
  recordOperation('transpose', [x], [y], [], (dys) => [wrap(native.transpose(only(dys).handle), x.device)])
  return y
}

/**
 * Cuts images `[batch, height, width, channels]` into patches
 * `[batch, (height / patch) * (width / patch), patch * patch * channels]`.
 *
 * @param dtype - of the patches; default that of the images
 * @throws `ERR_INVALID_ARGUMENT` if the patches do not tile the image
 */
export function patchify(images: Tensor, patch: number, dtype?: FloatDType): Tensor {
  const y = wrap(native.patchify(handleOf(images), patch, dtype ?? images.dtype), images.device)
  recordOperation('patchify', [images], [y], [], (dys) => [
    wrap(native.unpatchify(only(dys).handle, images.shape, patch, images.dtype), images.device),
  ])
  return y
}

/** Whether any element is NaN or infinite; waits for the device. */
export async function hasNonFinite(x: Tensor): Promise<boolean> {
  const count = wrap(native.countNonFinite(handleOf(x)), x.device)
  try {
    return (await count.item()) > 0
  } finally {
    count.dispose()
  }
}

/** Index of the largest element of the last axis, int32; ties go to the lower index. */
export function argmax(x: Tensor): Tensor {
  return wrap(native.argmax(handleOf(x)), x.device)
}
