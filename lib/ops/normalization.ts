import { isRecorded, recordOperation } from '../core/tape.js'
import { handleOf, optionalHandle, type Tensor } from '../core/tensor.js'
import { native } from '../native.js'
import { only, saved, wrap, wrapOptional } from './wrap.js'

/**
 * Layer normalisation over the last axis: `(x - mean) / sqrt(var + eps) * scale + bias`.
 *
 * @param x - `[..., dim]`
 * @param scale - float32 `[dim]`
 * @param bias - float32 `[dim]`
 * @param eps - default 1e-6 (Flax)
 */
export function layerNorm(x: Tensor, scale?: Tensor | null, bias?: Tensor | null, eps = 1e-6): Tensor {
  const recorded = isRecorded(x, scale, bias)
  const [yHandle, meanHandle, rstdHandle] = native.layerNorm(
    handleOf(x),
    optionalHandle(scale),
    optionalHandle(bias),
    eps,
    recorded,
  )
  const y = wrap(yHandle, x.device)
  const mean = wrapOptional(meanHandle, x.device)
  const rstd = wrapOptional(rstdHandle, x.device)
  recordOperation('layerNorm', [x, scale, bias], [y], [mean, rstd], (dys) => {
    const [dx, dScale, dBias] = native.layerNormBackward(
      x.handle,
      optionalHandle(scale),
      saved(mean).handle,
      saved(rstd).handle,
      only(dys).handle,
      bias !== null && bias !== undefined,
    )
    return [wrap(dx, x.device), wrapOptional(dScale, x.device), wrapOptional(dBias, x.device)]
  })
  return y
}

/**
 * Divides each row (last axis) by its length: `x / sqrt(sum(x^2) + eps)`.
 *
 * @param eps - default 1e-6
 */
export function l2Normalize(x: Tensor, eps = 1e-6): Tensor {
  const [yHandle, normHandle] = native.l2Normalize(handleOf(x), eps)
  const y = wrap(yHandle, x.device)
  const inverseNorm = wrap(normHandle, x.device)
  if (!isRecorded(x)) inverseNorm.dispose()
  recordOperation('l2Normalize', [x], [y], [inverseNorm], (dys) => [
    wrap(native.l2NormalizeBackward(x.handle, inverseNorm.handle, only(dys).handle), x.device),
  ])
  return y
}

/** Softmax over the last axis. NaN counts as -infinity. */
export function softmax(x: Tensor): Tensor {
  const y = wrap(native.softmax(handleOf(x)), x.device)
  recordOperation('softmax', [x], [y], [], (dys) => [
    wrap(native.softmaxBackward(y.handle, only(dys).handle), x.device),
  ])
  return y
}
