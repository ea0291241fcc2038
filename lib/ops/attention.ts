import { requireObject } from '../core/arguments.js'
import { isRecorded, recordOperation } from '../core/tape.js'
import { handleOf, type Tensor } from '../core/tensor.js'
import { native, type RandomKey } from '../native.js'
import { only, saved, wrap, wrapOptional } from './wrap.js'

/** Options of `attention`. */
export interface AttentionOptions {
  /** Factor of the scores. Default `1 / sqrt(headDim)`. */
  readonly scale?: number
  /** Dropout of the probabilities, in [0, 1). Default 0. */
  readonly dropoutRate?: number
  /** Key of the dropout. */
  readonly key?: RandomKey
}

/**
 * Multi-head attention, `softmax(scale * q k^T) v` for each head.
 *
 * @param q - `[batch, queries, heads, headDim]`
 * @param k - `[batch, keys, heads, headDim]`
 * @param v - like `k`
 * @returns like `q`
 * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_DEVICE`; `ERR_INVALID_ARGUMENT` on CUDA for heads longer than 256
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  requireObject('the options of attention', options)
  handleOf(q)
  const scale = options.scale ?? 1 / Math.sqrt(q.shape[3] ?? 1)
  const { dropoutRate = 0, key = { seed: 0, stream: 0 } } = options
  const recorded = isRecorded(q, k, v)
  const [oHandle, lseHandle] = native.attention(
    handleOf(q),
    handleOf(k),
    handleOf(v),
    scale,
    dropoutRate,
    key,
    recorded,
  )
  const o = wrap(oHandle, q.device)
  const logSumExp = wrapOptional(lseHandle, q.device)
  recordOperation('attention', [q, k, v], [o], [logSumExp], (dys) =>
    native
      .attentionBackward(
        q.handle,
        k.handle,
        v.handle,
        o.handle,
        saved(logSumExp).handle,
        only(dys).handle,
        scale,
        dropoutRate,
        key,
      )
      .map((gradient) => wrap(gradient, q.device)),
  )
  return o
}
