// Damaged and hostile files: every reader returns what the file holds or refuses it with a code, in memory that the
// file's own size bounds. SOFTMOE_FUZZ_FILES sets how many files a format gets (`npm run test:fuzz`: 4,000).
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32, deflateSync, gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterAll, describe, expect, it } from 'vitest'
import {
  encodePng,
  type Picture,
  readCifarFolder,
  readIdx,
  readIdxPair,
  readImageFolder,
  readPng,
  SafetensorsFile,
  SoftMoEError,
} from '../../lib/index.js'

const FILES = Number(process.env.SOFTMOE_FUZZ_FILES ?? 150)
const MEBIBYTE = 2 ** 20
const folder = mkdtempSync(join(tmpdir(), 'softmoe-fuzz-'))
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

/** Bytes that a reader handed out. */
type Read = (path: string) => Promise<number>

const bytesFrom = (count: number, step: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: count }, (_, i) => (i * step) % 256))

function idx(type: number, shape: readonly number[], elements: Uint8Array): Buffer {
  const header = Buffer.alloc(4 + 4 * shape.length)
  header.writeUInt8(type, 2)
  header.writeUInt8(shape.length, 3)
  shape.forEach((extent, axis) => header.writeUInt32BE(extent, 4 + 4 * axis))
  return Buffer.concat([header, elements])
}

function safetensors(header: string, data: Uint8Array, statedLength = Buffer.byteLength(header)): Buffer {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(statedLength))
  return Buffer.concat([length, Buffer.from(header), data])
}

const entry = (dtype: string, shape: readonly number[], begin: number, end: number): object => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})

const SAFETENSORS = safetensors(
  JSON.stringify({
    __metadata__: { format: 'pt' },
    'a.weight': entry('F32', [3, 4], 0, 48),
    b: entry('BF16', [5], 48, 58),
    'long name': entry('I64', [], 58, 66),
  }),
  bytesFrom(66, 7),
)

const picture = (channels: 1 | 3): Picture => ({
  pixels: bytesFrom(12 * 9 * channels, 13),
  height: 12,
  width: 9,
  channels,
})

function pngOf(width: number, height: number, rows: Uint8Array): Buffer {
  const chunk = (type: string, data: Uint8Array): Buffer => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
    const length = Buffer.alloc(4)
    const sum = Buffer.alloc(4)
    length.writeUInt32BE(data.length)
    sum.writeUInt32BE(crc32(body))
    return Buffer.concat([length, body, sum])
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([8, 0, 0, 0, 0], 8)
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows)),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

const readTensors: Read = async (path) => {
  const file = await SafetensorsFile.open(path)
  try {
    let bytes = 0
    for (const name of file.tensors.keys()) bytes += (await file.read(name)).length
    return bytes
  } finally {
    await file.close()
  }
}
const readArray: Read = async (path) => (await readIdx(path)).bytes.length
const readPicture: Read = async (path) => (await readPng(path)).pixels.length

interface Format {
  readonly samples: readonly Buffer[]
  readonly read: Read
  /** What a file of so many bytes may unpack to. */
  readonly limit: (fileBytes: number) => number
}

const times =
  (factor: number, atLeast = 0) =>
  (fileBytes: number): number =>
    Math.max(factor * fileBytes, atLeast)

const FORMATS: Readonly<Record<string, Format>> = {
  safetensors: { samples: [SAFETENSORS], read: readTensors, limit: times(4) },
  IDX: {
    samples: [
      idx(8, [6, 4, 5], bytesFrom(120, 3)),
      idx(0x0d, [7], bytesFrom(28, 5)),
      idx(8, [0, 3], bytesFrom(0, 1)),
    ],
    read: readArray,
    limit: times(4),
  },
  // Real sets of this kind pack a long run of labels into a thousandth: 64 times the file, or 1 MiB, are allowed.
  'IDX in gzip': {
    samples: [gzipSync(idx(8, [6, 4, 5], bytesFrom(120, 3))), gzipSync(idx(8, [500], Buffer.alloc(500)))],
    read: readArray,
    limit: times(64, MEBIBYTE),
  },
  // 4096 x 4096 pixels of 3 bytes at most, whatever the file: Deflate packs up to 1032 to 1.
  PNG: {
    samples: [encodePng(picture(1)), encodePng(picture(3))],
    read: readPicture,
    limit: (fileBytes) => Math.min(1032 * 3 * fileBytes, 3 * 2 ** 24),
  },
}

