/**
 * PNG files, decoded by pngjs. What the library does not guard against is checked first: chunk bounds, image sizes that
 * the file cannot hold, and compressed data that unpacks to more than the image needs.
 */
import { open, stat } from 'node:fs/promises'
import { inflateSync } from 'node:zlib'
import { PNG } from 'pngjs'
import { given, requireCount, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { fileError, readInto } from './files.js'

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
const IHDR = 0x49484452
const HEADER_BYTES = 33
/** 4096 × 4096: 64 MiB once decoded. */
const MAX_PIXELS = 2 ** 24
/** Deflate packs at most 1,032 bytes into one. */
const MAX_DEFLATE_RATIO = 1032
const CHANNELS_OF_COLOUR_TYPE = new Map([
  [0, 1],
  [2, 3],
  [3, 1],
  [4, 2],
  [6, 4],
])
/** First column and row, and the steps of the seven passes of an interlaced image. */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const

/** A decoded image. */
export interface Picture {
  /** Values 0–255, `[height, width, channels]`. */
  readonly pixels: Uint8Array
  readonly height: number
  readonly width: number
  /** 1 (grey) or 3 (red, green, blue). */
  readonly channels: 1 | 3
}

/** What the first bytes of a PNG file say. */
export interface PngHeader {
  readonly width: number
  readonly height: number
  /** Whether the image is stored in grey levels. */
  readonly grey: boolean
  /** Bytes of the filtered rows once unpacked. */
  readonly rowsBytes: number
}

function refuse(path: string, what: string, cause?: unknown): never {
  throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is no usable PNG file: ${what}`, { cause })
}

function unpackedBytes(width: number, height: number, bitsPerPixel: number, interlaced: boolean): number {
  const rows = (columns: number, lines: number): number =>
    columns > 0 && lines > 0 ? lines * (1 + Math.ceil((columns * bitsPerPixel) / 8)) : 0
  if (!interlaced) return rows(width, height)
  return ADAM7.reduce(
    (sum, [left, top, stepX, stepY]) =>
      sum + rows(Math.ceil((width - left) / stepX), Math.ceil((height - top) / stepY)),
    0,
  )
}

/** Reads size and kind of an image from the first 33 bytes of its file. */
export function parsePngHeader(path: string, bytes: Uint8Array, fileBytes = bytes.length): PngHeader {
  if (bytes.length < HEADER_BYTES) refuse(path, `it ends after ${bytes.length} bytes`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (!SIGNATURE.equals(bytes.subarray(0, 8))) refuse(path, 'it does not begin with the PNG signature')
  if (view.getUint32(8) !== 13 || view.getUint32(12) !== IHDR) {
    refuse(path, 'it does not begin with an IHDR chunk')
  }
  const width = view.getUint32(16)
  const height = view.getUint32(20)
  const depth = view.getUint8(24)
  const colourType = view.getUint8(25)
  const channels = CHANNELS_OF_COLOUR_TYPE.get(colourType)
  if (channels === undefined) refuse(path, `colour type ${colourType} is unknown`)
  if (![1, 2, 4, 8, 16].includes(depth)) refuse(path, `bit depth ${depth} is unknown`)
  if (width === 0 || height === 0 || width * height > MAX_PIXELS) {
    refuse(path, `it states ${width} × ${height} pixels; 1 to ${MAX_PIXELS} pixels are supported`)
  }
  const rowsBytes = unpackedBytes(width, height, channels * depth, view.getUint8(28) === 1)
  if (rowsBytes > MAX_DEFLATE_RATIO * fileBytes) {
    refuse(path, `it states ${width} × ${height} pixels, more than its ${fileBytes} bytes can hold`)
  }
  return { width, height, grey: colourType === 0 || colourType === 4, rowsBytes }
}

/** Reads only the header of a PNG file. */
export async function readPngHeader(path: string): Promise<PngHeader> {
  try {
    const { size } = await stat(path)
    const file = await open(path)
    try {
      const start = new Uint8Array(HEADER_BYTES)
      const { bytesRead } = await file.read(start, 0, HEADER_BYTES, 0)
      return parsePngHeader(path, start.subarray(0, bytesRead), size)
    } finally {
      await file.close()
    }
  } catch (cause) {
    throw fileError(path, cause)
  }
}

/** Walks the chunks and unpacks the image data once, with the size that the header implies as the limit. */
function checkChunks(path: string, bytes: Buffer, header: PngHeader): void {
  const parts: Buffer[] = []
  let at = SIGNATURE.length
  let ended = false
  while (!ended) {
    if (at + 12 > bytes.length) refuse(path, `it is truncated after ${bytes.length} bytes`)
    const length = bytes.readUInt32BE(at)
    const type = bytes.toString('latin1', at + 4, at + 8)
    if (length > bytes.length - at - 12) refuse(path, `chunk ${JSON.stringify(type)} is longer than the file`)
    if (type === 'IHDR' && at !== SIGNATURE.length) refuse(path, 'it has a second IHDR chunk')
    if (type === 'IDAT') parts.push(bytes.subarray(at + 8, at + 8 + length))
    ended = type === 'IEND'
    at += 12 + length
  }
  try {
    const unpacked = inflateSync(Buffer.concat(parts), { maxOutputLength: header.rowsBytes })
    if (unpacked.length < header.rowsBytes) {
      refuse(path, `its image data ends after ${unpacked.length} of ${header.rowsBytes} bytes`)
    }
  } catch (cause) {
    if (SoftMoEError.is(cause)) throw cause
    refuse(path, 'its image data is damaged', cause)
  }
}

/**
 * Decodes a PNG file: grey images to 1 channel, all others to 3; 16-bit levels are reduced to 8 and transparent pixels
 * laid over black.
 * @param path only names the image in errors
 * @throws SoftMoEError `ERR_FILE_FORMAT` when the bytes are damaged, truncated, foreign, or state more than they hold
 */
export function decodePng(path: string, bytes: Buffer): Picture {
  const header = parsePngHeader(path, bytes)
  checkChunks(path, bytes, header)
  let rgba: Uint8Array
  try {
    rgba = PNG.sync.read(bytes).data
  } catch (cause) {
    refuse(path, cause instanceof Error ? cause.message : 'it cannot be decoded', cause)
  }
  const { width, height } = header
  const channels = header.grey ? 1 : 3
  const pixels = new Uint8Array(width * height * channels)
  for (let pixel = 0; pixel < width * height; pixel++) {
    const alpha = rgba[4 * pixel + 3] / 255
    for (let channel = 0; channel < channels; channel++) {
      pixels[pixel * channels + channel] = Math.round(rgba[4 * pixel + channel] * alpha)
    }
  }
  return { pixels, height, width, channels }
}

/** Reads and decodes a PNG file, see {@link decodePng}. */
export async function readPng(path: string): Promise<Picture> {
  try {
    const header = await readPngHeader(path)
    const { size } = await stat(path)
    if (size > 2 * header.rowsBytes + 2 ** 24) {
      refuse(path, `${size} bytes are too many for ${header.width} × ${header.height} pixels`)
    }
    const bytes = Buffer.allocUnsafe(size)
    await readInto(path, bytes)
    return decodePng(path, bytes)
  } catch (cause) {
    throw fileError(path, cause)
  }
}

/** Throws `ERR_INVALID_ARGUMENT` for a size that no picture has. */
function requirePictureSize(height: number, width: number): void {
  requireCount('height', height)
  requireCount('width', width)
  if (height * width <= MAX_PIXELS) return
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `a picture of ${width} × ${height} pixels was asked for; at most ${MAX_PIXELS} pixels are supported`,
  )
}

/** Throws `ERR_INVALID_ARGUMENT` for anything but a picture whose pixels fill its size. */
function requirePicture(picture: Picture): void {
  requireObject('the picture', picture)
  const { pixels, height, width, channels } = picture
  requirePictureSize(height, width)
  if ((channels as number) !== 1 && (channels as number) !== 3) {
    throw new SoftMoEError('ERR_INVALID_ARGUMENT', `channels is ${given(channels)}; wanted 1 or 3`)
  }
  if (!(pixels instanceof Uint8Array) || pixels.length !== height * width * channels) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the pixels of a picture are no Uint8Array of ${height} × ${width} × ${channels} values`,
    )
  }
}

