import type { Device } from '../core/device.js'
import type { FloatDType, TensorData } from '../core/dtype.js'
import { SoftMoEError } from '../core/errors.js'
import { withCollector } from '../core/lifetime.js'
import { Tensor } from '../core/tensor.js'
import { native, type TensorHandle } from '../native.js'

/**
 * A trained tensor: a float32 master and, when a layer computes in bfloat16, a bfloat16 copy that the optimiser
 * writes in the same pass.
 */
export class Parameter {
  readonly #value: Tensor
  readonly #shape: readonly number[]
  #released = false
  #version = 0
  #copy: Tensor | null = null
  readonly #operands = new Map<string, Tensor>()

  /** Takes ownership of `initial` (float32). */
  constructor(initial: TensorHandle, device: Device) {
    this.#value = withCollector(null, () => new Tensor(initial, device, { requiresGrad: true }))
    this.#shape = this.#value.shape
  }

  /**
   * The float32 master, updated in place. Its `grad` holds the gradient.
   *
   * @throws `ERR_FROZEN` if it was dropped by freezing with `keepMasters: false`
   */
  get value(): Tensor {
    if (this.#released) {
      throw new SoftMoEError(
        'ERR_FROZEN',
        `the float32 master of this parameter of shape [${this.#shape.join(', ')}] was dropped when it was frozen ` +
          'with keepMasters: false; load the model again to train, change or save it',
      )
    }
    return this.#value
  }

  get shape(): readonly number[] {
    return this.#shape
  }

  /** Number of elements. */
  get size(): number {
    return this.#shape.reduce((product, extent) => product * extent, 1)
  }

  get device(): Device {
    return this.#value.device
  }

  /** Grows whenever the elements are replaced or updated. */
  get version(): number {
    return this.#version
  }

  /** The gradient that `backward` left, float32, or null. */
  get grad(): Tensor | null {
    return this.#value.grad
  }

  /** The bfloat16 copy, if a layer asked for one. */
  get copy(): Tensor | null {
    return this.#copy
  }

  /** The tensor that operations take: in `dtype`, under `shape` (default: the parameter's). Gradients reach `value`. */
  operand(dtype: FloatDType = 'float32', shape?: readonly number[]): Tensor {
    const { value } = this
    if (dtype === 'float32' && shape === undefined) return value
    const key = `${dtype} ${shape?.join(' ') ?? ''}`
    let operand = this.#operands.get(key)
    if (operand === undefined) {
      operand = withCollector(null, () => this.#makeOperand(dtype, shape))
      this.#operands.set(key, operand)
    }
    return operand
  }

  #makeOperand(dtype: FloatDType, shape: readonly number[] | undefined): Tensor {
    if (dtype === 'bfloat16')
      this.#copy ??= new Tensor(native.cast(this.value.handle, 'bfloat16'), this.device)
    const source = dtype === 'bfloat16' && this.#copy !== null ? this.#copy : this.value
    return new Tensor(native.reshape(source.handle, shape ?? this.shape), this.device, {
      requiresGrad: true,
      gradientTarget: this.value,
    })
  }

  /** Replaces the elements. @throws `ERR_SHAPE` if the counts differ */
  set(values: TensorData): void {
    const { size, value } = this
    if (values.length !== size) {
      throw new SoftMoEError(
        'ERR_SHAPE',
        `${values.length} values for a parameter of shape [${this.shape.join(', ')}], which has ${size} elements`,
      )
    }
    const source = withCollector(null, () => this.device.tensor(values, this.shape, { dtype: 'float32' }))
    native.copyInto(value.handle, source.handle)
    source.dispose()
    this.refreshCopy()
  }

  /** Writes the bfloat16 copy anew after the master was changed from outside an optimiser. */
  refreshCopy(): void {
    this.markChanged()
    if (this.#copy !== null) native.copyInto(this.#copy.handle, this.value.handle)
  }

  /** Says that the elements were changed in place, so that what was made from them is no longer theirs. */
  markChanged(): void {
    this.#version += 1
  }

  /** Drops the gradient. */
  zeroGrad(): void {
    this.#value.grad?.dispose()
    this.#value.grad = null
  }

  /** Frees the elements of a frozen parameter; asking for its value is refused from then on. */
  release(): void {
    this.dispose()
    this.#released = true
  }

  dispose(): void {
    this.zeroGrad()
    for (const operand of this.#operands.values()) operand.dispose()
    this.#copy?.dispose()
    this.#value.dispose()
  }
}
