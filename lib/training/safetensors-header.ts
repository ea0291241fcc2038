/**
 * The header of a safetensors file: 8 bytes of little-endian length, then JSON that names each tensor's type, shape and
 * place, then the tensors' bytes without gaps. Everything is checked before a byte of a tensor is read.
 * https://github.com/huggingface/safetensors#format
 */
import { SoftMoEError } from '../core/errors.js'

/** Bytes of one element of each type. */
const ELEMENT_BYTES = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const

/** An element type of the format. */
export type SafetensorsType = keyof typeof ELEMENT_BYTES

/** Type, shape and place of one tensor. */
export interface SafetensorsEntry {
  readonly dtype: SafetensorsType
  readonly shape: readonly number[]
  /** First byte, counted from the end of the header. */
  readonly begin: number
  /** The byte after the last. */
  readonly end: number
}

/** What a header says. */
export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
  readonly metadata: ReadonlyMap<string, string>
  /** Bytes before the first tensor, the 8 of the length included. */
  readonly headerBytes: number
}

/** The reference implementation's limit. */
const MAX_HEADER_BYTES = 100_000_000
const METADATA_KEY = '__metadata__'

/** Bytes that a tensor of this type and shape takes. */
export function tensorBytes(dtype: SafetensorsType, shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, ELEMENT_BYTES[dtype])
}

function refuse(path: string, what: string, cause?: unknown): never {
  throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is no valid safetensors file: ${what}`, { cause })
}

/**
 * The length of the JSON text from the first 8 bytes of a file.
 * @throws SoftMoEError `ERR_FILE_FORMAT` when it is beyond the file or beyond 100,000,000 bytes
 */
export function parseHeaderLength(path: string, start: Uint8Array, fileBytes: number): number {
  if (start.length < 8) refuse(path, `it has ${fileBytes} bytes, and the header's length alone takes 8`)
  const view = new DataView(start.buffer, start.byteOffset, start.length)
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32
  if (length > fileBytes - 8) {
    refuse(
      path,
      `it states a header of ${length} bytes, but has ${fileBytes}; it is truncated or another format`,
    )
  }
  if (length > MAX_HEADER_BYTES) {
    refuse(path, `it states a header of ${length} bytes; ${MAX_HEADER_BYTES} are the limit`)
  }
  return length
}

/**
 * Checks and reads the JSON text of a header.
 * @throws SoftMoEError `ERR_FILE_FORMAT` for anything but a set of tensors that fill the file without gap or overlap
 */
export function parseHeader(path: string, json: Uint8Array, fileBytes: number): SafetensorsHeader {
  let text: string
  let content: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json)
    content = JSON.parse(text)
  } catch (cause) {
    refuse(path, 'its header is not JSON', cause)
  }
  if (!text.startsWith('{') || !isObject(content)) refuse(path, 'its header is not a JSON object')
  const repeated = findRepeatedKey(text)
  if (repeated !== undefined) refuse(path, `its header has the key ${JSON.stringify(repeated)} twice`)
  const tensors = new Map<string, SafetensorsEntry>()
  let metadata = new Map<string, string>()
  for (const [name, value] of Object.entries(content)) {
    if (name === METADATA_KEY) metadata = parseMetadata(path, value)
    else tensors.set(name, parseEntry(path, name, value))
  }
  const headerBytes = 8 + json.length
  checkPlaces(path, tensors, fileBytes - headerBytes)
  return { tensors, metadata, headerBytes }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parseMetadata(path: string, value: unknown): Map<string, string> {
  if (!isObject(value)) refuse(path, `${METADATA_KEY} is not an object`)
  const metadata = new Map<string, string>()
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') refuse(path, `metadata ${JSON.stringify(key)} is not a string`)
    metadata.set(key, text)
  }
  return metadata
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function parseEntry(path: string, name: string, value: unknown): SafetensorsEntry {
  const tensor = `tensor ${JSON.stringify(name)}`
  if (!isObject(value)) refuse(path, `${tensor} is not described by an object`)
  const { dtype, shape, data_offsets: offsets, ...others } = value
  const unknownFields = Object.keys(others)
  if (unknownFields.length > 0)
    refuse(path, `${tensor} has the unknown field ${JSON.stringify(unknownFields[0])}`)
  if (typeof dtype !== 'string' || !Object.hasOwn(ELEMENT_BYTES, dtype)) {
    refuse(path, `${tensor} has the unknown type ${JSON.stringify(dtype)}`)
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    refuse(path, `${tensor} has the impossible shape ${JSON.stringify(shape)}`)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    refuse(path, `${tensor} has the impossible offsets ${JSON.stringify(offsets)}`)
  }
  const [begin, end] = offsets
  const bytes = tensorBytes(dtype as SafetensorsType, shape)
  if (end - begin !== bytes) {
    refuse(
      path,
      `${tensor}, ${dtype} [${shape.join(', ')}], takes ${bytes} bytes, but its offsets span ${end - begin}`,
    )
  }
  return { dtype: dtype as SafetensorsType, shape, begin, end }
}

