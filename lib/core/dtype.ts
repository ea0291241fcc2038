import { SoftMoEError } from './errors.js'

/** Element types. `bfloat16` reaches JavaScript as `Float32Array` when read and as either when written. */
export type DType = 'float32' | 'bfloat16' | 'int32'

/** The dtypes that gradients exist for. */
export type FloatDType = 'float32' | 'bfloat16'

/** What a tensor can be made from. `Uint16Array` holds raw bfloat16 bits. */
export type TensorData =
  Float32Array | Float64Array | Int32Array | Uint8Array | Uint16Array | readonly number[]

/** Widens raw bfloat16 bits to float32. @throws `ERR_OUT_OF_MEMORY` */
export function float32FromBFloat16(bits: Uint16Array): Float32Array {
  let values: Float32Array
  try {
    values = new Float32Array(bits.length)
  } catch (cause) {
    throw new SoftMoEError(
      'ERR_OUT_OF_MEMORY',
      `JavaScript has no memory for the ${4 * bits.length} bytes of a result; read smaller tensors or free memory first`,
      { cause },
    )
  }
  const words = new Uint32Array(values.buffer)
  for (let i = 0; i < bits.length; i++) words[i] = (bits[i] ?? 0) << 16
  return values
}