/** Encodes an image as a PNG file. @throws `ERR_INVALID_ARGUMENT` if the pixels do not fill the size */
export function encodePng(picture: Picture): Buffer {
  requirePicture(picture)
  const { pixels, height, width, channels } = picture
  const png = new PNG({ width, height })
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      png.data[4 * pixel + channel] = pixels[pixel * channels + (channels === 3 ? channel : 0)]
    }
    png.data[4 * pixel + 3] = 255
  }
  return PNG.sync.write(png, { colorType: channels === 1 ? 0 : 2 })
}

/** Converts between 1 and 3 channels: grey is repeated, colour becomes luma (ITU-R BT.601). */
export function withChannels(picture: Picture, channels: 1 | 3): Picture {
  requirePicture(picture)
  if (picture.channels === channels) return picture
  const source = picture.pixels
  const count = picture.width * picture.height
  const pixels = new Uint8Array(count * channels)
  for (let pixel = 0; pixel < count; pixel++) {
    if (channels === 3) {
      pixels.fill(source[pixel], 3 * pixel, 3 * pixel + 3)
    } else {
      const luma = 0.299 * source[3 * pixel] + 0.587 * source[3 * pixel + 1] + 0.114 * source[3 * pixel + 2]
      pixels[pixel] = Math.round(luma)
    }
  }
  return { ...picture, pixels, channels }
}

