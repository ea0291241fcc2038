/**
 * Every reason for which this package refuses something. Codes are stable: match on them, never on the text.
 *
 * | code | meaning |
 * | --- | --- |
 * | `ERR_SHAPE` | a tensor or array has the wrong shape or length |
 * | `ERR_DTYPE` | a tensor or array has the wrong element type |
 * | `ERR_DEVICE` | tensors of different devices, or an operation the device lacks |
 * | `ERR_DISPOSED` | the object was disposed |
 * | `ERR_INVALID_ARGUMENT` | an option or argument is missing, unknown or out of range |
 * | `ERR_OUT_OF_MEMORY` | memory of the host or the device is exhausted, or a stated limit would be passed |
 * | `ERR_NOT_RECORDED` | a gradient was asked of something that no tape recorded |
 * | `ERR_BACKWARD_TWICE` | the tape was already consumed by `backward` |
 * | `ERR_NON_FINITE` | a loss, gradient or parameter is NaN or infinite |
 * | `ERR_FROZEN` | something that frozen weights cannot do: gradients, dropout, following a changed parameter |
 * | `ERR_FILE_NOT_FOUND` | a file or folder does not exist |
 * | `ERR_FILE_READ` | a file or folder exists but cannot be read |
 * | `ERR_FILE_FORMAT` | a file is truncated, damaged, or of another format |
 * | `ERR_FILE_WRITE` | a file cannot be written: disk full, no permission, no folder |
 * | `ERR_CHECKPOINT_MISMATCH` | a checkpoint does not fit the model |
 * | `ERR_NO_DEVICE` | the device that was asked for is not usable here |
 * | `ERR_DRIVER` | the GPU driver reported a failure |
 * | `ERR_NO_KERNEL_IMAGE` | this build holds no kernels that the GPU can run |
 * | `ERR_LAUNCH` | a kernel could not be launched or faulted |
 * | `ERR_NATIVE_LOAD` | the native addon could not be loaded |
 * | `ERR_ABORTED` | an `AbortSignal` or an interrupt stopped the work |
 * | `ERR_WORKER` | a worker thread could not be started or died |
 * | `ERR_INTERNAL` | a defect of this package |
 */
export type ErrorCode =
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_DEVICE'
  | 'ERR_DISPOSED'
  | 'ERR_INVALID_ARGUMENT'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_NOT_RECORDED'
  | 'ERR_BACKWARD_TWICE'
  | 'ERR_NON_FINITE'
  | 'ERR_FROZEN'
  | 'ERR_FILE_NOT_FOUND'
  | 'ERR_FILE_READ'
  | 'ERR_FILE_FORMAT'
  | 'ERR_FILE_WRITE'
  | 'ERR_CHECKPOINT_MISMATCH'
  | 'ERR_NO_DEVICE'
  | 'ERR_DRIVER'
  | 'ERR_NO_KERNEL_IMAGE'
  | 'ERR_LAUNCH'
  | 'ERR_NATIVE_LOAD'
  | 'ERR_ABORTED'
  | 'ERR_WORKER'
  | 'ERR_INTERNAL'

/**
 * The one error class of this package. `code` is stable; `message` is a sentence that says what was given, what was
 * wanted and what to do; `cause` holds the error of the system or library underneath, if there was one.
 */
export class SoftMoEError extends Error {
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: { readonly cause?: unknown }) {
    super(message, options)
    this.name = 'SoftMoEError'
    this.code = code
  }

  /**
   * Whether a value is an error of this package. Works across the ESM and CommonJS copies and across worker threads'
   * structured clones, where `instanceof` does not.
   */
  static is(value: unknown): value is SoftMoEError {
    return (
      value instanceof Error &&
      value.name === 'SoftMoEError' &&
      'code' in value &&
      typeof value.code === 'string'
    )
  }
}
