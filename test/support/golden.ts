// Reads the golden files under test/golden: numbers made by the papers' own code in float64.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { fromArray, type Ref } from '../reference/array.js'

export const LAYER_GOLDENS = [
  'aux_losses',
  'capacity',
  'expert_choice',
  'gelu',
  'ksparse',
  'optimizer',
  'sinkhorn',
  'soft_bigscale',
  'soft_p1',
  'soft_small',
  'token_choice',
  'vmoe_layer',
] as const

export const MODEL_GOLDENS = [
  'vit_dense',
  'vit_dense_map',
  'vit_experts_choice',
  'vit_soft',
  'vit_soft_p1',
  'vit_tokens_choice',
] as const

/** The file's absolute path: `goldenPath('layers/soft_small.json')`. */
export function goldenPath(name: string): string {
  return fileURLToPath(new URL(`../golden/${name}`, import.meta.url))
}

function reviveArrays(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('shape' in value) || !('data' in value)) return value
  return fromArray(value.data as number[], value.shape as number[])
}

/** The content of layers/NAME.json, every `{shape, data}` turned into an array. */
export function readLayerGolden(name: (typeof LAYER_GOLDENS)[number]): unknown {
  return JSON.parse(readFileSync(goldenPath(`layers/${name}.json`), 'utf8'), reviveArrays)
}

export interface SafetensorsFile {
  readonly metadata: Readonly<Record<string, string>>
  /** Values of every dtype widened to float64. */
  readonly tensors: ReadonlyMap<string, Ref>
  readonly dtypes: ReadonlyMap<string, string>
}

interface TensorEntry {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data_offsets: readonly [number, number]
}

type ElementReader = (view: DataView, offset: number) => number

const ELEMENTS: Readonly<Record<string, readonly [bytes: number, read: ElementReader]>> = {
  F64: [8, (view, offset) => view.getFloat64(offset, true)],
  F32: [4, (view, offset) => view.getFloat32(offset, true)],
  I32: [4, (view, offset) => view.getInt32(offset, true)],
  BF16: [
    2,
    (view, offset) => new Float32Array(new Uint32Array([view.getUint16(offset, true) << 16]).buffer)[0],
  ],
}

/**
 * A safetensors file: 8 bytes little-endian header length, a JSON header, the tensors' bytes. Written for the
 * tests alone, so that the library's own reader is checked against another one.
 */
export function parseSafetensors(bytes: Uint8Array): SafetensorsFile {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const headerLength = Number(view.getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerLength))) as Record<
    string,
    unknown
  >
  const tensors = new Map<string, Ref>()
  const dtypes = new Map<string, string>()
  let metadata: Record<string, string> = {}
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') {
      metadata = value as Record<string, string>
      continue
    }
    const entry = value as TensorEntry
    if (!(entry.dtype in ELEMENTS))
      throw new Error(`tensor ${name} has dtype ${entry.dtype}, which this reader lacks`)
    const [size, read] = ELEMENTS[entry.dtype]
    const [begin, end] = entry.data_offsets
    const count = (end - begin) / size
    const values = Float64Array.from({ length: count }, (_, i) =>
      read(view, 8 + headerLength + begin + i * size),
    )
    tensors.set(name, fromArray(values, entry.shape))
    dtypes.set(name, entry.dtype)
  }
  return { metadata, tensors, dtypes }
}

export function readSafetensors(path: string): SafetensorsFile {
  return parseSafetensors(readFileSync(path))
}

/** The content of models/NAME.safetensors. */
export function readModelGolden(name: (typeof MODEL_GOLDENS)[number]): SafetensorsFile {
  return readSafetensors(goldenPath(`models/${name}.safetensors`))
}