/** Damages: cut at any length, flip bits, overwrite a word by an extreme one, repeat, remove or insert a piece. */
const damage = fc.oneof(
  fc.record({ kind: fc.constant('cut' as const), at: fc.double({ min: 0, max: 1, noNaN: true }) }),
  fc.record({
    kind: fc.constant('flip' as const),
    bits: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 8 }),
  }),
  fc.record({
    kind: fc.constant('word' as const),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    bytes: fc.oneof(
      fc.constantFrom('ffffffff', '7fffffff', '80000000', '00000000', 'ffffffffffffff7f', '0000000000000080'),
      fc.string({ minLength: 1, maxLength: 8 }).map((text) => Buffer.from(text).toString('hex')),
    ),
  }),
  fc.record({
    kind: fc.constant('copy' as const),
    from: fc.double({ min: 0, max: 1, noNaN: true }),
    to: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.integer({ min: 1, max: 64 }),
  }),
  fc.record({
    kind: fc.constant('remove' as const),
    from: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.integer({ min: 1, max: 16 }),
  }),
)
type Damage = typeof damage extends fc.Arbitrary<infer T> ? T : never

function damaged(bytes: Buffer, how: Damage): Buffer {
  const place = (share: number): number => Math.min(bytes.length - 1, Math.floor(share * bytes.length))
  const result = Buffer.from(bytes)
  if (bytes.length === 0) return result
  switch (how.kind) {
    case 'cut':
      return result.subarray(0, place(how.at))
    case 'flip':
      for (const share of how.bits) {
        const bit = Math.floor(share * (8 * bytes.length - 1))
        result[bit >> 3] ^= 1 << (bit & 7)
      }
      return result
    case 'word':
      result.write(how.bytes, place(how.at), 'hex')
      return result
    case 'copy': {
      const piece = bytes.subarray(place(how.from), place(how.from) + how.length)
      return Buffer.concat([bytes.subarray(0, place(how.to)), piece, bytes.subarray(place(how.to))])
    }
    case 'remove':
      return Buffer.concat([bytes.subarray(0, place(how.from)), bytes.subarray(place(how.from) + how.length)])
  }
}

/** Reads a file of these bytes; anything but its content or a coded error fails. */
async function tryRead({ read, limit }: Pick<Format, 'read' | 'limit'>, bytes: Uint8Array): Promise<boolean> {
  const path = join(folder, 'file')
  writeFileSync(path, bytes)
  try {
    expect(await read(path)).toBeLessThanOrEqual(limit(bytes.length))
    return true
  } catch (error) {
    if (!(error instanceof SoftMoEError)) throw error
    expect(error.code).toMatch(/^ERR_FILE_FORMAT$|^ERR_FILE_READ$/)
    expect(error.message).toContain(path)
    return false
  }
}

const SEED = Number(process.env.SOFTMOE_TEST_SEED ?? 20230801)

describe.each(Object.entries(FORMATS))('%s', (_, format) => {
  it('reads the undamaged samples', async () => {
    for (const sample of format.samples) expect(await tryRead(format, sample)).toBe(true)
  })

  it('cut at every length is refused', async () => {
    for (const sample of format.samples) {
      const step = Math.max(1, Math.floor(sample.length / 400))
      for (let length = 0; length < sample.length; length += step) {
        expect(await tryRead(format, sample.subarray(0, length))).toBe(false)
      }
    }
  })

  it('damaged at random is read or refused', async () => {
    const before = process.memoryUsage().rss
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...format.samples),
        fc.array(damage, { minLength: 1, maxLength: 4 }),
        async (sample, damages) => {
          await tryRead(format, damages.reduce(damaged, sample))
        },
      ),
      { numRuns: FILES, seed: SEED },
    )
    expect(process.memoryUsage().rss - before).toBeLessThan(512 * MEBIBYTE)
  })
})

