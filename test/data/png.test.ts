import { symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32, deflateSync } from 'node:zlib'
import fc from 'fast-check'
import { PNG } from 'pngjs'
import { describe, expect, it } from 'vitest'
import { SoftMoEError } from '../../lib/core/errors.js'
import { readImageFolder } from '../../lib/data/image-folder.js'
import {
  decodePng,
  encodePng,
  readPng,
  resizePicture,
  withChannels,
  type Picture,
} from '../../lib/data/png.js'
import { folderOf, temporaryFolder } from './temporary-folder.js'

function picture(height: number, width: number, channels: 1 | 3, start = 0): Picture {
  const pixels = Uint8Array.from({ length: height * width * channels }, (_, at) => (start + at * 13) % 256)
  return { pixels, height, width, channels }
}

function chunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const length = Buffer.alloc(4)
  length.writeUInt32BE(data.length)
  const sum = Buffer.alloc(4)
  sum.writeUInt32BE(crc32(body))
  return Buffer.concat([length, body, sum])
}

function rawPng(
  width: number,
  height: number,
  kind: readonly [number, number],
  rows: Uint8Array,
  interlaced = 0,
): Buffer {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([...kind, 0, 0, interlaced], 8)
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows)),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

describe('PNG', () => {
  it.each([1, 3] as const)('returns the %d-channel image that was encoded', (channels) => {
    const original = picture(5, 7, channels)
    const decoded = decodePng('x', encodePng(original))
    expect(decoded).toMatchObject({ height: 5, width: 7, channels })
    expect([...decoded.pixels]).toEqual([...original.pixels])
  })

  it('reads 16-bit levels, interlaced rows and transparency', () => {
    const deep = decodePng('x', rawPng(2, 1, [16, 0], Uint8Array.of(0, 0xff, 0xff, 0x80, 0x00)))
    expect([...deep.pixels]).toEqual([255, 128])
    // A 1 × 1 image has only the first pass.
    const interlaced = decodePng('x', rawPng(1, 1, [8, 0], Uint8Array.of(0, 77), 1))
    expect([...interlaced.pixels]).toEqual([77])
    const transparent = new PNG({ width: 1, height: 1 })
    transparent.data.set([200, 100, 50, 128])
    expect([...decodePng('x', PNG.sync.write(transparent)).pixels]).toEqual([100, 50, 25])
  })

  it.each([
    ['text', Buffer.from('This is certainly not a picture at all.'), /signature/],
    ['a header cut off', encodePng(picture(4, 4, 1)).subarray(0, 20), /ends after 20/],
    ['a file cut off', encodePng(picture(40, 40, 3)).subarray(0, -30), /truncated|longer than the file/],
    [
      'giant dimensions',
      rawPng(0x7fffffff, 0x7fffffff, [8, 6], Buffer.alloc(9)),
      /16777216 pixels are supported/,
    ],
    ['dimensions that cannot be held', rawPng(4000, 4000, [8, 6], Buffer.alloc(9)), /can hold/],
    ['no pixels', rawPng(0, 4, [8, 0], Buffer.alloc(9)), /0 × 4/],
    ['too little data', rawPng(8, 8, [8, 0], Buffer.alloc(71)), /71 of 72/],
    ['a bomb', rawPng(8, 8, [8, 0], Buffer.alloc(2 ** 24)), /damaged/],
    ['an interlaced bomb', rawPng(8, 8, [8, 0], Buffer.alloc(2 ** 24), 1), /damaged/],
    ['an unknown colour type', rawPng(8, 8, [8, 5], Buffer.alloc(72)), /colour type 5/],
  ])('refuses %s', (_, bytes, message) => {
    expect(() => decodePng('file.png', bytes)).toThrow(expect.objectContaining({ code: 'ERR_FILE_FORMAT' }))
    expect(() => decodePng('file.png', bytes)).toThrow(message)
  })

  it('takes any bytes without anything but a picture or a SoftMoEError', () => {
    const seeds = [
      encodePng(picture(9, 6, 1)),
      encodePng(picture(9, 6, 3)),
      rawPng(9, 6, [4, 3], Buffer.alloc(54), 1),
    ]
    fc.assert(
      fc.property(
        fc.constantFrom(...seeds),
        fc.array(fc.tuple(fc.nat(300), fc.nat(7)), { maxLength: 5 }),
        fc.nat(300),
        fc.boolean(),
        (seed, flips, cut, truncate) => {
          const bytes = Buffer.from(truncate ? seed.subarray(0, cut) : seed)
          for (const [at, bit] of flips) if (at < bytes.length) bytes[at] ^= 1 << bit
          try {
            const { pixels, height, width, channels } = decodePng('fuzzed', bytes)
            expect(pixels.length).toBe(height * width * channels)
          } catch (error) {
            expect(SoftMoEError.is(error), String(error)).toBe(true)
          }
        },
      ),
      { numRuns: 1500 },
    )
  })

  it('names a missing file', async () => {
    await expect(readPng(join(temporaryFolder(), 'a.png'))).rejects.toThrow(/does not exist/)
  })
})

