import { SoftMoEError } from '../core/errors.js'
import type { Module } from '../layers/module.js'
import { SafetensorsFile } from '../training/safetensors.js'

/** What `loadParameters` did. */
export interface LoadedParameters {
  /** Paths that were loaded. */
  readonly loaded: readonly string[]
  /** Tensors of the file (with the prefix) that the model does not have. */
  readonly unused: readonly string[]
}

/** Options of `loadParameters`. */
export interface LoadOptions {
  /** Start of the tensors' names in the file, before the parameter's path. Default none. */
  readonly prefix?: string
  /** Whether every parameter must be in the file. Default true. */
  readonly strict?: boolean
}

function sameElements(a: readonly number[], b: readonly number[]): boolean {
  const significant = (shape: readonly number[]): string => shape.filter((extent) => extent !== 1).join(' ')
  return significant(a) === significant(b)
}

/**
 * Loads parameters from a safetensors file whose tensors bear the parameters' paths, such as an exported Flax tree.
 * Shapes must agree but for axes of extent 1. Nothing is changed unless everything fits.
 *
 * @throws (rejects) `ERR_CHECKPOINT_MISMATCH` with the tensor and both shapes, `ERR_FILE_NOT_FOUND`, `ERR_FILE_FORMAT`
 */
export async function loadParameters(
  model: Module,
  path: string,
  options: LoadOptions = {},
): Promise<LoadedParameters> {
  const { prefix = '', strict = true } = options
  const file = await SafetensorsFile.open(path)
  try {
    const found: string[] = []
    for (const [name, parameter] of model.namedParameters()) {
      const entry = file.tensors.get(prefix + name)
      if (entry === undefined) {
        if (!strict) continue
        throw new SoftMoEError(
          'ERR_CHECKPOINT_MISMATCH',
          `${path} has no tensor ${prefix}${name}, which the model wants with shape [${parameter.shape.join(', ')}]`,
        )
      }
      if (!sameElements(entry.shape, parameter.shape)) {
        throw new SoftMoEError(
          'ERR_CHECKPOINT_MISMATCH',
          `${path}: tensor ${prefix}${name} has shape [${entry.shape.join(', ')}], ` +
            `the model wants [${parameter.shape.join(', ')}]; build the model with the file's configuration`,
        )
      }
      found.push(name)
    }
    const parameters = model.parameters()
    for (const name of found) parameters.get(name)?.set(await file.readFloat32(prefix + name))
    const used = new Set(found.map((name) => prefix + name))
    const unused = [...file.tensors.keys()].filter((name) => name.startsWith(prefix) && !used.has(name))
    return { loaded: found, unused }
  } finally {
    await file.close()
  }
}