describe('a safetensors header', () => {
  const SIZES = [0, 1, 2 ** 16, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 1e308, -1, 0.5]
  const number = fc.constantFrom(...SIZES)
  const anything = fc.oneof(fc.jsonValue({ maxDepth: 2 }), number)
  const tensor = fc.oneof(
    fc.record(
      {
        dtype: fc.constantFrom('F32', 'BF16', 'BOOL', 'F16', 'X', '__proto__', 'constructor'),
        shape: fc.oneof(fc.array(fc.constantFrom(0, 1, 2, 3, 8, ...SIZES), { maxLength: 5 }), anything),
        data_offsets: fc.oneof(
          fc.array(fc.constantFrom(0, 4, 8, 16, 32, ...SIZES), { maxLength: 3 }),
          anything,
        ),
      },
      { requiredKeys: [] },
    ),
    anything,
  )
  const name = fc.constantFrom('a', 'b', '', '__metadata__', '__proto__', 'constructor', '\u0000', 'a.b')

  it('with any lengths, overlaps and types is read or refused', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(name, tensor, { maxKeys: 4 }),
        fc.integer({ min: 0, max: 64 }),
        fc.option(fc.constantFrom(0, 7, 2 ** 31, 2 ** 53), { nil: undefined }),
        async (header, dataBytes, stated) => {
          await tryRead(
            { read: readTensors, limit: times(4) },
            safetensors(JSON.stringify(header), bytesFrom(dataBytes, 3), stated),
          )
        },
      ),
      { numRuns: FILES, seed: SEED },
    )
  })

  it.each([
    ['overlap', { a: entry('F32', [4], 0, 16), b: entry('F32', [4], 8, 24) }],
    ['leave a gap', { a: entry('F32', [2], 0, 8), b: entry('F32', [2], 16, 24) }],
    [
      'are all the same bytes',
      Object.fromEntries(Array.from({ length: 99 }, (_, i) => [`t${i}`, entry('F32', [6], 0, 24)])),
    ],
    ['wrap around', { a: entry('F32', [2 ** 31, 2 ** 31, 4], 0, 24) }],
    ['end before they begin', { a: entry('F32', [0], 24, 0) }],
  ])('whose tensors %s is refused', async (_, header) => {
    const format = { read: readTensors, limit: times(4) }
    expect(await tryRead(format, safetensors(JSON.stringify(header), bytesFrom(24, 3)))).toBe(false)
  })

  it('of deep nesting is refused', async () => {
    const format = { read: readTensors, limit: times(4) }
    expect(await tryRead(format, safetensors('['.repeat(100_000), bytesFrom(0, 1)))).toBe(false)
    expect(
      await tryRead(format, safetensors(`{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`, bytesFrom(0, 1))),
    ).toBe(false)
  })
})

