/** Measures a model on a test set. */
import { requireObject } from '../core/arguments.js'
import { scope } from '../core/lifetime.js'
import { noGrad } from '../core/tape.js'
import type { Tensor } from '../core/tensor.js'
import type { Batch } from '../data/batch.js'
import type { ChannelStatistics, ImageDataset } from '../data/dataset.js'
import { loadImages } from '../data/loader.js'
import { encodePng } from '../data/png.js'
import type { VisionTransformer } from '../models/vision-transformer.js'
import { argmax } from '../ops/elementwise.js'
import { crossEntropy } from '../ops/losses.js'
import { softmax } from '../ops/normalization.js'
import type { Evaluation, SamplePrediction } from './evaluation.js'
import type { LayerRouterMetrics } from './metrics.js'
import { layerMetrics, routerPictures } from './router-pictures.js'

/** How a model is evaluated. */
export interface EvaluateOptions {
  /** That of the training set. */
  readonly normalisation: ChannelStatistics
  /** Images in a batch. Default 128. */
  readonly batchSize?: number
  /** Images whose predictions and routing are kept for the report. Default 16, spread over the test set. */
  readonly samples?: number
}

/** What a pass over a test set counts. */
export interface TestResult {
  readonly images: number
  /** Mean cross-entropy in nats. */
  readonly loss: number
  /** 0 to 1. */
  readonly accuracy: number
  /** Images of class [row] that were taken for class [column]. */
  readonly confusion: readonly (readonly number[])[]
  readonly millisecondsPerImage: number
}

const DEFAULT_BATCH = 128
const DEFAULT_SAMPLES = 18

/** The images of a batch on a model's device. */
export function batchTensor(model: VisionTransformer, batch: Batch, dataset: ImageDataset): Tensor {
  const { height, width, channels } = dataset
  return model.device.tensor(batch.images, [batch.count, height, width, channels])
}

/** Runs `work` with dropout and noise off, and restores the mode. */
export async function inEvalMode<T>(model: VisionTransformer, work: () => Promise<T>): Promise<T> {
  const wasTraining = model.training
  model.eval()
  try {
    return await work()
  } finally {
    model.train(wasTraining)
  }
}

/** Counts what a model gets right on a test set. */
export async function testModel(
  model: VisionTransformer,
  dataset: ImageDataset,
  { normalisation, batchSize = DEFAULT_BATCH }: EvaluateOptions,
): Promise<TestResult> {
  const confusion = dataset.classNames.map(() => dataset.classNames.map(() => 0))
  let lossSum = 0
  let correct = 0
  let milliseconds = 0
  await inEvalMode(model, async () => {
    for await (const batch of loadImages(dataset, { batchSize, normalisation, shuffle: false })) {
      const start = performance.now()
      const { loss, predicted } = forward(model, batch, dataset)
      const [mean, classes] = await Promise.all([loss.item(), predicted.data()])
      milliseconds += performance.now() - start
      loss.dispose()
      predicted.dispose()
      lossSum += mean * batch.count
      batch.labels.forEach((label, i) => {
        confusion[label][classes[i]]++
        if (classes[i] === label) correct++
      })
    }
  })
  return {
    images: dataset.count,
    loss: lossSum / dataset.count,
    accuracy: correct / dataset.count,
    confusion,
    millisecondsPerImage: milliseconds / dataset.count,
  }
}

function forward(
  model: VisionTransformer,
  batch: Batch,
  dataset: ImageDataset,
): { readonly loss: Tensor; readonly predicted: Tensor } {
  return noGrad(() =>
    scope(() => {
      const logits = model.forward(batchTensor(model, batch, dataset))
      return { loss: crossEntropy(logits, batch.labels), predicted: argmax(logits) }
    }),
  )
}

/** The numbers of each mixture layer on some images of a test set. */
export async function measureRouters(
  model: VisionTransformer,
  dataset: ImageDataset,
  options: EvaluateOptions,
): Promise<LayerRouterMetrics[]> {
  return inEvalMode(model, async () => {
    const batch = await sampleBatch(dataset, options)
    return layerMetrics(model, () => batchTensor(model, batch, dataset))
  })
}

/** Evaluates a model with everything that the report draws: sample predictions and what the routers did to them. */
export async function evaluate(
  model: VisionTransformer,
  dataset: ImageDataset,
  options: EvaluateOptions,
): Promise<Evaluation> {
  requireObject('the model', model)
  requireObject('the data set', dataset)
  requireObject('the options of evaluate', options)
  const result = await testModel(model, dataset, options)
  const { samples, routers } = await inEvalMode(model, async () => {
    const batch = await sampleBatch(dataset, options)
    return {
      samples: await predictSamples(model, dataset, batch),
      routers: await routerPictures(model, () => batchTensor(model, batch, dataset)),
    }
  })
  return { dataset: dataset.name, classNames: dataset.classNames, ...result, samples, routers }
}

/** Images spread evenly over the test set. */
async function sampleBatch(dataset: ImageDataset, options: EvaluateOptions): Promise<Batch> {
  const count = Math.min(options.samples ?? DEFAULT_SAMPLES, dataset.count)
  const imageBytes = dataset.height * dataset.width * dataset.channels
  const indices = Int32Array.from({ length: count }, (_, i) => Math.floor((i * dataset.count) / count))
  const images = new Uint8Array(count * imageBytes)
  indices.forEach((index, i) => {
    images.set(dataset.images.subarray(index * imageBytes, (index + 1) * imageBytes), i * imageBytes)
  })
  const chosen = {
    ...dataset,
    images,
    labels: Int32Array.from(indices, (index) => dataset.labels[index]),
    count,
  }
  const { normalisation } = options
  for await (const batch of loadImages(chosen, {
    batchSize: count,
    normalisation,
    shuffle: false,
    worker: false,
  })) {
    return { ...batch, indices }
  }
  throw new Error('a data set without images')
}

async function predictSamples(
  model: VisionTransformer,
  dataset: ImageDataset,
  batch: Batch,
): Promise<SamplePrediction[]> {
  const { height, width, channels, classNames } = dataset
  const output = noGrad(() => scope(() => softmax(model.forward(batchTensor(model, batch, dataset)))))
  const probabilities = await output.data()
  output.dispose()
  const imageBytes = height * width * channels
  return Array.from(batch.indices, (index, i) => {
    const pixels = dataset.images.subarray(index * imageBytes, (index + 1) * imageBytes)
    return {
      index,
      label: batch.labels[i],
      probabilities: Array.from(probabilities.subarray(i * classNames.length, (i + 1) * classNames.length)),
      png: samplePng(pixels, height, width, channels).toString('base64'),
    }
  })
}

/** Images that are neither grey nor coloured show their first channel. */
function samplePng(pixels: Uint8Array, height: number, width: number, channels: number): Buffer {
  if (channels === 1 || channels === 3) return encodePng({ pixels, height, width, channels })
  const first = Uint8Array.from({ length: height * width }, (_, i) => pixels[i * channels])
  return encodePng({ pixels: first, height, width, channels: 1 })
}
