/** Which data set a run works on. */
import { SoftMoEError } from '../core/errors.js'
import type { DatasetSplit } from '../data/dataset.js'
import { EMBEDDED_DATASET, openDataset } from '../data/open-dataset.js'

/** Stands for the images that ship with the package, where a folder is wanted. */
export const EMBEDDED_DATA = 'embedded'

/**
 * Opens a data set.
 *
 * @param folder - a folder, `embedded`, or undefined for Fashion-MNIST
 * @param name - name of the data set that a run was trained on, if one was
 * @throws (rejects) what `openDataset` throws; `ERR_INVALID_ARGUMENT` when only the name of another data set is known
 */
export async function openRunData(folder: string | undefined, name?: string): Promise<DatasetSplit> {
  if (folder === EMBEDDED_DATA || (folder === undefined && name === EMBEDDED_DATASET)) {
    return openDataset(undefined, { source: 'embedded' })
  }
  const data = await openDataset(folder)
  if (folder === undefined && name !== undefined && data.train.name !== name) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the run was trained on ${name}, which is not installed here and whose folder is not known; give it as --data (data)`,
    )
  }
  return data
}
