// Losses of classification: mean over the batch; the sigmoid form sums over the classes.
import { type Ref, zeros } from './array.js'

export interface LossAndGradient {
  readonly loss: number
  /** [B, classes] */
  readonly dLogits: Ref
}

/** Targets [B, classes]: (1 − smoothing)·one-hot + smoothing/classes. */
export function smoothedTargets(labels: ArrayLike<number>, classes: number, smoothing = 0): Ref {
  const targets = zeros(labels.length, classes)
  for (let b = 0; b < labels.length; b++) {
    for (let c = 0; c < classes; c++) {
      targets.data[b * classes + c] = (labels[b] === c ? 1 - smoothing : 0) + smoothing / classes
    }
  }
  return targets
}

/** −mean_b Σ_c t_c log softmax(z)_c for logits and targets [B, classes]; targets need not sum to one. */
export function softmaxCrossEntropy(logits: Ref, targets: Ref): LossAndGradient {
  const [batch, classes] = logits.shape as [number, number]
  const dLogits = zeros(batch, classes)
  let loss = 0
  for (let b = 0; b < batch; b++) {
    const row = logits.data.subarray(b * classes, (b + 1) * classes)
    const largest = row.reduce((a, z) => Math.max(a, z), -Infinity)
    let total = 0
    let targetTotal = 0
    for (let c = 0; c < classes; c++) {
      total += Math.exp(row[c] - largest)
      targetTotal += targets.data[b * classes + c]
    }
    const logSum = largest + Math.log(total)
    for (let c = 0; c < classes; c++) {
      const target = targets.data[b * classes + c]
      loss += (target * (logSum - row[c])) / batch
      dLogits.data[b * classes + c] = (targetTotal * Math.exp(row[c] - logSum) - target) / batch
    }
  }
  return { loss, dLogits }
}

/** −mean_b Σ_c [t log σ(z) + (1 − t) log(1 − σ(z))] for logits and targets [B, classes]. */
export function sigmoidCrossEntropy(logits: Ref, targets: Ref): LossAndGradient {
  const batch = logits.shape[0]
  const dLogits = zeros(...logits.shape)
  let loss = 0
  for (let i = 0; i < logits.data.length; i++) {
    const z = logits.data[i]
    const t = targets.data[i]
    // log(1 + e^z) − tz, arranged so that the exponential cannot overflow.
    loss += (Math.max(z, 0) - t * z + Math.log1p(Math.exp(-Math.abs(z)))) / batch
    dLogits.data[i] = (1 / (1 + Math.exp(-z)) - t) / batch
  }
  return { loss, dLogits }
}
