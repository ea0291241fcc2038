/** Classifies pictures. */
import { requireArray, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { scope } from '../core/lifetime.js'
import { noGrad } from '../core/tape.js'
import { createDataset } from '../data/dataset.js'
import { loadImages } from '../data/loader.js'
import { readPng, resizePicture, withChannels, type Picture } from '../data/png.js'
import { imageExtents } from '../models/config.js'
import { softmax } from '../ops/normalization.js'
import { batchTensor, inEvalMode } from './evaluate.js'
import type { TrainedModel } from './load-model.js'

/** A class and how likely the model finds it. */
export interface ClassProbability {
  readonly className: string
  /** 0 to 1. */
  readonly probability: number
}

const BATCH_SIZE = 64

/**
 * Classifies pictures, which are brought to the model's size and channels first.
 *
 * @returns for each picture all classes, the likeliest first
 * @throws (rejects) `ERR_INVALID_ARGUMENT` for a model whose images are neither grey nor red, green and blue
 */
export async function classifyPictures(
  trained: Pick<TrainedModel, 'model' | 'configuration'>,
  pictures: readonly Picture[],
): Promise<ClassProbability[][]> {
  requireObject('the trained model', trained)
  requireArray('the pictures', pictures)
  const { model, configuration } = trained
  if (pictures.length === 0) return []
  const { classNames, normalisation } = configuration
  const { channels = 3 } = configuration.model
  const [height, width] = imageExtents(configuration.model)
  if (channels !== 1 && channels !== 3) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the model takes images of ${channels} channels; pictures have 1 or 3: call model.forward with your own tensors`,
    )
  }
  const images = new Uint8Array(pictures.length * height * width * channels)
  pictures.forEach((picture, i) => {
    const { pixels } = resizePicture(withChannels(picture, channels), height, width)
    images.set(pixels, i * height * width * channels)
  })
  const labels = new Int32Array(pictures.length)
  const dataset = createDataset({ name: 'pictures', images, labels, height, width, channels, classNames })
  const results: ClassProbability[][] = []
  await inEvalMode(model, async () => {
    const loader = loadImages(dataset, {
      batchSize: BATCH_SIZE,
      normalisation,
      shuffle: false,
      worker: false,
    })
    for await (const batch of loader) {
      const output = noGrad(() => scope(() => softmax(model.forward(batchTensor(model, batch, dataset)))))
      const values = await output.data()
      output.dispose()
      for (let row = 0; row < batch.count; row++) {
        results.push(
          classNames
            .map((className, i) => ({ className, probability: values[row * classNames.length + i] }))
            .sort((a, b) => b.probability - a.probability),
        )
      }
    }
  })
  return results
}

/** Classifies PNG files; see {@link classifyPictures}. @throws (rejects) `ERR_FILE_NOT_FOUND`, `ERR_FILE_FORMAT` */
export async function classifyFiles(
  trained: Pick<TrainedModel, 'model' | 'configuration'>,
  paths: readonly string[],
): Promise<ClassProbability[][]> {
  requireArray('the paths', paths)
  const pictures: Picture[] = []
  for (const path of paths) pictures.push(await readPng(path))
  return classifyPictures(trained, pictures)
}
