/** Files that ship with the package. */
import { join } from 'node:path'
import packageRoot from '../package-root.cjs'
import { SoftMoEError } from './errors.js'

/**
 * The absolute path of a file of the package, from its path inside the package.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND` when the package was bundled into a single file and has no folder
 */
export function packageFile(...parts: readonly string[]): string {
  if (packageRoot === null) {
    throw new SoftMoEError(
      'ERR_FILE_NOT_FOUND',
      `${parts.join('/')} ships with the package softmoe, but its folder is not found; keep softmoe external to your bundle`,
    )
  }
  return join(packageRoot, ...parts)
}
