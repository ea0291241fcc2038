import { given, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { recordOperation } from '../core/tape.js'
import { handleOf, isTensor, type Tensor } from '../core/tensor.js'
import { type CrossEntropyKind, native } from '../native.js'
import { add, mean, reshape, scale, transpose } from './elementwise.js'
import { matmul } from './linear.js'
import { l2Normalize } from './normalization.js'
import { only, wrap } from './wrap.js'

/** Options of the cross-entropies. */
export interface CrossEntropyOptions {
  /** The target is `(1 - labelSmoothing) * oneHot + labelSmoothing / classes`. In [0, 1), default 0. */
  readonly labelSmoothing?: number
}

/** Class indices: int32 `[rows]` on the logits' device, or a host array, which is checked and copied there. */
export type Labels = Tensor | Int32Array | readonly number[]

function labelTensor(labels: Labels, logits: Tensor): Tensor {
  if (isTensor(labels)) return labels
  if (!(labels instanceof Int32Array || Array.isArray(labels))) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the labels are ${labels === null ? 'null' : typeof labels}; wanted an int32 tensor, an Int32Array or an array ` +
        'of numbers',
    )
  }
  const classes = logits.shape[1] ?? 0
  // Read once. A detached array has no elements, and cannot be iterated.
  const values = labels.length === 0 ? [] : Array.from(labels)
  const wrong = values.findIndex((label) => !Number.isInteger(label) || label < 0 || label >= classes)
  if (wrong >= 0) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `label ${given(values[wrong])} of row ${wrong} is not a class; wanted a whole number from 0 to ${classes - 1}`,
    )
  }
  return logits.device.tensor(Int32Array.from(values), [values.length])
}

function crossEntropyOf(
  kind: CrossEntropyKind,
  logits: Tensor,
  labels: Labels,
  options: CrossEntropyOptions,
): Tensor {
  requireObject('the options of crossEntropy', options)
  const { labelSmoothing = 0 } = options
  handleOf(logits)
  const target = labelTensor(labels, logits)
  const losses = wrap(
    native.crossEntropy(handleOf(logits), handleOf(target), kind, labelSmoothing),
    logits.device,
  )
  recordOperation('crossEntropy', [logits], [losses], [], (dys) => [
    wrap(
      native.crossEntropyBackward(logits.handle, target.handle, only(dys).handle, kind, labelSmoothing),
      logits.device,
    ),
  ])
  return mean(losses)
}

/**
 * Mean softmax cross-entropy of logits `[rows, classes]`. A label tensor that holds something else than a class gives
 * a NaN loss; labels from the host are checked.
 *
 * @returns a float32 tensor of shape `[]`
 */
export function crossEntropy(logits: Tensor, labels: Labels, options: CrossEntropyOptions = {}): Tensor {
  return crossEntropyOf('softmax', logits, labels, options)
}

/** As `crossEntropy`, with a binary cross-entropy for each class, summed over classes (Soft MoE's pre-training). */
export function sigmoidCrossEntropy(
  logits: Tensor,
  labels: Labels,
  options: CrossEntropyOptions = {},
): Tensor {
  return crossEntropyOf('sigmoid', logits, labels, options)
}

/**
 * Similarities of paired embeddings: `temperature * normalise(a) normalise(b)^T (+ bias)`.
 *
 * @param a - `[pairs, dim]`
 * @param b - `[pairs, dim]`; row i belongs to row i of `a`
 * @param temperature - float32 tensor of one element, or a number
 * @param bias - float32 tensor of one element
 * @returns float32 `[pairs, pairs]`
 */
export function pairLogits(a: Tensor, b: Tensor, temperature: Tensor | number, bias?: Tensor): Tensor {
  const similarities = matmul(l2Normalize(a), l2Normalize(b), { transposeB: true, dtype: 'float32' })
  const logits = scale(similarities, temperature)
  return bias === undefined ? logits : add(logits, reshape(bias, []))
}

function diagonal(logits: Tensor): Int32Array {
  handleOf(logits)
  return Int32Array.from({ length: logits.shape[0] ?? 0 }, (_, i) => i)
}

/**
 * The symmetric contrastive loss (InfoNCE; CLIP): the mean of the softmax cross-entropies of rows and of columns
 * with the matching pair as the label.
 *
 * @param logits - float32 `[pairs, pairs]` from `pairLogits`
 */
export function contrastiveLoss(logits: Tensor): Tensor {
  const labels = diagonal(logits)
  return scale(add(crossEntropy(logits, labels), crossEntropy(transpose(logits), labels)), 0.5)
}

/**
 * The pairwise sigmoid loss (SigLIP): a binary cross-entropy for each pair, positive on the diagonal, summed over
 * columns and averaged over rows.
 *
 * @param logits - float32 `[pairs, pairs]` from `pairLogits`, with a bias
 */
export function sigmoidContrastiveLoss(logits: Tensor): Tensor {
  return sigmoidCrossEntropy(logits, diagonal(logits))
}
