/**
 * Reading and writing safetensors files, tensor by tensor: neither direction holds more than one tensor of its own in
 * memory.
 */
import { requireArray } from '../core/arguments.js'
import { open, type FileHandle } from 'node:fs/promises'
import { endianness } from 'node:os'
import { SoftMoEError } from '../core/errors.js'
import { fileError } from '../data/files.js'
import { writeFileAtomically } from './atomic-file.js'
import {
  formatHeader,
  parseHeader,
  parseHeaderLength,
  tensorBytes,
  type SafetensorsEntry,
  type SafetensorsHeader,
  type SafetensorsShape,
} from './safetensors-header.js'

export type { SafetensorsEntry, SafetensorsShape, SafetensorsType } from './safetensors-header.js'

/** A tensor to be written. */
export interface SafetensorsTensor extends SafetensorsShape {
  /**
   * The elements, little-endian, row-major; or a function that returns them when their turn comes, so that a model
   * larger than memory can be written.
   */
  readonly data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>)
}

/**
 * Writes a safetensors file all or nothing: beside the target, synced, renamed.
 * @param metadata strings kept in the header, under `__metadata__`
 * @throws SoftMoEError `ERR_SHAPE` when a tensor's data does not have the length of its shape, `ERR_INVALID_ARGUMENT` for
 * repeated names, `ERR_FILE_WRITE` when the file cannot be written; the target then keeps its old content
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly SafetensorsTensor[],
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  requireLittleEndian()
  requireArray('the tensors', tensors)
  const { inOrder, header } = formatHeader(tensors, metadata)
  await writeFileAtomically(path, async (sink) => {
    await sink.write(header)
    for (const { name, dtype, shape, data } of inOrder) {
      const view = typeof data === 'function' ? await data() : data
      const wanted = tensorBytes(dtype, shape)
      if (view.byteLength !== wanted) {
        throw new SoftMoEError(
          'ERR_SHAPE',
          `tensor ${JSON.stringify(name)}: ${dtype} [${shape.join(', ')}] takes ${wanted} bytes, ${view.byteLength} given`,
        )
      }
      await sink.write(new Uint8Array(view.buffer, view.byteOffset, view.byteLength))
    }
  })
}

/** A safetensors file open for reading. Its header is checked as a whole when it is opened. */
export class SafetensorsFile {
  readonly path: string
  readonly #file: FileHandle
  readonly #header: SafetensorsHeader
  #closed = false

  private constructor(path: string, file: FileHandle, header: SafetensorsHeader) {
    this.path = path
    this.#file = file
    this.#header = header
  }

  /**
   * Opens a file and checks its header.
   * @throws SoftMoEError `ERR_FILE_NOT_FOUND`, `ERR_FILE_READ`, or `ERR_FILE_FORMAT` when the file is truncated, foreign,
   * has repeated keys, or has tensors that overlap, leave gaps or do not fill it exactly
   */
  static async open(path: string): Promise<SafetensorsFile> {
    requireLittleEndian()
    let file: FileHandle | undefined
    try {
      file = await open(path)
      const { size } = await file.stat()
      const start = new Uint8Array(Math.min(8, size))
      await readFully(file, path, start, 0)
      const json = new Uint8Array(parseHeaderLength(path, start, size))
      await readFully(file, path, json, 8)
      return new SafetensorsFile(path, file, parseHeader(path, json, size))
    } catch (cause) {
      await file?.close()
      throw fileError(path, cause)
    }
  }

  /** Type, shape and place of every tensor, by name. */
  get tensors(): ReadonlyMap<string, SafetensorsEntry> {
    return this.#header.tensors
  }

  /** The strings under `__metadata__`. */
  get metadata(): ReadonlyMap<string, string> {
    return this.#header.metadata
  }

  /**
   * The bytes of one tensor as they stand in the file, in memory aligned for any element type.
   * @throws SoftMoEError `ERR_CHECKPOINT_MISMATCH`, `ERR_DISPOSED` after `close()`, `ERR_FILE_READ`, `ERR_FILE_FORMAT`
   */
  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#closed) {
      throw new SoftMoEError('ERR_DISPOSED', `${this.path} was closed; open it again to read from it`)
    }
    const { begin, end } = this.#entry(name)
    let bytes: Uint8Array<ArrayBuffer>
    try {
      bytes = new Uint8Array(end - begin)
    } catch (cause) {
      throw new SoftMoEError(
        'ERR_OUT_OF_MEMORY',
        `tensor ${JSON.stringify(name)} of ${this.path} needs ${end - begin} bytes, which cannot be allocated`,
        { cause },
      )
    }
    try {
      await readFully(this.#file, this.path, bytes, this.#header.headerBytes + begin)
    } catch (cause) {
      throw fileError(this.path, cause)
    }
    return bytes
  }

  /** One tensor of type F32, F64, F16 or BF16 as float32. F64 is rounded; the others are exact. */
  async readFloat32(name: string): Promise<Float32Array<ArrayBuffer>> {
    const { dtype } = this.#entry(name)
    if (dtype !== 'F32' && dtype !== 'F64' && dtype !== 'F16' && dtype !== 'BF16') {
      throw new SoftMoEError(
        'ERR_DTYPE',
        `tensor ${JSON.stringify(name)} of ${this.path} is ${dtype}, wanted floats`,
      )
    }
    const { buffer } = await this.read(name)
    switch (dtype) {
      case 'F32':
        return new Float32Array(buffer)
      case 'F64':
        return Float32Array.from(new Float64Array(buffer))
      case 'F16':
        return Float32Array.from(new Uint16Array(buffer), float16ToNumber)
      case 'BF16':
        return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer)
    }
  }

  /** Closes the file; its tensors can no longer be read. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#file.close()
  }

  #entry(name: string): SafetensorsEntry {
    const entry = this.#header.tensors.get(name)
    if (!entry) {
      throw new SoftMoEError(
        'ERR_CHECKPOINT_MISMATCH',
        `${this.path} holds no tensor named ${JSON.stringify(name)}`,
      )
    }
    return entry
  }
}

async function readFully(file: FileHandle, path: string, bytes: Uint8Array, position: number): Promise<void> {
  for (let filled = 0; filled < bytes.length;) {
    const wanted = Math.min(bytes.length - filled, 2 ** 30)
    const { bytesRead } = await file.read(bytes, filled, wanted, position + filled)
    if (bytesRead === 0) throw new SoftMoEError('ERR_FILE_FORMAT', `${path} became shorter while it was read`)
    filled += bytesRead
  }
}

/** IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits. */
function float16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >>> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Infinity : Number.NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

function requireLittleEndian(): void {
  if (endianness() === 'LE') return
  throw new SoftMoEError('ERR_FILE_FORMAT', 'safetensors files are little-endian, and this machine is not')
}
