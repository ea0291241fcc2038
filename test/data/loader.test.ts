import { spawnSync } from 'node:child_process'
import { describe, expect, it } from 'vitest'
import { Random } from '../../lib/core/random.js'
import { augmentImage, type AugmentOptions } from '../../lib/data/augment.js'
import type { Batch } from '../../lib/data/batch.js'
import { channelStatistics, createDataset, type ImageDataset } from '../../lib/data/dataset.js'
import { loadImages, type LoaderOptions } from '../../lib/data/loader.js'

function dataset(count = 22, height = 6, width = 5, channels = 3): ImageDataset {
  const random = new Random(5, 0)
  const images = Uint8Array.from({ length: count * height * width * channels }, (_, at) => random.integer(at, 256))
  const labels = Int32Array.from({ length: count }, (_, index) => index % 4)
  return createDataset({ name: 'random', images, labels, height, width, channels, classNames: ['a', 'b', 'c', 'd'] })
}

async function collect(data: ImageDataset, options: LoaderOptions): Promise<Batch[]> {
  const batches: Batch[] = []
  for await (const batch of loadImages(data, options)) batches.push(batch)
  return batches
}

const everyAugmentation: AugmentOptions = { cropPadding: 2, flip: true, randAugment: { operations: 3, magnitude: 0.8 } }

describe.each([
  ['on a worker thread', true],
  ['on the calling thread', false],
])('loadImages %s', (_, worker) => {
  it('visits every image once in an epoch, in a new order each epoch', async () => {
    const data = dataset()
    const batches = await collect(data, { batchSize: 4, dropLast: false, end: 12, worker })
    expect(batches.map(({ step }) => step)).toEqual([...Array(12).keys()])
    expect(batches.map(({ epoch }) => epoch)).toEqual([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    const orders = [batches.slice(0, 6), batches.slice(6)].map((part) => part.flatMap(({ indices }) => [...indices]))
    for (const order of orders) expect([...order].sort((a, b) => a - b)).toEqual([...Array(22).keys()])
    expect(orders[0]).not.toEqual(orders[1])
    expect(batches[5].count).toBe(2)
    for (const { labels, indices } of batches) expect([...labels]).toEqual([...indices].map((index) => index % 4))
  })

  it('continues at step k with the batches of the uninterrupted run, bit for bit', async () => {
    const options = { batchSize: 4, seed: 9, augment: everyAugmentation, end: 14, worker }
    const whole = await collect(dataset(), options)
    const resumed = await collect(dataset(), { ...options, start: 8, prefetch: 5 })
    expect(resumed).toEqual(whole.slice(8))
  })

  it('ends after one epoch in the given order when nothing is shuffled', async () => {
    const batches = await collect(dataset(), { batchSize: 8, shuffle: false, worker })
    expect(batches.flatMap(({ indices }) => [...indices])).toEqual([...Array(22).keys()])
  })

  it('rejects with ERR_ABORTED when its signal is aborted', async () => {
    const controller = new AbortController()
    let seen = 0
    const run = async (): Promise<void> => {
      for await (const batch of loadImages(dataset(), { batchSize: 4, end: Infinity, worker, signal: controller.signal })) {
        seen += batch.count
        if (batch.step === 20) controller.abort(new Error('enough'))
      }
    }
    await expect(run()).rejects.toMatchObject({ code: 'ERR_ABORTED', cause: new Error('enough') })
    expect(seen).toBe(21 * 4)
    await expect(run()).rejects.toMatchObject({ code: 'ERR_ABORTED' })
  })
})

describe('loadImages', () => {
  it('gives the same batches on a worker thread as on the calling thread', async () => {
    const options = { batchSize: 5, seed: 3, augment: everyAugmentation, end: 9 }
    expect(await collect(dataset(), { ...options, worker: true })).toEqual(
      await collect(dataset(), { ...options, worker: false }),
    )
  })

  it('normalises to mean 0 and deviation 1 of each channel by default', async () => {
    const data = dataset(40)
    const [{ images }] = await collect(data, { batchSize: 40, shuffle: false })
    for (let channel = 0; channel < 3; channel++) {
      const values = images.filter((_, at) => at % 3 === channel)
      const mean = values.reduce((a, b) => a + b, 0) / values.length
      const square = values.reduce((a, b) => a + b * b, 0) / values.length
      expect(mean).toBeCloseTo(0, 5)
      expect(square).toBeCloseTo(1, 5)
    }
    const [given] = await collect(data, {
      batchSize: 1,
      shuffle: false,
      normalisation: { mean: [0, 0, 0], std: [1, 1, 0.5] },
      end: 1,
    })
    expect(given.images[2]).toBeCloseTo((2 * data.images[2]) / 255, 6)
  })

  it('gives a constant channel the deviation 1', () => {
    const flat = createDataset({ ...dataset(), images: new Uint8Array(22 * 90).fill(51) })
    expect(channelStatistics(flat)).toEqual({ mean: [0.2, 0.2, 0.2], std: [1, 1, 1] })
  })

  it('lets the process end when a loop is left early or never finished', () => {
    const script = `
      import { loadImages } from './lib/data/loader.js'
      const data = { images: new Uint8Array(64), labels: new Int32Array(16), count: 16, height: 2, width: 2, channels: 1, classNames: ['a'], name: 'x' }
      for await (const batch of loadImages(data, { batchSize: 2, end: Infinity })) { if (batch.step === 3) break }
      const abandoned = loadImages(data, { batchSize: 2, end: Infinity })[Symbol.asyncIterator]()
      await abandoned.next()
      console.log('done')`
    const { stdout, status, stderr } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '--eval', script],
      { encoding: 'utf8', timeout: 30_000 },
    )
    expect(stderr).toBe('')
    expect(stdout).toBe('done\n')
    expect(status).toBe(0)
  })

  it.each([
    [{ batchSize: 0 }, /batchSize is 0; give a whole number from 1 to 22/],
    [{ batchSize: 23 }, /batchSize is 23/],
    [{ batchSize: 2, seed: -1 }, /seed is -1/],
    [{ batchSize: 2, start: 5, end: 4 }, /end is 4/],
    [{ batchSize: 2, prefetch: 0 }, /prefetch is 0/],
    [{ batchSize: 2, normalisation: { mean: [0], std: [1] } }, /each of the 3 channels/],
    [{ batchSize: 2, augment: { cropPadding: -1 } }, /cropPadding is -1/],
    [{ batchSize: 2, augment: { randAugment: { magnitude: 2 } } }, /magnitude is 2/],
    [{ batchSize: 2, augment: { flipp: true } as AugmentOptions }, /did you mean flip\?/],
  ])('refuses %j', (options, message) => {
    expect(() => loadImages(dataset(), options)).toThrow(message)
  })
})

