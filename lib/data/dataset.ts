/**
 * What every reader returns: all images of a set in one array, their labels in another. Pixels stay bytes until a batch
 * is made of them; the arrays lie in shared memory, so that the loader's worker thread reads them without a copy.
 */
import { given, requireArray, requireObject, requireString } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'

/** A labelled set of images of one size. */
export interface ImageDataset {
  /** For people: `fashion-mnist`, `cifar-10`, or the folder's name. */
  readonly name: string
  /** Pixels 0–255, `[count, height, width, channels]`, row-major. */
  readonly images: Uint8Array
  /** Class of each image, `[count]`, from 0 to `classNames.length - 1`. */
  readonly labels: Int32Array
  readonly count: number
  readonly height: number
  readonly width: number
  /** 1 (grey) or 3 (red, green, blue); IDX files may have others. */
  readonly channels: number
  readonly classNames: readonly string[]
}

/** A set to learn from and one to be tested on, of the same image size and classes. */
export interface DatasetSplit {
  readonly train: ImageDataset
  readonly test: ImageDataset
}

/** Zeroed bytes in memory that worker threads can share. */
export function allocateBytes(bytes: number, what: string): Uint8Array {
  try {
    return new Uint8Array(new SharedArrayBuffer(bytes))
  } catch (cause) {
    throw new SoftMoEError(
      'ERR_OUT_OF_MEMORY',
      `${what} needs ${bytes} bytes, which this process cannot allocate`,
      {
        cause,
      },
    )
  }
}

/**
 * Checks that the parts fit together and returns them as a data set.
 * @throws SoftMoEError `ERR_SHAPE` when array lengths and sizes disagree, `ERR_FILE_FORMAT` when a label has no class
 */
export function createDataset(parts: Omit<ImageDataset, 'count'>): ImageDataset {
  requireObject('the parts of a data set', parts)
  const { name, images, labels, height, width, channels, classNames } = parts
  requireString('the name of a data set', name)
  requireArray('classNames', classNames)
  if (!(labels instanceof Int32Array && images instanceof Uint8Array)) {
    throw new SoftMoEError(
      'ERR_DTYPE',
      `data set ${name}: wanted images in a Uint8Array and labels in an Int32Array`,
    )
  }
  const count = labels.length
  for (const [field, value] of Object.entries({ height, width, channels })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new SoftMoEError(
        'ERR_SHAPE',
        `data set ${name}: ${field} is ${given(value)}; it must be a positive whole number`,
      )
    }
  }
  if (count === 0)
    throw new SoftMoEError('ERR_FILE_FORMAT', `data set ${name} holds no images; give at least one`)
  if (images.length !== count * height * width * channels) {
    throw new SoftMoEError(
      'ERR_SHAPE',
      `data set ${name}: ${images.length} pixel values given, but ${count} labels with images of ` +
        `${height} × ${width} × ${channels} need ${count * height * width * channels}`,
    )
  }
  labels.forEach((label, index) => {
    if (label < 0 || label >= classNames.length) {
      throw new SoftMoEError(
        'ERR_FILE_FORMAT',
        `data set ${name}: image ${index} has label ${label}, but labels go from 0 to ${classNames.length - 1}`,
      )
    }
  })
  return { name, images, labels, count, height, width, channels, classNames }
}

/** Images `start` to `end - 1` of a set, as views of the same memory. */
export function sliceDataset(dataset: ImageDataset, start: number, end: number): ImageDataset {
  requireObject('the data set', dataset)
  const imageBytes = dataset.height * dataset.width * dataset.channels
  return createDataset({
    ...dataset,
    images: dataset.images.subarray(start * imageBytes, end * imageBytes),
    labels: dataset.labels.subarray(start, end),
  })
}

/** Mean and standard deviation of each channel over all pixels, on the scale 0–1. */
export interface ChannelStatistics {
  readonly mean: readonly number[]
  readonly std: readonly number[]
}

/** Measures mean and standard deviation of each channel; a constant channel gets the deviation 1. */
export function channelStatistics(dataset: ImageDataset): ChannelStatistics {
  requireObject('the data set', dataset)
  const { images, channels } = dataset
  const mean: number[] = []
  const std: number[] = []
  for (let channel = 0; channel < channels; channel++) {
    // Bytes make the sums exact: below 2^53 for any set that fits into memory.
    let sum = 0
    let squares = 0
    for (let at = channel; at < images.length; at += channels) {
      const value = images[at]
      sum += value
      squares += value * value
    }
    const pixels = images.length / channels
    const average = sum / pixels
    const variance = Math.max(0, squares / pixels - average * average)
    mean.push(average / 255)
    std.push(variance > 0 ? Math.sqrt(variance) / 255 : 1)
  }
  return { mean, std }
}
