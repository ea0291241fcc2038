/** A trained model from a run's folder or a checkpoint file. */
import { openDevice, type Device, type DeviceKind } from '../core/device.js'
import { VisionTransformer } from '../models/vision-transformer.js'
import { loadCheckpoint, readCheckpointInfo } from './checkpoint.js'
import { CONFIGURATION_KEY, parseConfiguration, type RunConfiguration } from './configuration.js'
import { findModelFile } from './run-folder.js'

/** A model with the configuration of its run. */
export interface TrainedModel {
  /** In eval mode. */
  readonly model: VisionTransformer
  readonly configuration: RunConfiguration
  /** The file that was loaded. */
  readonly path: string
}

/**
 * Loads a trained model.
 *
 * @param path - folder of a run (its finished model, else its newest checkpoint), or a checkpoint file
 * @throws (rejects) `ERR_FILE_NOT_FOUND`, `ERR_FILE_FORMAT`, `ERR_CHECKPOINT_MISMATCH`; `ERR_NO_DEVICE`
 * @example const { model } = await loadModel('runs/latest')
 */
export async function loadModel(
  path: string,
  options: { readonly device?: Device | DeviceKind } = {},
): Promise<TrainedModel> {
  const { device = 'auto' } = options
  const file = await findModelFile(path)
  const { metadata } = await readCheckpointInfo(file)
  const configuration = parseConfiguration(file, metadata.get(CONFIGURATION_KEY))
  const model = new VisionTransformer(configuration.model, {
    device: typeof device === 'string' ? openDevice(device) : device,
    dtype: configuration.precision,
  })
  try {
    await loadCheckpoint(file, { model })
  } catch (error) {
    model.dispose()
    throw error
  }
  return { model: model.eval(), configuration, path: file }
}