/**
 * Resizes with a triangle filter as wide as a new pixel: averages where the picture shrinks, interpolates linearly where
 * it grows. Rows first, then columns.
 *
 * @throws `ERR_INVALID_ARGUMENT` for a size of no or of more than 2^24 pixels
 */
export function resizePicture(picture: Picture, height: number, width: number): Picture {
  requirePicture(picture)
  requirePictureSize(height, width)
  if (picture.height === height && picture.width === width) return picture
  const { channels } = picture
  const columns = filterTaps(picture.width, width)
  const rows = filterTaps(picture.height, height)
  const narrowed = new Float32Array(picture.height * width * channels)
  for (let row = 0; row < picture.height; row++) {
    columns.forEach((taps, column) => {
      for (const { at, weight } of taps) {
        for (let channel = 0; channel < channels; channel++) {
          const from = (row * picture.width + at) * channels + channel
          narrowed[(row * width + column) * channels + channel] += weight * picture.pixels[from]
        }
      }
    })
  }
  const rowValues = width * channels
  const pixels = new Uint8Array(height * rowValues)
  rows.forEach((taps, row) => {
    for (let value = 0; value < rowValues; value++) {
      let sum = 0
      for (const { at, weight } of taps) sum += weight * narrowed[at * rowValues + value]
      pixels[row * rowValues + value] = Math.round(Math.min(255, sum))
    }
  })
  return { pixels, height, width, channels }
}

/** For each new pixel the old pixels under its triangle and their shares, which sum to one. */
function filterTaps(from: number, to: number): { readonly at: number; readonly weight: number }[][] {
  const scale = from / to
  const reach = Math.max(1, scale)
  return Array.from({ length: to }, (_, target) => {
    const centre = (target + 0.5) * scale - 0.5
    const taps: { at: number; weight: number }[] = []
    for (let at = Math.ceil(centre - reach); at <= Math.floor(centre + reach); at++) {
      const weight = 1 - Math.abs(at - centre) / reach
      if (weight > 0) taps.push({ at: Math.min(from - 1, Math.max(0, at)), weight })
    }
    const total = taps.reduce((sum, { weight }) => sum + weight, 0)
    return taps.map(({ at, weight }) => ({ at, weight: weight / total }))
  })
}
