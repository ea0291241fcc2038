import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SoftMoEError } from '../../lib/core/errors.js'
import { readIdx, readIdxFolder, readIdxPair } from '../../lib/data/idx.js'
import { openDataset, readEmbeddedFashionMnist } from '../../lib/data/open-dataset.js'
import { folderOf, temporaryFolder } from './temporary-folder.js'

function idx(type: number, shape: readonly number[], elements: Uint8Array): Buffer {
  const header = Buffer.alloc(4 + 4 * shape.length)
  header.writeUInt8(type, 2)
  header.writeUInt8(shape.length, 3)
  shape.forEach((size, axis) => header.writeUInt32BE(size, 4 + 4 * axis))
  return Buffer.concat([header, elements])
}
const pixels = (count: number): Uint8Array =>
  Uint8Array.from({ length: count }, (_, index) => (index * 37) % 256)
const images = (count: number): Buffer => idx(8, [count, 4, 5], pixels(count * 20))
const labels = (count: number): Buffer =>
  idx(
    8,
    [count],
    Uint8Array.from({ length: count }, (_, i) => i % 3),
  )
const code = (wanted: string): unknown => expect.objectContaining({ name: 'SoftMoEError', code: wanted })

describe('readIdx', () => {
  it.each([
    ['plain', (bytes: Buffer) => bytes],
    ['packed by gzip', (bytes: Buffer) => gzipSync(bytes)],
  ])('reads type, shape and elements of a %s file', async (_, pack) => {
    const folder = folderOf({ file: pack(idx(8, [3, 2, 2], pixels(12))) })
    const array = await readIdx(join(folder, 'file'))
    expect(array).toMatchObject({ type: 'uint8', shape: [3, 2, 2] })
    expect([...array.bytes]).toEqual([...pixels(12)])
  })

  it.each([
    ['an empty file', Buffer.alloc(0), /header alone needs 4/],
    ['text', Buffer.from('hello, this is no data'), /first two bytes/],
    ['an unknown element type', idx(7, [1], pixels(1)), /element type 7/],
    ['no dimensions', idx(8, [], pixels(0)), /0 dimensions/],
    ['too many dimensions', idx(8, [1, 1, 1, 1, 1], pixels(1)), /5 dimensions/],
    ['a header cut off', idx(8, [3, 3], pixels(9)).subarray(0, 9), /header ends/],
    ['a truncated body', idx(8, [3, 3], pixels(8)), /states 21 bytes, but the file ends after 20/],
    ['a body too long', idx(8, [3, 3], pixels(10)), /has 22/],
    ['a giant shape', idx(8, [0xffffffff, 0xffffffff, 0xffffffff], pixels(9)), /impossible shape/],
    ['a large shape', idx(8, [60000, 28, 28], pixels(9)), /ends after/],
    ['gzip of a truncated body', gzipSync(idx(8, [3, 3], pixels(8))), /unpacks to 20/],
    ['gzip of a body too long', gzipSync(idx(8, [3, 3], pixels(10))), /unpacks to more/],
    ['truncated gzip', gzipSync(idx(8, [300], pixels(300))).subarray(0, -20), /not valid gzip/],
    ['gzip of an empty file', gzipSync(Buffer.alloc(0)), /header alone needs 4/],
  ])('refuses %s', async (_, bytes, message) => {
    const file = join(folderOf({ file: bytes }), 'file')
    await expect(readIdx(file)).rejects.toThrow(code('ERR_FILE_FORMAT'))
    await expect(readIdx(file)).rejects.toThrow(message)
    await expect(readIdx(file)).rejects.toThrow(file)
  })

  it('names a missing file and a folder in its place', async () => {
    const folder = temporaryFolder()
    await expect(readIdx(join(folder, 'nothing'))).rejects.toThrow(code('ERR_FILE_NOT_FOUND'))
    await expect(readIdx(folder)).rejects.toThrow(code('ERR_FILE_READ'))
  })

  it('stops unpacking a gzip bomb at the stated length', async () => {
    const bomb = gzipSync(Buffer.concat([idx(8, [10], pixels(10)), Buffer.alloc(200 * 2 ** 20)]))
    const file = join(folderOf({ bomb }), 'bomb')
    const before = process.memoryUsage().rss
    await expect(readIdx(file)).rejects.toThrow(/unpacks to more/)
    expect(process.memoryUsage().rss - before).toBeLessThan(50 * 2 ** 20)
  })

  it('refuses a bomb whose header states its true length before allocating', async () => {
    const bytes = 200 * 2 ** 20
    const file = join(
      folderOf({ bomb: gzipSync(Buffer.concat([idx(8, [bytes], pixels(0)), Buffer.alloc(bytes)])) }),
      'bomb',
    )
    await expect(readIdx(file)).rejects.toThrow(/more than 64 times/)
  })

  it('takes any bytes without anything but a result or a SoftMoEError', async () => {
    const file = join(temporaryFolder(), 'fuzzed')
    const seeds = [images(4), labels(9), gzipSync(images(4)), idx(0x0e, [2], pixels(16))]
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...seeds),
        fc.array(fc.tuple(fc.nat(120), fc.nat(7)), { maxLength: 4 }),
        fc.nat(120),
        fc.uint8Array({ maxLength: 12 }),
        async (seed, flips, keep, tail) => {
          const bytes = Buffer.concat([
            seed.subarray(0, Math.max(0, seed.length - (keep % 7 === 0 ? keep : 0))),
            keep % 5 === 0 ? tail : Buffer.alloc(0),
          ])
          for (const [at, bit] of flips) if (at < bytes.length) bytes[at] ^= 1 << bit
          writeFileSync(file, bytes)
          try {
            const { shape, bytes: elements } = await readIdx(file)
            expect(elements.length % shape.reduce((a, b) => a * b, 1) || 0).toBe(0)
          } catch (error) {
            expect(SoftMoEError.is(error), String(error)).toBe(true)
          }
        },
      ),
      { numRuns: 400 },
    )
  })
})

