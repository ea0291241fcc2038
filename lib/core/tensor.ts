import { native, type TensorHandle } from '../native.js'
import type { Device } from './device.js'
import { float32FromBFloat16, type DType } from './dtype.js'
import { SoftMoEError } from './errors.js'
import { currentCollector } from './lifetime.js'

/**
 * A row-major, contiguous array on a device. Its elements never change, except for parameters, which optimisers
 * update in place. Operations are functions (`add(a, b)`, `linear(x, w)`); they are queued and return at once.
 *
 * Memory is freed by `dispose()`, by the `scope` or tape that made the tensor, or at last by the garbage collector.
 */
export class Tensor {
  /** Brand that works across copies of this package. */
  readonly isTensor = true
  /** The device that holds the elements. */
  readonly device: Device
  /** Whether `backward` leaves a gradient here (set for parameters and for tensors made with `requiresGrad`). */
  readonly requiresGrad: boolean
  /** The gradient that `backward` left, of this tensor's shape; further passes add to it. */
  grad: Tensor | null = null
  /** Where gradients of this leaf are collected: itself, or the float32 parameter that it is a copy or view of. */
  readonly gradientTarget: Tensor
  #handle: TensorHandle | null
  #shape: readonly number[] | null = null
  #dtype: DType | null = null

  /** For the library's own use; users call `device.tensor` and operations. */
  constructor(
    handle: TensorHandle,
    device: Device,
    options: { readonly requiresGrad?: boolean; readonly gradientTarget?: Tensor } = {},
  ) {
    this.#handle = handle
    this.device = device
    this.requiresGrad = options.requiresGrad ?? false
    this.gradientTarget = options.gradientTarget ?? this
    currentCollector()?.add(this)
  }

  /** The addon's handle. @throws `ERR_DISPOSED` */
  get handle(): TensorHandle {
    if (!(#handle in this)) throw noTensor()
    if (this.#handle === null) {
      throw new SoftMoEError(
        'ERR_DISPOSED',
        `this tensor${this.#shape ? ` of shape [${this.#shape.join(', ')}]` : ''} was disposed; ` +
          'keep it until its last use, or return it from scope()',
      )
    }
    return this.#handle
  }

  #describe(): void {
    const [dtype, ...shape] = native.describe(this.handle)
    this.#dtype = dtype
    this.#shape = Object.freeze(shape)
  }

  /** Extents, slowest first. */
  get shape(): readonly number[] {
    if (!(#handle in this)) throw noTensor()
    if (this.#shape === null) this.#describe()
    return this.#shape ?? []
  }

  /** Element type. */
  get dtype(): DType {
    if (!(#handle in this)) throw noTensor()
    if (this.#dtype === null) this.#describe()
    return this.#dtype ?? 'float32'
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((product, extent) => product * extent, 1)
  }

  get disposed(): boolean {
    if (!(#handle in this)) throw noTensor()
    return this.#handle === null
  }

  /**
   * The elements, when the device has computed them. bfloat16 is widened to float32.
   *
   * @throws (rejects) with the fault of the operation that failed on the device, if one did; `ERR_DISPOSED`
   */
  async data(): Promise<Float32Array | Int32Array> {
    const values = await native.download(this.handle)
    return values instanceof Uint16Array ? float32FromBFloat16(values) : values
  }

  /** As `data()`, but blocks the JavaScript thread until the device is there. */
  dataSync(): Float32Array | Int32Array {
    const values = native.downloadSync(this.handle)
    return values instanceof Uint16Array ? float32FromBFloat16(values) : values
  }

  /** The only element of a tensor of one element. @throws `ERR_SHAPE` */
  async item(): Promise<number> {
    requireScalar(this)
    return (await this.data())[0] ?? Number.NaN
  }

  /** As `item()`, but blocks the JavaScript thread. @throws `ERR_SHAPE` */
  itemSync(): number {
    requireScalar(this)
    return this.dataSync()[0] ?? Number.NaN
  }

  /** Frees the memory as soon as queued work no longer needs it. Calling it twice is harmless. */
  dispose(): void {
    if (!(#handle in this)) throw noTensor()
    if (this.#handle === null) return
    native.dispose(this.#handle)
    this.#handle = null
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  toString(): string {
    if (this.disposed) return 'Tensor (disposed)'
    return `Tensor ${this.dtype} [${this.shape.join(', ')}] on ${this.device.toString()}`
  }
}

/** An object that only inherits from a tensor has no elements. */
function noTensor(): SoftMoEError {
  return new SoftMoEError('ERR_INVALID_ARGUMENT', 'an operand is no Tensor; make one with device.tensor')
}

/** Whether a value is a tensor, of this or another copy of the package. */
export function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && (value as { isTensor?: unknown }).isTensor === true
}

/** The handle of an operand. @throws `ERR_INVALID_ARGUMENT` for anything but a tensor, `ERR_DISPOSED` */
export function handleOf(operand: Tensor): TensorHandle {
  if (!isTensor(operand)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `an operand is ${operand === null ? 'null' : typeof operand}; wanted a Tensor (make one with device.tensor)`,
    )
  }
  return operand.handle
}

/** The handle of an optional operand. */
export function optionalHandle(operand: Tensor | null | undefined): TensorHandle | null {
  return operand === null || operand === undefined ? null : handleOf(operand)
}

function requireScalar(tensor: Tensor): void {
  if (tensor.size !== 1) {
    throw new SoftMoEError(
      'ERR_SHAPE',
      `item() of a tensor of shape [${tensor.shape.join(', ')}]; it needs one element: use data()`,
    )
  }
}