function checkPlaces(path: string, tensors: ReadonlyMap<string, SafetensorsEntry>, dataBytes: number): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  let filled = 0
  for (const [name, { begin, end }] of inOrder) {
    if (begin !== filled) {
      const problem = begin < filled ? 'overlaps the tensor before it' : 'leaves a gap before it'
      refuse(path, `tensor ${JSON.stringify(name)} ${problem}: it begins at byte ${begin}, wanted ${filled}`)
    }
    filled = end
  }
  if (filled !== dataBytes) {
    const problem = filled > dataBytes ? 'it is truncated' : 'it has bytes that belong to no tensor'
    refuse(path, `${problem}: its tensors take ${filled} bytes, ${dataBytes} follow the header`)
  }
}

/** A key that occurs twice in one object of valid JSON; `JSON.parse` would silently keep the last. */
function findRepeatedKey(json: string): string | undefined {
  const keysOfOpenObjects: (Set<string> | undefined)[] = []
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]]/g
  const colon = /[ \t\r\n]*:/y
  for (let match = token.exec(json); match; match = token.exec(json)) {
    const [text] = match
    if (text === '{') keysOfOpenObjects.push(new Set())
    else if (text === '[') keysOfOpenObjects.push(undefined)
    else if (text === '}' || text === ']') keysOfOpenObjects.pop()
    else {
      const keys = keysOfOpenObjects.at(-1)
      colon.lastIndex = token.lastIndex
      if (!keys || !colon.test(json)) continue
      const key = JSON.parse(text) as string
      if (keys.has(key)) return key
      keys.add(key)
    }
  }
  return undefined
}

/** What is needed to describe a tensor in a header. */
export interface SafetensorsShape {
  readonly name: string
  readonly dtype: SafetensorsType
  readonly shape: readonly number[]
}

/**
 * Orders tensors as they are written, widest elements first and then by name, so that each is aligned to its element and
 * equal content gives equal files; and makes the bytes before them.
 * @throws SoftMoEError `ERR_INVALID_ARGUMENT` for repeated or reserved names
 */
export function formatHeader<T extends SafetensorsShape>(
  tensors: readonly T[],
  metadata: Readonly<Record<string, string>>,
): { readonly inOrder: readonly T[]; readonly header: Uint8Array } {
  const inOrder = [...tensors].sort(
    (a, b) => ELEMENT_BYTES[b.dtype] - ELEMENT_BYTES[a.dtype] || (a.name < b.name ? -1 : 1),
  )
  const entries = new Map<string, unknown>()
  if (Object.keys(metadata).length > 0) entries.set(METADATA_KEY, metadata)
  let begin = 0
  for (const { name, dtype, shape } of inOrder) {
    if (entries.has(name) || name === METADATA_KEY) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the tensor name ${JSON.stringify(name)} is given twice or reserved; names must differ`,
      )
    }
    const end = begin + tensorBytes(dtype, shape)
    entries.set(name, { dtype, shape, data_offsets: [begin, end] })
    begin = end
  }
  // Joined by hand: as keys of an object, names like "1" would move to the front.
  const members = [...entries].map(([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`)
  const json = Buffer.from(`{${members.join(',')}}`)
  if (json.length > MAX_HEADER_BYTES) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `names and metadata make a header of ${json.length} bytes; ${MAX_HEADER_BYTES} are the limit of the format`,
    )
  }
  const padded = Math.ceil(json.length / 8) * 8
  const header = Buffer.alloc(8 + padded, ' ')
  header.writeBigUInt64LE(BigInt(padded), 0)
  json.copy(header, 8)
  return { inOrder, header }
}
