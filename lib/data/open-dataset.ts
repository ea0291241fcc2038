/** Finds out what a folder holds and reads it; without a folder, the data set that ships with the package. */
import { basename, join, resolve } from 'node:path'
import { SoftMoEError } from '../core/errors.js'
import { packageFile } from '../core/package-file.js'
import { holdsCifar, readCifarFolder, type CifarOptions } from './cifar.js'
import { sliceDataset, type DatasetSplit } from './dataset.js'
import { listFolder } from './files.js'
import { holdsIdx, readIdxFolder, readIdxPair } from './idx.js'
import { readImageFolder, type ImageFolderOptions } from './image-folder.js'

/** Class names of Fashion-MNIST in the order of its labels. */
export const FASHION_MNIST_CLASSES: readonly string[] = [
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
]
/** Where Debian's package `dataset-fashion-mnist` puts the 70,000 images. */
const DEBIAN_FOLDER = '/usr/share/datasets/fashion-mnist'
/** Name of the data set that ships with the package. */
export const EMBEDDED_DATASET = 'fashion-mnist-10k'
const EMBEDDED_TRAIN_IMAGES = 8000

/**
 * Reads the Fashion-MNIST images that ship with the package: the 10,000 of its published test set, of which 8,000 train
 * and 2,000 test. Results on this split cannot be compared with published ones.
 */
export async function readEmbeddedFashionMnist(): Promise<DatasetSplit> {
  const folder = packageFile('data', 'fashion-mnist')
  const all = await readIdxPair(
    join(folder, 't10k-images-idx3-ubyte.gz'),
    join(folder, 't10k-labels-idx1-ubyte.gz'),
    { name: EMBEDDED_DATASET, classNames: FASHION_MNIST_CLASSES },
  )
  return {
    train: sliceDataset(all, 0, EMBEDDED_TRAIN_IMAGES),
    test: sliceDataset(all, EMBEDDED_TRAIN_IMAGES, all.count),
  }
}

/** How a data set is chosen and read. */
export interface OpenDatasetOptions extends ImageFolderOptions, CifarOptions {
  /**
   * Without a folder: `auto` (the default) takes the full 70,000 images of Fashion-MNIST where Debian's package
   * installed them, else the embedded 10,000; `embedded` always takes the latter.
   */
  readonly source?: 'auto' | 'embedded'
}

/**
 * Opens the data set of a folder: IDX pairs (the MNIST family), binary CIFAR-10 or CIFAR-100, or class folders of PNG
 * images. Without a folder, Fashion-MNIST.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND` when the folder holds none of these, or what the readers throw
 */
export async function openDataset(folder?: string, options: OpenDatasetOptions = {}): Promise<DatasetSplit> {
  if (folder === undefined) {
    if (options.source === 'embedded') return readEmbeddedFashionMnist()
    const installed = await listFolder(DEBIAN_FOLDER).then(
      ({ files }) => holdsIdx(files),
      () => false,
    )
    return installed ? openFashionMnist(DEBIAN_FOLDER) : readEmbeddedFashionMnist()
  }
  const { files, folders } = await listFolder(folder)
  if (holdsIdx(files)) {
    return /fashion/i.test(basename(resolve(folder))) ? openFashionMnist(folder) : readIdxFolder(folder)
  }
  if (holdsCifar(files)) return readCifarFolder(folder, options)
  if (folders.length > 0) return readImageFolder(folder, options)
  const archive = files.find((file) => /\.(tar|tgz|tar\.gz|zip)$/.test(file))
  throw new SoftMoEError(
    'ERR_FILE_NOT_FOUND',
    `${folder} holds no data set: wanted IDX files (train-images-idx3-ubyte[.gz] …), CIFAR binaries (data_batch_1.bin …, ` +
      'train.bin) or class folders of PNG images' +
      (archive === undefined ? '' : `; unpack ${archive} first`),
  )
}

function openFashionMnist(folder: string): Promise<DatasetSplit> {
  return readIdxFolder(folder, { name: 'fashion-mnist', classNames: FASHION_MNIST_CLASSES })
}
