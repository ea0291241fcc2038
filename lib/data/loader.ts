/** Batches of a data set, one after another: shuffled, augmented, normalised, and made ahead on a worker thread. */
import { requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { checkAugmentOptions, type AugmentOptions } from './augment.js'
import { BatchMaker, stepsPerEpoch, type Batch, type BatchPlan } from './batch.js'
import { channelStatistics, type ChannelStatistics, type ImageDataset } from './dataset.js'
import { Prefetcher } from './prefetch.js'

/** How a data set is turned into batches. */
export interface LoaderOptions {
  /** Images in a batch. */
  readonly batchSize: number
  /** Decides order and augmentation together with the epoch. Default 0. */
  readonly seed?: number
  /** A new random order for every epoch. Default true. */
  readonly shuffle?: boolean
  /** Leave out the images that do not fill a batch at the end of an epoch. Default: as `shuffle`. */
  readonly dropLast?: boolean
  /** Random changes to the images. Default: none. */
  readonly augment?: AugmentOptions
  /** Mean and deviation of each channel, on the scale 0–1. Default: measured on the data set. */
  readonly normalisation?: ChannelStatistics
  /** Step of the first batch: a run that stopped before step k goes on with `start: k`. Default 0. */
  readonly start?: number
  /** Step after the last batch. Default: the end of the epoch of `start`; `Infinity` goes on for ever. */
  readonly end?: number
  /** Batches made ahead, 1 to 64. Default 2. */
  readonly prefetch?: number
  /** Make batches on a worker thread (the default), or, with false, on the calling thread when they are asked for. */
  readonly worker?: boolean
  /** Aborting it rejects the awaited batch with `ERR_ABORTED` and ends the thread. */
  readonly signal?: AbortSignal
}

/** An async iterable of batches; every `for await` over it begins at `start` again and ends its own thread. */
export interface ImageLoader extends AsyncIterable<Batch> {
  /** Batches in one pass over the data. */
  readonly stepsPerEpoch: number
  readonly normalisation: ChannelStatistics
}

function wholeNumber(name: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return
  throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is ${value}; give a whole number from ${least} to ${most}`)
}

/**
 * Loads a data set in batches. The content of step k depends on (seed, k) alone: neither on the steps before it nor on
 * the number of batches made ahead, nor on the thread that makes it.
 * @throws SoftMoEError `ERR_INVALID_ARGUMENT` for options out of range
 */
export function loadImages(dataset: ImageDataset, options: LoaderOptions): ImageLoader {
  requireObject('the data set', dataset)
  requireObject('the options of loadImages', options)
  const { batchSize, seed = 0, shuffle = true, start = 0, prefetch = 2, worker = true, signal } = options
  const dropLast = options.dropLast ?? shuffle
  wholeNumber('batchSize', batchSize, 1, dropLast ? dataset.count : Number.MAX_SAFE_INTEGER)
  wholeNumber('seed', seed, 0, Number.MAX_SAFE_INTEGER)
  wholeNumber('start', start, 0, Number.MAX_SAFE_INTEGER)
  wholeNumber('prefetch', prefetch, 1, 64)
  const steps = stepsPerEpoch(dataset.count, { batchSize, dropLast })
  const end = options.end ?? (Math.floor(start / steps) + 1) * steps
  if (end !== Infinity) wholeNumber('end', end, start, Number.MAX_SAFE_INTEGER)
  const normalisation = options.normalisation ?? channelStatistics(dataset)
  const { mean, std } = normalisation
  if (mean.length !== dataset.channels || std.length !== dataset.channels || !std.every((value) => value > 0)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `normalisation has ${mean.length} means and the deviations [${std.join(', ')}]; ` +
        `give one mean and one positive deviation for each of the ${dataset.channels} channels`,
    )
  }
  const augment = checkAugmentOptions(options.augment ?? {})
  const plan: BatchPlan = { batchSize, seed, shuffle, dropLast, augment, normalisation }
  const { images, labels, count, height, width, channels } = dataset
  const source = { images, labels, count, height, width, channels }

  async function* onThisThread(): AsyncGenerator<Batch, void, undefined> {
    const maker = new BatchMaker(source, plan)
    for (let step = start; step < end; step++) {
      throwIfAborted(signal)
      yield await Promise.resolve(maker.batch(step))
    }
  }
  async function* onWorker(): AsyncGenerator<Batch, void, undefined> {
    throwIfAborted(signal)
    const prefetcher = new Prefetcher(source, plan, start, end, prefetch)
    const abort = (): void => {
      prefetcher.fail(aborted(signal))
    }
    signal?.addEventListener('abort', abort)
    try {
      for (let step = start; step < end; step++) yield await prefetcher.next()
    } finally {
      signal?.removeEventListener('abort', abort)
      await prefetcher.close()
    }
  }
  return { stepsPerEpoch: steps, normalisation, [Symbol.asyncIterator]: worker ? onWorker : onThisThread }
}

function aborted(signal: AbortSignal | undefined): SoftMoEError {
  return new SoftMoEError('ERR_ABORTED', 'loading was aborted by its signal', { cause: signal?.reason })
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw aborted(signal)
}