describe('bombs', () => {
  const refusedWithin = async (format: Format, bytes: Buffer, mebibytes: number): Promise<void> => {
    const before = process.memoryUsage().rss
    expect(await tryRead(format, bytes)).toBe(false)
    expect(process.memoryUsage().rss - before).toBeLessThan(mebibytes * MEBIBYTE)
  }
  const of = (name: string): Format => {
    const format = FORMATS[name]
    if (format === undefined) throw new Error(`no format ${name}`)
    return format
  }

  it('IDX headers of terabytes are refused before memory is taken', async () => {
    for (const shape of [
      [2 ** 32 - 1],
      [2 ** 31, 2 ** 10],
      [65_536, 65_536, 65_536],
      [2 ** 32 - 1, 2 ** 32 - 1, 1, 1],
    ]) {
      await refusedWithin(of('IDX'), idx(8, shape, bytesFrom(9, 1)), 32)
      await refusedWithin(of('IDX in gzip'), gzipSync(idx(8, shape, bytesFrom(9, 1))), 32)
    }
  })

  it('gzip of 96 MiB of zeros is refused', async () => {
    const bytes = 96 * MEBIBYTE
    const pack = (header: Buffer): Buffer =>
      gzipSync(Buffer.concat([header, Buffer.alloc(bytes)]), { level: 1 })
    await refusedWithin(of('IDX in gzip'), pack(idx(8, [10], Buffer.alloc(0))), 64)
    await refusedWithin(of('IDX in gzip'), pack(idx(8, [bytes], Buffer.alloc(0))), 64)
  })

  it('a PNG of more pixels than its data, or of more data than its pixels, is refused', async () => {
    await refusedWithin(of('PNG'), pngOf(4096, 4096, Buffer.alloc(100)), 64)
    await refusedWithin(of('PNG'), pngOf(2 ** 31 - 1, 2 ** 31 - 1, Buffer.alloc(100)), 32)
    await refusedWithin(of('PNG'), pngOf(8, 8, Buffer.alloc(64 * MEBIBYTE)), 64)
  })

  it('one label of 2,147,483,647 is no reason for as many class names', async () => {
    const write = (name: string, bytes: Buffer): string => {
      writeFileSync(join(folder, name), bytes)
      return join(folder, name)
    }
    const images = write('images', idx(8, [1, 2, 2], bytesFrom(4, 1)))
    const labels = write('labels', idx(0x0c, [1], Buffer.from('7fffffff', 'hex')))
    await expect(readIdxPair(images, labels)).rejects.toMatchObject({ code: 'ERR_FILE_FORMAT' })
  })
})

describe('folders', () => {
  it('of damaged CIFAR batches are read or refused', async () => {
    const batch = Buffer.concat(
      Array.from({ length: 3 }, (_, i) => Buffer.concat([Buffer.from([i]), bytesFrom(3072, i + 1)])),
    )
    const place = join(folder, 'cifar')
    mkdirSync(place)
    const names = ['test_batch.bin', ...[1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`)]
    for (const name of names) writeFileSync(join(place, name), batch)
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...names),
        fc.array(damage, { minLength: 1, maxLength: 3 }),
        async (name, damages) => {
          const bytes = damages.reduce(damaged, batch)
          writeFileSync(join(place, name), bytes)
          try {
            const { train, test } = await readCifarFolder(place)
            expect(train.images.length + test.images.length).toBeLessThanOrEqual(6 * 4 * batch.length)
          } catch (error) {
            expect(error).toBeInstanceOf(SoftMoEError)
            expect((error as SoftMoEError).code).toBe('ERR_FILE_FORMAT')
          } finally {
            writeFileSync(join(place, name), batch)
          }
        },
      ),
      { numRuns: Math.ceil(FILES / 4), seed: SEED },
    )
  })

  it('of damaged pictures are read or refused', async () => {
    const place = join(folder, 'pictures')
    const sample = encodePng(picture(3))
    for (const name of ['train/a', 'train/b', 'test/a', 'test/b']) {
      mkdirSync(join(place, name), { recursive: true })
      writeFileSync(join(place, name, '1.png'), sample)
    }
    await readImageFolder(place)
    await fc.assert(
      fc.asyncProperty(fc.array(damage, { minLength: 1, maxLength: 3 }), async (damages) => {
        writeFileSync(join(place, 'train/b/1.png'), damages.reduce(damaged, sample))
        await readImageFolder(place).catch((error: unknown) => {
          expect(error).toBeInstanceOf(SoftMoEError)
        })
      }),
      { numRuns: Math.ceil(FILES / 4), seed: SEED },
    )
  })
})
