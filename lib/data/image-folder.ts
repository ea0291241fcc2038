/** A folder of class folders with PNG images: `DIR/shoe/1.png`, or `DIR/train/shoe/1.png` and `DIR/test/shoe/2.png`. */
import { requireObject, requireString } from '../core/arguments.js'
import { basename, join } from 'node:path'
import { SoftMoEError } from '../core/errors.js'
import { Random, streamOf } from '../core/random.js'
import { allocateBytes, createDataset, type DatasetSplit, type ImageDataset } from './dataset.js'
import { listFolder } from './files.js'
import { readPng, readPngHeader, resizePicture, withChannels } from './png.js'

const TRAIN_FOLDERS = ['train']
const TEST_FOLDERS = ['test', 'val', 'valid', 'validation']
const OTHER_IMAGES = /\.(jpe?g|gif|webp|bmp|tiff?|avif|heic)$/i
const PNG_FILE = /\.png$/i
const TRAIN_SHARE = 0.8

/** How an image folder is read. */
export interface ImageFolderOptions {
  /** Height and width to which every image is resized; default: all images must have one size already. */
  readonly size?: number
  /** Default: 1 when every image is grey, else 3. */
  readonly channels?: 1 | 3
}

interface LabelledFile {
  readonly path: string
  readonly label: number
}

async function listClass(folder: string, label: number): Promise<LabelledFile[]> {
  const { files } = await listFolder(folder)
  const foreign = files.find((file) => OTHER_IMAGES.test(file))
  if (foreign !== undefined) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${join(folder, foreign)} is no PNG file; convert the images to PNG`,
    )
  }
  const images = files.filter((file) => PNG_FILE.test(file))
  if (images.length === 0) {
    throw new SoftMoEError(
      'ERR_FILE_NOT_FOUND',
      `${folder} holds no PNG images; every class folder needs some`,
    )
  }
  return images.map((file) => ({ path: join(folder, file), label }))
}

async function listClasses(folder: string, classNames: readonly string[]): Promise<LabelledFile[][]> {
  const { folders } = await listFolder(folder)
  const unknown = folders.find((name) => !classNames.includes(name))
  if (unknown !== undefined) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${join(folder, unknown)} is a class that the training folder does not have`,
    )
  }
  const classes: LabelledFile[][] = []
  for (const [label, name] of classNames.entries()) {
    classes.push(folders.includes(name) ? await listClass(join(folder, name), label) : [])
  }
  return classes
}

interface Format {
  readonly height: number
  readonly width: number
  readonly channels: 1 | 3
}

/** Looks at every header first, so that a wrong file is named before anything large is allocated. */
async function commonFormat(files: readonly LabelledFile[], options: ImageFolderOptions): Promise<Format> {
  let first: { path: string; width: number; height: number } | undefined
  let allGrey = true
  for (const { path } of files) {
    const { width, height, grey } = await readPngHeader(path)
    allGrey &&= grey
    first ??= { path, width, height }
    if (options.size === undefined && (width !== first.width || height !== first.height)) {
      throw new SoftMoEError(
        'ERR_FILE_FORMAT',
        `${path} has ${width} × ${height} pixels, but ${first.path} has ${first.width} × ${first.height}; ` +
          'give images of one size, or the option size to have them resized',
      )
    }
  }
  const channels = options.channels ?? (allGrey ? 1 : 3)
  return { height: options.size ?? first?.height ?? 1, width: options.size ?? first?.width ?? 1, channels }
}

async function decodeAll(
  name: string,
  files: readonly LabelledFile[],
  { height, width, channels }: Format,
  classNames: readonly string[],
): Promise<ImageDataset> {
  const imageBytes = height * width * channels
  const images = allocateBytes(files.length * imageBytes, name)
  for (const [index, { path }] of files.entries()) {
    const picture = resizePicture(withChannels(await readPng(path), channels), height, width)
    images.set(picture.pixels, index * imageBytes)
  }
  const labels = Int32Array.from(files, ({ label }) => label)
  return createDataset({ name, images, labels, height, width, channels, classNames })
}

/**
 * Reads a folder of class folders with PNG images; classes are numbered in the order of their names. Without `train` and
 * `test` folders (`val`, `valid` and `validation` count as `test`), 80 % of every class train and the rest tests, chosen
 * by a fixed random order of the file names.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND` for a missing or empty folder, `ERR_FILE_FORMAT` for images that are damaged,
 * of other formats, or of different sizes without `options.size`
 */
export async function readImageFolder(
  folder: string,
  options: ImageFolderOptions = {},
): Promise<DatasetSplit> {
  requireString('the folder', folder)
  requireObject('the options of readImageFolder', options)
  if (
    options.size !== undefined &&
    !(Number.isInteger(options.size) && options.size >= 1 && options.size <= 4096)
  ) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `size is ${options.size}; give a whole number from 1 to 4096`,
    )
  }
  const name = basename(folder)
  const { folders } = await listFolder(folder)
  const trainFolder = TRAIN_FOLDERS.find((part) => folders.includes(part))
  const testFolder = TEST_FOLDERS.find((part) => folders.includes(part))
  const divided = trainFolder !== undefined && testFolder !== undefined
  const trainRoot = divided ? join(folder, trainFolder) : folder
  const classNames = (await listFolder(trainRoot)).folders
  if (classNames.length < 2) {
    throw new SoftMoEError(
      'ERR_FILE_NOT_FOUND',
      `${trainRoot} holds ${classNames.length} class folders; wanted at least two with PNG images`,
    )
  }
  const classes = await listClasses(trainRoot, classNames)
  const parts = divided
    ? { train: classes.flat(), test: (await listClasses(join(folder, testFolder), classNames)).flat() }
    : divide(classes)
  if (parts.test.length === 0) {
    throw new SoftMoEError(
      'ERR_FILE_NOT_FOUND',
      `${folder} leaves no images to test on; give each class at least two images`,
    )
  }
  const format = await commonFormat([...parts.train, ...parts.test], options)
  return {
    train: await decodeAll(name, parts.train, format, classNames),
    test: await decodeAll(name, parts.test, format, classNames),
  }
}

function divide(classes: readonly LabelledFile[][]): { train: LabelledFile[]; test: LabelledFile[] } {
  const train: LabelledFile[] = []
  const test: LabelledFile[] = []
  for (const [label, files] of classes.entries()) {
    const order = new Random(0, streamOf('split', label)).permutation(files.length)
    const trained = Math.max(1, Math.floor(files.length * TRAIN_SHARE))
    const chosen = new Set(order.subarray(0, trained))
    files.forEach((file, index) => (chosen.has(index) ? train : test).push(file))
  }
  return { train, test }
}