describe('IDX pairs', () => {
  it('makes a data set of images and labels', async () => {
    const folder = folderOf({ i: images(6), l: labels(6) })
    const dataset = await readIdxPair(join(folder, 'i'), join(folder, 'l'), { name: 'small' })
    expect(dataset).toMatchObject({
      name: 'small',
      count: 6,
      height: 4,
      width: 5,
      channels: 1,
      classNames: ['0', '1', '2'],
    })
    expect([...dataset.labels]).toEqual([0, 1, 2, 0, 1, 2])
    expect([...dataset.images]).toEqual([...pixels(120)])
  })

  it('reads signed and wide labels in big-endian order, and colour images', async () => {
    const folder = folderOf({
      i: idx(8, [2, 2, 2, 3], pixels(24)),
      l: idx(0x0c, [2], Buffer.from([0, 0, 0, 1, 0, 0, 1, 0])),
    })
    const dataset = await readIdxPair(join(folder, 'i'), join(folder, 'l'))
    expect([...dataset.labels]).toEqual([1, 256])
    expect(dataset.channels).toBe(3)
    expect(dataset.classNames).toHaveLength(257)
  })

  it.each([
    ['counts that differ', { i: images(6), l: labels(5) }, /6 images.*5 labels/],
    ['images as labels', { i: images(6), l: images(6) }, /labels have one dimension/],
    ['labels as images', { i: labels(6), l: labels(6) }, /images are uint8/],
    ['fractional labels', { i: images(1), l: idx(0x0d, [1], pixels(4)) }, /whole numbers/],
    ['negative labels', { i: images(1), l: idx(9, [1], Uint8Array.of(255)) }, /label -1/],
    ['no images', { i: images(0), l: labels(0) }, /no images/],
  ])('refuses %s', async (_, files, message) => {
    const folder = folderOf(files)
    await expect(readIdxPair(join(folder, 'i'), join(folder, 'l'))).rejects.toThrow(message)
  })

  it('reads a folder with both pairs, preferring plain files, and names from classes.txt', async () => {
    const folder = folderOf({
      'train-images-idx3-ubyte': images(6),
      'train-images-idx3-ubyte.gz': gzipSync(images(6)),
      'train-labels-idx1-ubyte.gz': gzipSync(labels(6)),
      't10k-images.idx3-ubyte': images(3),
      't10k-labels.idx1-ubyte': labels(3),
      'classes.txt': 'hat\nshoe\nbag\n',
    })
    const { train, test } = await openDataset(folder)
    expect([train.count, test.count]).toEqual([6, 3])
    expect(train.classNames).toEqual(['hat', 'shoe', 'bag'])
  })

  it('divides a single pair, first 80 % to train', async () => {
    const folder = folderOf({ 'train-images-idx3-ubyte': images(10), 'train-labels-idx1-ubyte': labels(10) })
    const { train, test } = await readIdxFolder(folder)
    expect([train.count, test.count]).toEqual([8, 2])
    expect([...test.images]).toEqual([...pixels(200).subarray(160)])
  })

  it.each([
    ['images without labels', { 'train-images-idx3-ubyte': images(2) }, /not its labels/],
    [
      'two sets in one folder',
      { 'a-train-images-idx3-ubyte': images(2), 'b-train-images-idx3-ubyte': images(2) },
      /several sets/,
    ],
    ['nothing known', { 'notes.txt': 'x', 'cifar.tar.gz': 'x' }, /holds no data set.*unpack cifar.tar.gz/],
  ])('refuses a folder with %s', async (_, files, message) => {
    await expect(openDataset(folderOf(files))).rejects.toThrow(message)
  })
})

describe('embedded Fashion-MNIST', () => {
  it('has 8,000 images to train and 2,000 to test, all ten classes in both', async () => {
    const { train, test } = await readEmbeddedFashionMnist()
    expect([train.count, test.count, train.height, train.width, train.channels]).toEqual([
      8000, 2000, 28, 28, 1,
    ])
    expect(train.classNames[9]).toBe('Ankle boot')
    for (const { labels: part } of [train, test]) {
      const perClass = Array.from(
        { length: 10 },
        (_, label) => part.filter((value) => value === label).length,
      )
      expect(Math.min(...perClass)).toBeGreaterThan(part.length / 10 / 1.2)
    }
    // The first published test image is an ankle boot, the second a pullover.
    expect([...train.labels.subarray(0, 2)]).toEqual([9, 2])
  })

  it('holds the bytes that gzip itself unpacks', async () => {
    const { readFileSync } = await import('node:fs')
    const whole = gunzipSync(readFileSync('data/fashion-mnist/t10k-images-idx3-ubyte.gz')).subarray(16)
    const { train, test } = await readEmbeddedFashionMnist()
    expect(Buffer.compare(Buffer.from(train.images), whole.subarray(0, 8000 * 784))).toBe(0)
    expect(Buffer.compare(Buffer.from(test.images), whole.subarray(8000 * 784))).toBe(0)
  })
})
