/** Evaluates the model of a run on its own data set or another one. */
import { setThreads, type Device, type DeviceKind } from '../core/device.js'
import { SoftMoEError } from '../core/errors.js'
import type { WeightFormat } from '../native.js'
import { openRunData } from './data-choice.js'
import { evaluate } from './evaluate.js'
import type { Evaluation } from './evaluation.js'
import { fewShotAccuracy } from './few-shot.js'
import { loadModel } from './load-model.js'

/** How a run is evaluated. */
export interface EvaluateRunOptions {
  /** Folder of a data set, or `embedded`. Default: that of the run. */
  readonly data?: string
  readonly batchSize?: number
  /** Also fits ridge regression on the frozen features of so many images a class. */
  readonly fewShot?: number
  readonly device?: DeviceKind | Device
  readonly threads?: number
  /** See `loadModel`. */
  readonly weights?: WeightFormat
}

/** What {@link evaluateRun} finds. */
export interface RunEvaluation {
  readonly evaluation: Evaluation
  readonly fewShot: { readonly shots: number; readonly accuracy: number } | null
}

/**
 * Evaluates a trained model on a test set.
 *
 * @param path - folder of a run, or a checkpoint file
 * @throws (rejects) what `loadModel` and `openDataset` throw; `ERR_INVALID_ARGUMENT` when the data does not fit the model
 */
export async function evaluateRun(path: string, options: EvaluateRunOptions = {}): Promise<RunEvaluation> {
  const { fewShot: shots, batchSize = 128 } = options
  if (options.threads !== undefined) setThreads(options.threads)
  const { model, configuration } = await loadModel(path, {
    device: options.device ?? 'auto',
    ...(options.weights === undefined ? {} : { weights: options.weights }),
  })
  try {
    const { normalisation, classNames } = configuration
    const data =
      options.data === undefined
        ? await openRunData(configuration.data ?? undefined, configuration.dataset)
        : await openRunData(options.data)
    const { test } = data
    const { imageSize = 224, channels = 3 } = configuration.model
    const wanted = [imageSize].flat().join(' × ')
    if (
      `${test.height} × ${test.width}` !== wanted ||
      test.channels !== channels ||
      test.classNames.length !== classNames.length
    ) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `${test.name} has images of ${test.height} × ${test.width} with ${test.channels} channels in ` +
          `${test.classNames.length} classes, but the model takes ${wanted} with ${channels} in ${classNames.length}; ` +
          'evaluate it on data like what it was trained on',
      )
    }
    const evaluation = await evaluate(model, test, { normalisation, batchSize })
    return {
      evaluation,
      fewShot:
        shots === undefined
          ? null
          : { shots, accuracy: await fewShotAccuracy(model, data, { shots, normalisation, batchSize }) },
    }
  } finally {
    model.dispose()
  }
}
