import { mkdir, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { SoftMoEError } from '../core/errors.js'

/**
 * Makes a folder and those above it that are missing; one that is there is left as it is.
 *
 * Not the `recursive` option of Node's `mkdir`: that tries for ever where a file system answers "no such folder" although
 * the folder above exists, as `/proc` does.
 *
 * @throws (rejects) `ERR_FILE_WRITE` for such a file system, else the system's error
 */
export async function makeFolder(path: string): Promise<void> {
  const folder = resolve(path)
  const above = dirname(folder)
  try {
    await mkdir(folder)
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') {
      if (await isFolder(folder)) return
      throw error
    }
    if (await isFolder(above)) {
      throw new SoftMoEError(
        'ERR_FILE_WRITE',
        `${folder} cannot be made: ${above} is on a file system that takes no new folders; choose another folder`,
        { cause: error },
      )
    }
    await makeFolder(above)
    await makeFolder(folder)
  }
}

function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined
}

function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  )
}
