/** A data set and a model small enough that a run of some steps takes a moment. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Random } from '../../lib/core/random.js'
import { createDataset, type DatasetSplit, type ImageDataset } from '../../lib/data/dataset.js'

const SIDE = 8
const CLASSES = 3

/** Noise with a bright band whose place is the class. */
function images(count: number, stream: number): Pick<ImageDataset, 'images' | 'labels'> {
  const random = new Random(7, stream)
  const labels = Int32Array.from({ length: count }, (_, i) => i % CLASSES)
  const values = Uint8Array.from({ length: count * SIDE * SIDE }, (_, i) => {
    const row = Math.floor((i % (SIDE * SIDE)) / SIDE)
    const label = Math.floor(i / (SIDE * SIDE)) % CLASSES
    return Math.floor(80 * random.uniform(i)) + (Math.floor(row / 3) === label ? 150 : 0)
  })
  return { images: values, labels }
}

/** 48 images to train and 24 to test, 8 × 8, in 3 classes. */
export function tinyData(): DatasetSplit {
  const format = {
    name: 'bands',
    height: SIDE,
    width: SIDE,
    channels: 1,
    classNames: ['top', 'middle', 'bottom'],
  }
  return {
    train: createDataset({ ...format, ...images(48, 1) }),
    test: createDataset({ ...format, ...images(24, 2) }),
  }
}

/** A model with every source of randomness that training has. */
export const TINY_MODEL = {
  patchSize: 4,
  width: 16,
  depth: 2,
  numHeads: 2,
  mlpDim: 32,
  dropoutRate: 0.1,
  attentionDropoutRate: 0.1,
  moe: { router: { name: 'soft', noiseStd: 1 }, numExperts: 2, dropoutRate: 0.1 },
} as const

/** A tensor of bytes in the format of MNIST's files. */
export function idx(shape: readonly number[], elements: Uint8Array): Buffer {
  const header = Buffer.alloc(4 + 4 * shape.length)
  header.writeUInt8(8, 2)
  header.writeUInt8(shape.length, 3)
  shape.forEach((size, axis) => header.writeUInt32BE(size, 4 + 4 * axis))
  return Buffer.concat([header, elements])
}

/** Writes the data as IDX files, and the model as `model.json`. */
export function writeTinyData(folder: string): void {
  const { train, test } = tinyData()
  for (const [name, { images: pixels, labels, count }] of [
    ['train', train],
    ['t10k', test],
  ] as const) {
    writeFileSync(join(folder, `${name}-images-idx3-ubyte`), idx([count, SIDE, SIDE], pixels))
    writeFileSync(join(folder, `${name}-labels-idx1-ubyte`), idx([count], Uint8Array.from(labels)))
  }
  writeFileSync(join(folder, 'model.json'), JSON.stringify(TINY_MODEL))
}
