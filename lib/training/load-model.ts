/** A trained model from a run's folder or a checkpoint file. */
import { openDevice, type Device, type DeviceKind } from '../core/device.js'
import type { WeightFormat } from '../native.js'
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

/** How a trained model is loaded. */
export interface LoadModelOptions {
  /** Default `auto`. */
  readonly device?: Device | DeviceKind
  /**
   * Freezes the weights of experts and MLPs in this format and drops their float32 parameters: for serving on the CPU;
   * see `VisionTransformer.freezeExperts`. Default: as they were trained.
   */
  readonly weights?: WeightFormat
}

/**
 * Loads a trained model.
 *
 * @param path - folder of a run (its finished model, else its newest checkpoint), or a checkpoint file
 * @throws (rejects) `ERR_FILE_NOT_FOUND`, `ERR_FILE_FORMAT`, `ERR_CHECKPOINT_MISMATCH`; `ERR_NO_DEVICE`,
 *   `ERR_DEVICE` for `weights` on a device other than the CPU
 * @example const { model } = await loadModel('runs/latest')
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<TrainedModel> {
  const { device = 'auto', weights } = options
  const file = await findModelFile(path)
  const { metadata } = await readCheckpointInfo(file)
  const configuration = parseConfiguration(file, metadata.get(CONFIGURATION_KEY))
  const model = new VisionTransformer(configuration.model, {
    device: typeof device === 'string' ? openDevice(device) : device,
    dtype: configuration.precision,
  })
  try {
    await loadCheckpoint(file, { model })
    if (weights !== undefined) model.freezeExperts({ format: weights, keepMasters: false })
  } catch (error) {
    model.dispose()
    throw error
  }
  return { model: model.eval(), configuration, path: file }
}
