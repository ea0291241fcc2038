/** Element types. `bfloat16` reaches JavaScript as `Float32Array` when read and as either when written. */
export type DType = 'float32' | 'bfloat16' | 'int32'

/** The dtypes that gradients exist for. */
export type FloatDType = 'float32' | 'bfloat16'

/** What a tensor can be made from. `Uint16Array` holds raw bfloat16 bits. */
export type TensorData =
  Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array | readonly number[]

/** Widens raw bfloat16 bits to float32. */
export function float32FromBFloat16(bits: Uint16Array): Float32Array {
  const values = new Float32Array(bits.length)
  const words = new Uint32Array(values.buffer)
  for (let i = 0; i < bits.length; i++) words[i] = (bits[i] ?? 0) << 16
  return values
}
