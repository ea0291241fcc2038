/**
 * IDX, the format of the MNIST family: two zero bytes, an element type, the rank, then each dimension as a big-endian
 * 32-bit integer, then the elements, big-endian, row-major. Plain or packed by gzip.
 */
import { basename, join } from 'node:path'
import { SoftMoEError } from '../core/errors.js'
import { createDataset, sliceDataset, type DatasetSplit, type ImageDataset } from './dataset.js'
import { listFolder, readNames, readStatedLength } from './files.js'

const ELEMENT_TYPES: Readonly<Record<number, { readonly name: IdxType; readonly bytes: number }>> = {
  0x08: { name: 'uint8', bytes: 1 },
  0x09: { name: 'int8', bytes: 1 },
  0x0b: { name: 'int16', bytes: 2 },
  0x0c: { name: 'int32', bytes: 4 },
  0x0d: { name: 'float32', bytes: 4 },
  0x0e: { name: 'float64', bytes: 8 },
}
const MAX_RANK = 4
/** Numbers up to the greatest label become class names; a label beyond is no class, but damage. */
const MAX_NUMBERED_CLASSES = 2 ** 16

export type IdxType = 'uint8' | 'int8' | 'int16' | 'int32' | 'float32' | 'float64'

/** The content of one IDX file; `bytes` are the elements as they stand in the file, big-endian. */
export interface IdxArray {
  readonly type: IdxType
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

interface IdxHeader {
  readonly type: IdxType
  readonly shape: readonly number[]
  readonly headerBytes: number
  readonly totalBytes: number
}

function parseHeader(path: string, bytes: Uint8Array): IdxHeader {
  const fail = (what: string): never => {
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is no IDX file: ${what}`)
  }
  if (bytes.length < 4) fail(`it has ${bytes.length} bytes, and the header alone needs 4`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (view.getUint16(0) !== 0) fail('its first two bytes are not zero')
  const element = ELEMENT_TYPES[view.getUint8(2)] ?? fail(`element type ${view.getUint8(2)} is unknown`)
  const rank = view.getUint8(3)
  if (rank < 1 || rank > MAX_RANK) fail(`it states ${rank} dimensions; 1 to ${MAX_RANK} are supported`)
  const headerBytes = 4 + 4 * rank
  if (bytes.length < headerBytes) fail(`the header ends after ${bytes.length} of ${headerBytes} bytes`)
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis))
  const totalBytes = headerBytes + shape.reduce((product, size) => product * size, element.bytes)
  if (!Number.isSafeInteger(totalBytes)) fail(`it states the impossible shape [${shape.join(', ')}]`)
  return { type: element.name, shape, headerBytes, totalBytes }
}

/**
 * Reads one IDX file, plain or packed by gzip.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND`, `ERR_FILE_READ`; `ERR_FILE_FORMAT` when the file is foreign, truncated,
 * too long, or would unpack to more than its header states
 */
export async function readIdx(path: string): Promise<IdxArray> {
  let header: IdxHeader | undefined
  const bytes = await readStatedLength(path, 4 + 4 * MAX_RANK, (start) => {
    header = parseHeader(path, start)
    return header.totalBytes
  })
  const { type, shape, headerBytes } = header ?? parseHeader(path, bytes)
  return { type, shape, bytes: bytes.subarray(headerBytes) }
}

function labelsOf(path: string, { type, shape, bytes }: IdxArray): Int32Array {
  if (shape.length !== 1) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${path} has shape [${shape.join(', ')}]; labels have one dimension`,
    )
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const read = {
    uint8: (index: number) => view.getUint8(index),
    int8: (index: number) => view.getInt8(index),
    int16: (index: number) => view.getInt16(2 * index),
    int32: (index: number) => view.getInt32(4 * index),
    float32: undefined,
    float64: undefined,
  }[type]
  if (!read)
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path} holds ${type} elements; labels are whole numbers`)
  return Int32Array.from({ length: shape[0] }, (_, index) => read(index))
}

/** What an IDX pair does not say itself. */
export interface IdxOptions {
  /** Default: the folder's name. */
  readonly name?: string
  /** Default: the numbers 0 to the greatest label. */
  readonly classNames?: readonly string[]
}

/**
 * Reads a pair of IDX files: images as unsigned bytes `[count, height, width]` or `[count, height, width, channels]`,
 * labels as whole numbers `[count]`.
 */
export async function readIdxPair(
  imagesPath: string,
  labelsPath: string,
  options: IdxOptions = {},
): Promise<ImageDataset> {
  const labels = labelsOf(labelsPath, await readIdx(labelsPath))
  const images = await readIdx(imagesPath)
  const [count, height, width, channels = 1] = images.shape
  if (images.type !== 'uint8' || images.shape.length < 3) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${imagesPath} holds ${images.type} [${images.shape.join(', ')}]; images are uint8 [count, height, width] or ` +
        '[count, height, width, channels]',
    )
  }
  if (count !== labels.length) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${imagesPath} holds ${count} images, but ${labelsPath} holds ${labels.length} labels; the two do not belong together`,
    )
  }
  const greatest = labels.reduce((most, label) => Math.max(most, label), 0)
  if (options.classNames === undefined && greatest >= MAX_NUMBERED_CLASSES) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${labelsPath} holds the label ${greatest}; without class names labels are below ${MAX_NUMBERED_CLASSES}`,
    )
  }
  const classNames = options.classNames ?? Array.from({ length: greatest + 1 }, (_, label) => String(label))
  const name = options.name ?? basename(join(imagesPath, '..'))
  return createDataset({ name, images: images.bytes, labels, height, width, channels, classNames })
}

const IMAGES_FILE = /^(.*?)(train|t10k|test)-images[-.]idx[34]-ubyte(\.gz)?$/

/** Whether a folder's files look like IDX pairs. */
export function holdsIdx(files: readonly string[]): boolean {
  return files.some((file) => IMAGES_FILE.test(file))
}

/**
 * Reads the IDX pairs of a folder: `train-images-idx3-ubyte` with `train-labels-idx1-ubyte` to train, the `t10k-` or
 * `test-` pair to test, with or without `.gz`. Of a single pair the first 80 % train and the rest tests. Class names are
 * the lines of `classes.txt` if the folder has one.
 */
export async function readIdxFolder(folder: string, options: IdxOptions = {}): Promise<DatasetSplit> {
  const { files } = await listFolder(folder)
  const classNames = options.classNames ?? (await readNames(join(folder, 'classes.txt')))
  const settings = { name: options.name ?? basename(folder), ...(classNames && { classNames }) }
  const pair = async (parts: readonly string[]): Promise<ImageDataset | undefined> => {
    const found = files.filter((file) => parts.includes(IMAGES_FILE.exec(file)?.[2] ?? ''))
    // `x` and `x.gz` side by side are the same file; the plain one is read faster.
    const distinct = new Set(found.map((file) => file.replace(/\.gz$/, '')))
    if (found.length === 0) return undefined
    const [images] = found
    if (distinct.size > 1) {
      throw new SoftMoEError(
        'ERR_FILE_FORMAT',
        `${folder} holds several sets (${[...distinct].join(', ')}); give each its own folder`,
      )
    }
    const stem = images.replace(/-images[-.]idx[34]-ubyte(\.gz)?$/, '')
    const labels = files.find(
      (file) => /^-labels[-.]idx1-ubyte(\.gz)?$/.test(file.slice(stem.length)) && file.startsWith(stem),
    )
    if (labels === undefined) {
      throw new SoftMoEError(
        'ERR_FILE_NOT_FOUND',
        `${folder} holds ${images}, but not its labels ${stem}-labels-idx1-ubyte[.gz]`,
      )
    }
    return readIdxPair(join(folder, images), join(folder, labels), settings)
  }
  const train = await pair(['train'])
  const test = await pair(['t10k', 'test'])
  if (train && test) return sameClasses(folder, { train, test })
  const only = train ?? test
  if (!only) {
    throw new SoftMoEError(
      'ERR_FILE_NOT_FOUND',
      `${folder} holds no IDX images; wanted train-images-idx3-ubyte[.gz] and its labels`,
    )
  }
  const trained = Math.floor(only.count * 0.8)
  return { train: sliceDataset(only, 0, trained), test: sliceDataset(only, trained, only.count) }
}

function sameClasses(folder: string, { train, test }: DatasetSplit): DatasetSplit {
  const shape = ({ height, width, channels }: ImageDataset): string => `${height} × ${width} × ${channels}`
  if (shape(train) !== shape(test)) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${folder}: images to train are ${shape(train)}, to test ${shape(test)}; they must agree`,
    )
  }
  const longer = train.classNames.length >= test.classNames.length ? train.classNames : test.classNames
  return { train: { ...train, classNames: longer }, test: { ...test, classNames: longer } }
}
