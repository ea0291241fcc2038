/** Reading files with errors that name the file, and unpacking gzip without trusting it. */
import { given } from '../core/arguments.js'
import { createReadStream, type Stats } from 'node:fs'
import { open, readdir, readFile, stat } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import { SoftMoEError } from '../core/errors.js'
import { allocateBytes } from './dataset.js'

/** Says what is wrong with a path, from the system's error. */
export function fileError(file: string, cause: unknown): SoftMoEError {
  if (SoftMoEError.is(cause)) return cause
  const path = typeof file === 'string' ? file : given(file)
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : ''
  if (code === 'ENOTDIR') {
    return new SoftMoEError('ERR_FILE_NOT_FOUND', `${path} or a part of it is no folder; check the path`, {
      cause,
    })
  }
  if (code === 'ENOENT') {
    return new SoftMoEError('ERR_FILE_NOT_FOUND', `${path} does not exist; check the path`, { cause })
  }
  if (code === 'EISDIR') {
    return new SoftMoEError('ERR_FILE_READ', `${path} is a folder where a file is wanted`, { cause })
  }
  const reason = cause instanceof Error ? cause.message : String(cause)
  return new SoftMoEError('ERR_FILE_READ', `${path} cannot be read: ${reason}`, { cause })
}

/** Names in a folder in the order of their UTF-16 units, the same on every system and locale. */
export async function listFolder(path: string): Promise<{ folders: string[]; files: string[] }> {
  const folders: string[] = []
  const files: string[] = []
  try {
    for (const entry of await readdir(path, { withFileTypes: true })) {
      if (entry.name.startsWith('.')) continue
      const kind = entry.isSymbolicLink() ? await target(`${path}/${entry.name}`) : entry
      if (kind.isDirectory()) folders.push(entry.name)
      else if (kind.isFile()) files.push(entry.name)
    }
  } catch (cause) {
    throw fileError(path, cause)
  }
  return { folders: folders.sort(), files: files.sort() }
}

/** What a link points at. */
async function target(link: string): Promise<Stats> {
  try {
    return await stat(link)
  } catch (cause) {
    throw fileError(link, cause)
  }
}

/** One name per line, empty lines dropped; undefined where the file is missing. Lists beyond 1 MiB are refused. */
export async function readNames(path: string): Promise<string[] | undefined> {
  try {
    const { size } = await stat(path)
    if (size > 2 ** 20)
      throw new SoftMoEError(
        'ERR_FILE_FORMAT',
        `${path} has ${size} bytes; a list of names has at most 1 MiB`,
      )
    return (await readFile(path, 'utf8'))
      .split(/\r?\n/)
      .map((line) => line.trim())
      .filter((line) => line !== '')
  } catch (cause) {
    const error = fileError(path, cause)
    if (error.code === 'ERR_FILE_NOT_FOUND') return undefined
    throw error
  }
}

/** A gzip file may unpack to this many times its size … */
const MAX_EXPANSION = 64
/** … or to this many bytes, whichever is more: long runs of one label pack far better than pictures. */
const ALWAYS_ALLOWED_BYTES = 2 ** 20

/**
 * Reads a file whose first bytes state how long it is, packed by gzip or plain.
 *
 * Memory: a plain file is read into one array of its own size. Of a gzip file at most the stated length is unpacked,
 * and a stated length of more than 64 times the file (and more than 1 MiB) is refused before anything is allocated.
 *
 * @param headerBytes how many bytes `statedLength` needs to see
 * @param statedLength the whole unpacked length that the header states, or throws
 */
export async function readStatedLength(
  path: string,
  headerBytes: number,
  statedLength: (header: Uint8Array) => number,
): Promise<Uint8Array> {
  try {
    const { size } = await stat(path)
    const start = await readStart(path, Math.min(size, headerBytes))
    if (start[0] === 0x1f && start[1] === 0x8b) return await gunzip(path, size, headerBytes, statedLength)
    const length = statedLength(start)
    if (size !== length) throw lengthError(path, length, size < length ? `ends after ${size}` : `has ${size}`)
    const bytes = allocateBytes(length, path)
    await readInto(path, bytes)
    return bytes
  } catch (cause) {
    throw fileError(path, cause)
  }
}

function lengthError(path: string, stated: number, found: string): SoftMoEError {
  return new SoftMoEError(
    'ERR_FILE_FORMAT',
    `${path}: the header states ${stated} bytes, but the file ${found}; it is damaged or truncated, fetch it again`,
  )
}

async function readStart(path: string, bytes: number): Promise<Uint8Array> {
  const start = new Uint8Array(bytes)
  const file = await open(path)
  try {
    const { bytesRead } = await file.read(start, 0, bytes, 0)
    return start.subarray(0, bytesRead)
  } finally {
    await file.close()
  }
}

/** Fills `bytes` from the start of a file; throws when the file is shorter. */
export async function readInto(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path)
  try {
    let filled = 0
    while (filled < bytes.length) {
      const { bytesRead } = await file.read(bytes, filled, Math.min(bytes.length - filled, 2 ** 26), filled)
      if (bytesRead === 0) throw lengthError(path, bytes.length, `ends after ${filled}`)
      filled += bytesRead
    }
  } finally {
    await file.close()
  }
}

async function gunzip(
  path: string,
  packedBytes: number,
  headerBytes: number,
  statedLength: (header: Uint8Array) => number,
): Promise<Uint8Array> {
  const header = new Uint8Array(headerBytes)
  let output: Uint8Array | undefined
  let length = 0
  let filled = 0
  const begin = (): Uint8Array => {
    length = statedLength(header.subarray(0, Math.min(filled, headerBytes)))
    if (length > Math.max(MAX_EXPANSION * packedBytes, ALWAYS_ALLOWED_BYTES)) {
      throw new SoftMoEError(
        'ERR_FILE_FORMAT',
        `${path}: ${packedBytes} bytes of gzip state an unpacked length of ${length}, more than ${MAX_EXPANSION} times; ` +
          'unpack the file yourself if that is meant',
      )
    }
    const bytes = allocateBytes(length, path)
    bytes.set(header.subarray(0, Math.min(filled, headerBytes, length)))
    return bytes
  }
  const take = (chunk: Uint8Array): void => {
    let rest = chunk
    if (!output) {
      const wanted = rest.subarray(0, headerBytes - filled)
      header.set(wanted, filled)
      filled += wanted.length
      rest = rest.subarray(wanted.length)
      if (filled < headerBytes) return
      output = begin()
    }
    if (filled + rest.length > length) throw lengthError(path, length, 'unpacks to more')
    output.set(rest, filled)
    filled += rest.length
  }
  // The pipeline reports its own abort when the sink throws; the reason is kept here.
  let refusal: unknown
  try {
    await pipeline(createReadStream(path), createGunzip(), async (source: AsyncIterable<Uint8Array>) => {
      try {
        for await (const chunk of source) take(chunk)
      } catch (error) {
        refusal = error
        throw error
      }
    })
  } catch (aborted) {
    const cause = refusal ?? aborted
    const isDamaged = cause instanceof Error && 'code' in cause && String(cause.code).startsWith('Z_')
    if (!isDamaged) throw cause
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is not valid gzip (${cause.message}); fetch it again`, {
      cause,
    })
  }
  output ??= begin()
  if (filled !== length) throw lengthError(path, length, `unpacks to ${filled}`)
  return output
}
