/**
 * The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning multiple layers of features from tiny images",
 * 2009). A record is the label (CIFAR-100: coarse label, fine label), then 1,024 red, 1,024 green and 1,024 blue bytes.
 */
import { requireObject, requireString } from '../core/arguments.js'
import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { SoftMoEError } from '../core/errors.js'
import { allocateBytes, createDataset, type DatasetSplit, type ImageDataset } from './dataset.js'
import { fileError, readNames } from './files.js'

const SIDE = 32
const PLANE_BYTES = SIDE * SIDE
const IMAGE_BYTES = 3 * PLANE_BYTES
/** Records read at a time: the memory beside the result stays below a megabyte. */
const RECORDS_PER_READ = 256

interface Variant {
  readonly name: string
  readonly trainFiles: readonly string[]
  readonly testFiles: readonly string[]
  readonly labelBytes: number
  readonly labelAt: number
  readonly numClasses: number
  readonly namesFile: string
}

const CIFAR_10: Variant = {
  name: 'cifar-10',
  trainFiles: [1, 2, 3, 4, 5].map((batch) => `data_batch_${batch}.bin`),
  testFiles: ['test_batch.bin'],
  labelBytes: 1,
  labelAt: 0,
  numClasses: 10,
  namesFile: 'batches.meta.txt',
}
const CIFAR_100: Variant = {
  name: 'cifar-100',
  trainFiles: ['train.bin'],
  testFiles: ['test.bin'],
  labelBytes: 2,
  labelAt: 1,
  numClasses: 100,
  namesFile: 'fine_label_names.txt',
}
const CIFAR_100_COARSE: Variant = {
  ...CIFAR_100,
  name: 'cifar-100-coarse',
  labelAt: 0,
  numClasses: 20,
  namesFile: 'coarse_label_names.txt',
}

/** Whether a folder's files look like the binary CIFAR. */
export function holdsCifar(files: readonly string[]): boolean {
  return [CIFAR_10, CIFAR_100].some(({ testFiles }) => testFiles.every((file) => files.includes(file)))
}

async function readFiles(folder: string, files: readonly string[], variant: Variant): Promise<ImageDataset> {
  const recordBytes = variant.labelBytes + IMAGE_BYTES
  const paths = files.map((file) => join(folder, file))
  const counts: number[] = []
  for (const path of paths) {
    const { size } = await stat(path).catch((cause: unknown) => Promise.reject(fileError(path, cause)))
    if (size === 0 || size % recordBytes !== 0) {
      throw new SoftMoEError(
        'ERR_FILE_FORMAT',
        `${path} has ${size} bytes, which is no multiple of the ${recordBytes} bytes of a ${variant.name} record; ` +
          'it is truncated or another format',
      )
    }
    counts.push(size / recordBytes)
  }
  const total = counts.reduce((sum, count) => sum + count, 0)
  const images = allocateBytes(total * IMAGE_BYTES, folder)
  const labels = new Int32Array(total)
  let first = 0
  for (const [index, path] of paths.entries()) {
    const count = counts[index]
    await readRecords(
      path,
      count,
      variant,
      images.subarray(first * IMAGE_BYTES),
      labels.subarray(first, first + count),
    )
    first += count
  }
  const names = await readNames(join(folder, variant.namesFile))
  if (names && names.length !== variant.numClasses) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${join(folder, variant.namesFile)} has ${names.length} names; ${variant.name} has ${variant.numClasses} classes`,
    )
  }
  const classNames = names ?? Array.from({ length: variant.numClasses }, (_, label) => String(label))
  return createDataset({
    name: variant.name,
    images,
    labels,
    height: SIDE,
    width: SIDE,
    channels: 3,
    classNames,
  })
}

async function readRecords(
  path: string,
  count: number,
  variant: Variant,
  images: Uint8Array,
  labels: Int32Array,
): Promise<void> {
  const recordBytes = variant.labelBytes + IMAGE_BYTES
  const records = new Uint8Array(Math.min(count, RECORDS_PER_READ) * recordBytes)
  const file = await open(path).catch((cause: unknown) => Promise.reject(fileError(path, cause)))
  try {
    for (let first = 0; first < count; first += RECORDS_PER_READ) {
      const taken = Math.min(RECORDS_PER_READ, count - first)
      await readFully(file, records.subarray(0, taken * recordBytes), first * recordBytes, path)
      for (let record = 0; record < taken; record++) {
        const start = record * recordBytes
        labels[first + record] = records[start + variant.labelAt]
        interleave(
          records.subarray(start + variant.labelBytes),
          images.subarray((first + record) * IMAGE_BYTES),
        )
      }
    }
  } catch (cause) {
    throw fileError(path, cause)
  } finally {
    await file.close()
  }
}

async function readFully(
  file: Awaited<ReturnType<typeof open>>,
  into: Uint8Array,
  position: number,
  path: string,
): Promise<void> {
  let filled = 0
  while (filled < into.length) {
    const { bytesRead } = await file.read(into, filled, into.length - filled, position + filled)
    if (bytesRead === 0) throw new SoftMoEError('ERR_FILE_FORMAT', `${path} became shorter while it was read`)
    filled += bytesRead
  }
}

/** Three colour planes to pixels of three values. */
function interleave(planes: Uint8Array, pixels: Uint8Array): void {
  for (let pixel = 0; pixel < PLANE_BYTES; pixel++) {
    pixels[3 * pixel] = planes[pixel]
    pixels[3 * pixel + 1] = planes[PLANE_BYTES + pixel]
    pixels[3 * pixel + 2] = planes[2 * PLANE_BYTES + pixel]
  }
}

/** How CIFAR is read. */
export interface CifarOptions {
  /** CIFAR-100 only: 100 fine classes (the default) or their 20 coarse ones. */
  readonly labels?: 'fine' | 'coarse'
}

/**
 * Reads the binary CIFAR-10 (`data_batch_1.bin` … `test_batch.bin`) or CIFAR-100 (`train.bin`, `test.bin`) of a folder.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND` when a batch is missing, `ERR_FILE_FORMAT` when a length or label is wrong
 */
export async function readCifarFolder(folder: string, options: CifarOptions = {}): Promise<DatasetSplit> {
  requireString('the folder', folder)
  requireObject('the options of readCifarFolder', options)
  const isCifar10 = await stat(join(folder, 'test_batch.bin')).then(
    () => true,
    () => false,
  )
  const variant = isCifar10 ? CIFAR_10 : options.labels === 'coarse' ? CIFAR_100_COARSE : CIFAR_100
  return {
    train: await readFiles(folder, variant.trainFiles, variant),
    test: await readFiles(folder, variant.testFiles, variant),
  }
}
