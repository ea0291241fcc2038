/**
 * Files that are either complete or not there. The content goes to a temporary file beside the target, is synced to the
 * disk and renamed over the target, and the folder is synced: whoever opens the name sees the old file or the new one,
 * also after a crash or a power failure.
 */
import { requireString } from '../core/arguments.js'
import { randomUUID } from 'node:crypto'
import { lstat, open, readdir, rename, rm } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { SoftMoEError } from '../core/errors.js'

/** Takes the bytes of a file in order. */
export interface FileSink {
  write(bytes: Uint8Array): Promise<void>
}

const REASONS = new Map([
  ['ENOSPC', 'the disk is full; free space or choose another folder'],
  ['EDQUOT', 'the disk quota is used up; free space or choose another folder'],
  ['EFBIG', 'the file system does not take files that large; choose another folder'],
  ['EACCES', 'permission is denied; choose a folder you may write to'],
  ['EPERM', 'permission is denied; choose a folder you may write to'],
  ['EROFS', 'the file system is read-only; choose another folder'],
  ['ENOENT', 'its folder does not exist; create it first'],
  ['ENOTDIR', 'a part of its path is no folder; check the path'],
  ['EISDIR', 'a folder of that name is in the way; choose another name'],
])

/** Says why a file could not be written, from the system's error. */
export function writeError(path: string, cause: unknown): SoftMoEError {
  if (SoftMoEError.is(cause)) return cause
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : ''
  const reason = REASONS.get(code) ?? (cause instanceof Error ? cause.message : String(cause))
  return new SoftMoEError('ERR_FILE_WRITE', `${path} cannot be written: ${reason}`, { cause })
}

/**
 * Writes a file all or nothing; creates or replaces it.
 * @param produce writes the content; when it throws, the target keeps its old content
 * @throws SoftMoEError `ERR_FILE_WRITE` when the folder is missing or not writable, or the disk is full
 */
export async function writeFileAtomically(
  path: string,
  produce: (sink: FileSink) => Promise<void>,
): Promise<void> {
  requireString('the path', path)
  const folder = dirname(resolve(path))
  const temporary = join(folder, `${temporaryPrefix(path)}${process.pid}-${randomUUID().slice(0, 8)}.tmp`)
  try {
    await requireReplaceable(path)
    await removeLeftovers(folder, path)
    const file = await open(temporary, 'wx')
    try {
      await produce({
        async write(bytes) {
          for (let done = 0; done < bytes.length;) {
            done += (await file.write(bytes, done, bytes.length - done)).bytesWritten
          }
        },
      })
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(temporary, path)
    await syncFolder(folder)
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined)
    throw writeError(path, cause)
  }
}

/** A device or a pipe would be gone where a file is renamed over it. */
async function requireReplaceable(path: string): Promise<void> {
  const found = await lstat(path).catch(() => null)
  if (found === null || found.isFile() || found.isDirectory() || found.isSymbolicLink()) return
  throw new SoftMoEError(
    'ERR_FILE_WRITE',
    `${path} cannot be written: a device, pipe or socket of that name is in the way; choose another name`,
  )
}

/** {@link writeFileAtomically} for text that is at hand. */
export function writeTextAtomically(path: string, text: string): Promise<void> {
  return writeFileAtomically(path, (sink) => sink.write(Buffer.from(text)))
}

/** The host's name is part of it: only a process of the same host can tell whether the writer still runs. */
function temporaryPrefix(path: string): string {
  return `.${basename(path)}.${hostname().replace(/[^\w-]/g, '_')}.`
}

/** A writer that was killed leaves its temporary file; the next one to write the same name removes it. */
async function removeLeftovers(folder: string, path: string): Promise<void> {
  const prefix = temporaryPrefix(path)
  for (const name of await readdir(folder)) {
    if (!name.startsWith(prefix) || !name.endsWith('.tmp')) continue
    const writer = Number.parseInt(name.slice(prefix.length), 10)
    if (writer > 0 && !isRunning(writer)) await rm(join(folder, name), { force: true })
  }
}

function isRunning(processId: number): boolean {
  try {
    process.kill(processId, 0)
    return true
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

async function syncFolder(folder: string): Promise<void> {
  // Windows cannot open folders; there the rename itself is durable.
  if (process.platform === 'win32') return
  const handle = await open(folder)
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
