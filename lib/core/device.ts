import { requireObject } from './arguments.js'
import { type DeviceKey, type MemoryUsage, native, type RandomKey } from '../native.js'
import type { DType, TensorData } from './dtype.js'
import { SoftMoEError } from './errors.js'
import { Tensor } from './tensor.js'

/** What kind of device to open; `auto` takes the first usable GPU, else the CPU. */
export type DeviceKind = 'auto' | 'cpu' | 'cuda'

/** Options of a new tensor. */
export interface TensorOptions {
  /** Element type. Default: `int32` for an `Int32Array`, `bfloat16` for a `Uint16Array` (raw bits), else `float32`. */
  readonly dtype?: DType
  /** Whether `backward` leaves a gradient in it. Default false. */
  readonly requiresGrad?: boolean
}

/** Options of tensors that are filled on the device. */
export interface FillOptions {
  /** Default `float32`. */
  readonly dtype?: DType
}

/** Options of random tensors. */
export interface RandomOptions extends FillOptions {
  /** Key of the counter-based generator: the same key gives the same numbers on every device. */
  readonly key: RandomKey
  /** Added to each number. Default 0. */
  readonly mean?: number
  /** Factor of each number. Default 1. */
  readonly scale?: number
}

/**
 * A device is an in-order stream with its own memory. A call on its tensors checks its arguments at once, queues the
 * work and returns; only `await tensor.data()`, `await device.synchronize()` and the `…Sync` calls wait.
 */
export class Device implements DeviceKey {
  readonly kind: 'cpu' | 'cuda'
  readonly index: number
  readonly #description: Readonly<Record<string, unknown>>

  /** For the library's own use; users call `openDevice`. */
  constructor(kind: 'cpu' | 'cuda', index: number) {
    this.kind = kind
    this.index = index
    this.#description = JSON.parse(native.openDevice({ kind, index })) as Record<string, unknown>
  }

  /** What the device is: instruction set and threads, or GPU name and driver. */
  get description(): Readonly<Record<string, unknown>> {
    return this.#description
  }

  /**
   * A tensor with the given elements, copied before this returns.
   *
   * @param data - elements in row-major order
   * @param shape - extents; default `[data.length]`
   * @throws `ERR_SHAPE` if the counts differ, `ERR_OUT_OF_MEMORY`
   */
  tensor(data: TensorData, shape?: readonly number[], options: TensorOptions = {}): Tensor {
    if (!(Array.isArray(data) || ArrayBuffer.isView(data)) || data instanceof DataView) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the elements are ${data === null ? 'null' : typeof data}; wanted a typed array or an array of numbers`,
      )
    }
    requireObject('the options of the tensor', options)
    const extents = shape ?? [data.length]
    const dtype = options.dtype ?? defaultDType(data)
    const [stored, storedType] = storedElements(data, dtype)
    let handle = native.uploadTensor(this, extents, storedType, stored)
    if (storedType !== dtype) {
      const uploaded = handle
      handle = native.cast(uploaded, dtype)
      native.dispose(uploaded)
    }
    return new Tensor(handle, this, { requiresGrad: options.requiresGrad ?? false })
  }

  /** A tensor of one value. */
  full(shape: readonly number[], value: number, options: FillOptions = {}): Tensor {
    requireObject('the options of the tensor', options)
    return new Tensor(native.full(this, shape, options.dtype ?? 'float32', value), this)
  }

  zeros(shape: readonly number[], options: FillOptions = {}): Tensor {
    return this.full(shape, 0, options)
  }

  ones(shape: readonly number[], options: FillOptions = {}): Tensor {
    return this.full(shape, 1, options)
  }

  /** Uniform in [0, 1), times `scale`, plus `mean`. */
  uniform(shape: readonly number[], options: RandomOptions): Tensor {
    return this.#random('uniform', shape, options)
  }

  /** Normal with standard deviation `scale` about `mean`. */
  normal(shape: readonly number[], options: RandomOptions): Tensor {
    return this.#random('normal', shape, options)
  }

  /** A normal distribution cut off at two standard deviations, times `scale`, plus `mean`. */
  truncatedNormal(shape: readonly number[], options: RandomOptions): Tensor {
    return this.#random('truncated-normal', shape, options)
  }

  #random(
    distribution: 'uniform' | 'normal' | 'truncated-normal',
    shape: readonly number[],
    options: RandomOptions,
  ): Tensor {
    requireObject('the options of random tensors', options)
    const { dtype = 'float32', mean = 0, scale = 1, key } = options
    return new Tensor(native.random(this, shape, dtype, distribution, mean, scale, key), this)
  }

  /** Resolves when all work queued so far has ended. Rejects with the fault of an operation that failed. */
  synchronize(): Promise<void> {
    return native.synchronize(this)
  }

  /** As `synchronize()`, but blocks the JavaScript thread. */
  synchronizeSync(): void {
    native.synchronizeSync(this)
  }

  /** Live tensors and bytes. */
  memoryUsage(): MemoryUsage {
    return native.memoryUsage(this)
  }

  /** Gives memory that is kept for reuse back to the system. */
  emptyCache(): void {
    native.emptyCache(this)
  }

  toString(): string {
    return this.kind === 'cpu' ? 'cpu' : `cuda:${this.index}`
  }
}

function defaultDType(data: TensorData): DType {
  if (data instanceof Int32Array) return 'int32'
  if (data instanceof Uint16Array) return 'bfloat16'
  return 'float32'
}

/** The elements as the addon takes them, and the dtype that those are. */
function storedElements(data: TensorData, dtype: DType): [NodeJS.TypedArray, DType] {
  if (data instanceof Uint16Array) return [data, 'bfloat16']
  if (data instanceof Float32Array) return [data, 'float32']
  if (data instanceof Int32Array) return [data, 'int32']
  try {
    return dtype === 'int32' ? [Int32Array.from(data), 'int32'] : [Float32Array.from(data), 'float32']
  } catch (cause) {
    // BigInt and symbols; what a getter throws is the caller's.
    if (!(cause instanceof TypeError)) throw cause
    throw new SoftMoEError('ERR_DTYPE', 'the elements are no numbers; wanted numbers', { cause })
  }
}

const devices = new Map<string, Device>()

/**
 * Opens a device; the same arguments give the same device.
 *
 * @param kind - default `auto`
 * @param index - which GPU, default 0
 * @throws `ERR_NO_DEVICE`, `ERR_DRIVER` if a GPU was asked for and is not usable; it never falls back silently
 */
export function openDevice(kind: DeviceKind = 'auto', index = 0): Device {
  if (kind === 'auto') {
    try {
      return openDevice('cuda', index)
    } catch (error) {
      if (!SoftMoEError.is(error)) throw error
      return openDevice('cpu')
    }
  }
  if (kind !== 'cpu' && kind !== 'cuda') {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the device is '${String(kind)}'; wanted 'auto', 'cpu' or 'cuda'`,
    )
  }
  const key = `${kind}:${index}`
  let device = devices.get(key)
  if (device === undefined) {
    device = new Device(kind, index)
    devices.set(key, device)
  }
  return device
}

/** Sets how many threads CPU kernels use, in this process. Results do not depend on it. */
export function setThreads(threads: number): void {
  native.setThreads(threads)
}
