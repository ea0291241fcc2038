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
  if ((await makeOne(folder)) === null) return
  if (!(await isFolder(above))) await makeFolder(above)
  // Once more even if the folder above is there: another call may have made it in between.
  const missing = await makeOne(folder)
  if (missing === null) return
  if (!(await isFolder(above))) throw missing
  throw new SoftMoEError(
    'ERR_FILE_WRITE',
    `${folder} cannot be made: ${above} is on a file system that takes no new folders; choose another folder`,
    { cause: missing },
  )
}

/** Makes one folder, unless it is there; the error, where the answer is that the folder above is not. */
async function makeOne(folder: string): Promise<Error | null> {
  try {
    await mkdir(folder)
    return null
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return error as Error
    if (await isFolder(folder)) return null
    throw error
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