describe('augmentImage', () => {
  const format = { height: 4, width: 3, channels: 2 }
  const source = Uint8Array.from({ length: 24 }, (_, at) => 10 + at)
  const apply = (options: AugmentOptions, draws: readonly number[]): Uint8Array => {
    const target = new Uint8Array(24)
    augmentImage(source, target, format, options, (number) => draws[number] ?? 0.5)
    return target
  }
  const pixel = (image: Uint8Array, row: number, column: number): number[] => [
    ...image.subarray((row * 3 + column) * 2, (row * 3 + column) * 2 + 2),
  ]

  it('leaves the image alone without options', () => {
    expect(apply({}, [])).toEqual(source)
  })

  it('crops from the padded image: the corners of the range and its centre', () => {
    expect(apply({ cropPadding: 1 }, [0.5, 0.5])).toEqual(source)
    const shifted = apply({ cropPadding: 1 }, [0, 0.99])
    expect(pixel(shifted, 0, 0)).toEqual([0, 0])
    expect(pixel(shifted, 1, 0)).toEqual(pixel(source, 0, 1))
    expect(pixel(shifted, 3, 1)).toEqual(pixel(source, 2, 2))
    expect(pixel(shifted, 3, 2)).toEqual([0, 0])
  })

  it('mirrors left to right below one half', () => {
    const mirrored = apply({ flip: true }, [0.5, 0.5, 0.49])
    expect(pixel(mirrored, 2, 0)).toEqual(pixel(source, 2, 2))
    expect(apply({ flip: true }, [0.5, 0.5, 0.5])).toEqual(source)
  })

  it.each([...Array(10).keys()])('RandAugment operation %d does nothing at strength 0 and keeps levels in range', (kind) => {
    const draws = [0.5, 0.5, 0.9, (kind + 0.5) / 10, 0.9]
    expect(apply({ randAugment: { operations: 1, magnitude: 0 } }, draws)).toEqual(source)
    const strong = apply({ randAugment: { operations: 1, magnitude: 1 } }, draws)
    if (kind > 0) expect(strong).not.toEqual(source)
  })
})
