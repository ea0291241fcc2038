/** One optimisation step, queued on the device and awaited later, so that the device need not wait for JavaScript. */
import { SoftMoEError } from '../core/errors.js'
import { Tape } from '../core/tape.js'
import type { Tensor } from '../core/tensor.js'
import type { Batch } from '../data/batch.js'
import type { VisionTransformer } from '../models/vision-transformer.js'
import { add, argmax } from '../ops/elementwise.js'
import { crossEntropy } from '../ops/losses.js'
import type { Optimizer } from '../optim/optimizer.js'

/** What a step found. */
export interface StepOutcome {
  /** Mean loss of the batch with the routers' auxiliary losses, in nats. */
  readonly loss: number
  /** Share of the batch classified correctly before the update. */
  readonly accuracy: number
  readonly gradNorm: number
  readonly learningRate: number
}

/** A step on its way. */
export interface QueuedStep {
  readonly batch: Batch
  /**
   * Waits for the step. Call it once.
   * @throws (rejects) `ERR_NON_FINITE` if the loss or the gradients' norm is NaN or infinite
   */
  outcome(): Promise<StepOutcome>
}

/** What a step works on. */
export interface StepParts {
  readonly model: VisionTransformer
  readonly optimizer: Optimizer
  readonly labelSmoothing: number
}

/** Queues forward pass, backward pass and update of one batch. */
export function queueStep({ model, optimizer, labelSmoothing }: StepParts, batch: Batch): QueuedStep {
  const { learningRate } = optimizer
  const { height, width, channels } = imageFormat(model)
  const tape = new Tape()
  const { loss, predicted } = tape.record(() => {
    const images = model.device.tensor(batch.images, [batch.count, height, width, channels])
    const { logits, auxiliaryLoss } = model.forwardWithLoss(images)
    const taskLoss = crossEntropy(logits, batch.labels, { labelSmoothing })
    return {
      loss: auxiliaryLoss === null ? taskLoss : add(taskLoss, auxiliaryLoss),
      predicted: argmax(logits),
    }
  })
  tape.backward(loss)
  const norm = optimizer.update()
  // Queued here, in front of the next step's work: the device is an in-order stream.
  const reading = read({ loss, predicted, norm, step: optimizer.steps }, batch)
  for (const tensor of [loss, predicted, norm]) tensor.dispose()
  // Whoever awaits the outcome hears of a failure; until then it is no unhandled one.
  reading.catch(() => undefined)
  return { batch, outcome: async () => ({ ...(await reading), learningRate }) }
}

interface Results {
  readonly loss: Tensor
  readonly predicted: Tensor
  readonly norm: Tensor
  readonly step: number
}

async function read(
  { loss, predicted, norm, step }: Results,
  { labels, count }: Batch,
): Promise<Omit<StepOutcome, 'learningRate'>> {
  const [lossValue, classes, gradNorm] = await Promise.all([loss.item(), predicted.data(), norm.item()])
  if (!Number.isFinite(lossValue) || !Number.isFinite(gradNorm)) {
    throw new SoftMoEError(
      'ERR_NON_FINITE',
      `step ${step} gave the loss ${lossValue} and the gradient norm ${gradNorm}; checkpoints of earlier steps are ` +
        'kept: lower the learning rate, or find the operation with --detect-anomaly (detectAnomaly)',
    )
  }
  let correct = 0
  labels.forEach((label, i) => {
    if (classes[i] === label) correct++
  })
  return { loss: lossValue, accuracy: correct / count, gradNorm }
}

function imageFormat({ config }: VisionTransformer): { height: number; width: number; channels: number } {
  const { imageSize = 224, channels = 3 } = config
  const [height, width] = typeof imageSize === 'number' ? [imageSize, imageSize] : imageSize
  return { height, width, channels }
}
