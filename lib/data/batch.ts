/**
 * Which images make up step k, and how they become numbers. Everything is a pure function of (data set, plan, step):
 * nothing is remembered between steps but the order of the current epoch, which is computed again when it is missing.
 */
import { Random, streamOf } from '../core/random.js'
import { augmentImage, DRAWS_PER_IMAGE, type AugmentOptions } from './augment.js'
import type { ChannelStatistics, ImageDataset } from './dataset.js'

/** One batch of training or test images. */
export interface Batch {
  /** Normalised values `(pixel / 255 - mean) / std`, `[count, height, width, channels]`. */
  readonly images: Float32Array
  /** Classes, `[count]`. */
  readonly labels: Int32Array
  /** Position of each image in the data set, `[count]`. */
  readonly indices: Int32Array
  /** Images in this batch: the batch size, or what is left at the end of an epoch. */
  readonly count: number
  /** Epochs completed before this batch. */
  readonly epoch: number
  /** Batches before this one since the start of training. */
  readonly step: number
}

/** What decides the content of every batch. */
export interface BatchPlan {
  readonly batchSize: number
  readonly seed: number
  readonly shuffle: boolean
  readonly dropLast: boolean
  readonly augment: AugmentOptions
  readonly normalisation: ChannelStatistics
}

/** The part of a data set that batches are made of; can be sent to another thread. */
export type BatchSource = Pick<ImageDataset, 'images' | 'labels' | 'count' | 'height' | 'width' | 'channels'>

/** Batches in one pass over the data. */
export function stepsPerEpoch(count: number, { batchSize, dropLast }: Pick<BatchPlan, 'batchSize' | 'dropLast'>): number {
  return dropLast ? Math.floor(count / batchSize) : Math.ceil(count / batchSize)
}

/** Makes the batches of a plan, in any order of steps. */
export class BatchMaker {
  readonly #source: BatchSource
  readonly #plan: BatchPlan
  readonly #levels: Float32Array
  readonly #changed: Uint8Array
  readonly #isAugmented: boolean
  #order: Int32Array = new Int32Array(0)
  #orderEpoch = -1

  constructor(source: BatchSource, plan: BatchPlan) {
    this.#source = source
    this.#plan = plan
    this.#levels = normalisedLevels(source.channels, plan.normalisation)
    this.#changed = new Uint8Array(source.height * source.width * source.channels)
    const { cropPadding = 0, flip = false, randAugment } = plan.augment
    this.#isAugmented = cropPadding > 0 || flip || randAugment !== undefined
  }

  batch(step: number): Batch {
    const { batchSize, seed } = this.#plan
    const { images, labels, count } = this.#source
    const steps = stepsPerEpoch(count, this.#plan)
    const epoch = Math.floor(step / steps)
    const first = (step - epoch * steps) * batchSize
    const indices = this.#epochOrder(epoch).slice(first, first + batchSize)
    const imageSize = this.#changed.length
    const batch = {
      images: new Float32Array(indices.length * imageSize),
      labels: Int32Array.from(indices, (index) => labels[index]),
      indices,
      count: indices.length,
      epoch,
      step,
    }
    const random = new Random(seed, streamOf('augmentation', epoch))
    indices.forEach((index, position) => {
      const original = images.subarray(index * imageSize, (index + 1) * imageSize)
      const pixels = this.#isAugmented ? this.#augmented(original, index, random) : original
      this.#normalise(pixels, batch.images.subarray(position * imageSize, (position + 1) * imageSize))
    })
    return batch
  }

  #epochOrder(epoch: number): Int32Array {
    if (epoch === this.#orderEpoch) return this.#order
    const { count } = this.#source
    this.#order = this.#plan.shuffle
      ? new Random(this.#plan.seed, streamOf('shuffle', epoch)).permutation(count)
      : Int32Array.from({ length: count }, (_, index) => index)
    this.#orderEpoch = epoch
    return this.#order
  }

  #augmented(original: Uint8Array, index: number, random: Random): Uint8Array {
    augmentImage(original, this.#changed, this.#source, this.#plan.augment, (draw) =>
      random.uniform(index * DRAWS_PER_IMAGE + draw),
    )
    return this.#changed
  }

  #normalise(pixels: Uint8Array, values: Float32Array): void {
    const { channels } = this.#source
    for (let at = 0; at < pixels.length; at += channels) {
      for (let channel = 0; channel < channels; channel++) {
        values[at + channel] = this.#levels[channel * 256 + pixels[at + channel]]
      }
    }
  }
}

/** The normalised value of every level of every channel, `[channels, 256]`. */
function normalisedLevels(channels: number, { mean, std }: ChannelStatistics): Float32Array {
  return Float32Array.from({ length: channels * 256 }, (_, entry) => {
    const channel = Math.floor(entry / 256)
    return ((entry % 256) / 255 - mean[channel]) / std[channel]
  })
}