describe('pictures', () => {
  it('keep a constant colour through any resize, and average exactly when halved', () => {
    const grey = { pixels: new Uint8Array(20 * 30).fill(93), height: 20, width: 30, channels: 1 } as const
    for (const side of [1, 7, 20, 45])
      expect(new Set(resizePicture(grey, side, side).pixels)).toEqual(new Set([93]))
    const steps = {
      pixels: Uint8Array.of(0, 0, 100, 100, 200, 200),
      height: 1,
      width: 6,
      channels: 1,
    } as const
    const halved = [...resizePicture(steps, 1, 3).pixels]
    expect(halved).toEqual([...halved].sort((a, b) => a - b))
    expect(halved[1]).toBe(100)
  })

  it('turn grey to colour and colour to luma', () => {
    expect([...withChannels(picture(1, 2, 1), 3).pixels]).toEqual([0, 0, 0, 13, 13, 13])
    const red = { pixels: Uint8Array.of(255, 0, 0), height: 1, width: 1, channels: 3 } as const
    expect([...withChannels(red, 1).pixels]).toEqual([76])
  })
})

describe('readImageFolder', () => {
  it('names a file in the place of a folder, and a link that leads nowhere', async () => {
    const folder = folderOf({ 'a/1.png': encodePng(picture(2, 2, 1)) })
    const file = join(folder, 'a/1.png')
    await expect(readImageFolder(file)).rejects.toThrow(/1\.png .*no folder/)
    symlinkSync(join(folder, 'nowhere'), join(folder, 'b'))
    await expect(readImageFolder(folder)).rejects.toThrow(/b does not exist/)
  })

  const png = (start: number, channels: 1 | 3 = 3): Buffer => encodePng(picture(6, 6, channels, start))

  it('divides each class 80 : 20 in a fixed way', async () => {
    const files: Record<string, Buffer> = {}
    for (const name of ['cat', 'dog']) for (let i = 0; i < 10; i++) files[`${name}/${i}.png`] = png(i)
    const folder = folderOf(files)
    const first = await readImageFolder(folder)
    expect([first.train.count, first.test.count]).toEqual([16, 4])
    expect(first.train.classNames).toEqual(['cat', 'dog'])
    expect([...first.test.labels]).toEqual([0, 0, 1, 1])
    expect((await readImageFolder(folder)).train.images).toEqual(first.train.images)
  })

  it('uses train and val folders, grey only when all images are, and resizes when asked', async () => {
    const folder = folderOf({
      'train/a/1.png': png(1, 1),
      'train/b/1.PNG': png(2, 1),
      'val/b/1.png': png(3, 1),
    })
    const { train, test } = await readImageFolder(folder)
    expect([train.channels, train.count, test.count, [...test.labels]]).toEqual([1, 2, 1, [1]])
    expect([...test.images]).toEqual([...picture(6, 6, 1, 3).pixels])
    expect((await readImageFolder(folder, { size: 3, channels: 3 })).train).toMatchObject({
      height: 3,
      width: 3,
      channels: 3,
    })
  })

  it.each([
    ['one class only', { 'a/1.png': png(1) }, /1 class folders/],
    ['an empty class', { 'a/1.png': png(1), 'b/readme.txt': '' }, /holds no PNG images/],
    ['another format', { 'a/1.png': png(1), 'b/1.jpeg': '' }, /convert the images to PNG/],
    [
      'two sizes',
      { 'a/1.png': png(1), 'a/2.png': encodePng(picture(5, 6, 3)), 'b/1.png': png(1) },
      /give images of one size/,
    ],
    ['a damaged image', { 'a/1.png': png(1), 'b/1.png': 'no' }, /b\/1.png is no usable PNG/],
    [
      'a class unknown in training',
      { 'train/a/1.png': png(1), 'train/b/1.png': png(1), 'test/c/1.png': png(1) },
      /test\/c is a class/,
    ],
  ])('refuses %s', async (_, files, message) => {
    await expect(readImageFolder(folderOf({ ...files, 'a/9.png': png(9) }))).rejects.toThrow(message)
  })

  it('refuses a size out of range', async () => {
    await expect(readImageFolder('/', { size: 0 })).rejects.toThrow(/whole number from 1 to 4096/)
  })
})

it('readPng reads what encodePng wrote to a file', async () => {
  const file = join(temporaryFolder(), 'a.png')
  writeFileSync(file, encodePng(picture(3, 3, 3)))
  expect([...(await readPng(file)).pixels]).toEqual([...picture(3, 3, 3).pixels])
})
