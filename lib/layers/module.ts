import { requireObject } from '../core/arguments.js'
import { type Device, openDevice } from '../core/device.js'
import type { FloatDType } from '../core/dtype.js'
import { SoftMoEError } from '../core/errors.js'
import { scope } from '../core/lifetime.js'
import { RandomSource } from '../core/random-source.js'
import type { Initializer } from './initializers.js'
import { Parameter } from './parameter.js'

export { requireCount, requireRate } from '../core/arguments.js'

/** Where a layer lives and how it computes. */
export interface LayerContext {
  /** Default: `openDevice()`. */
  readonly device?: Device
  /** dtype of activations and weight operands; masters, statistics and sums are float32. Default `float32`. */
  readonly dtype?: FloatDType
  /** Source of initial values, dropout and noise. Default: a new one with seed 0. */
  readonly random?: RandomSource
}

/**
 * A layer or model: named parameters, child modules, and a train/eval mode. Parameter names are paths like those of
 * the papers' Flax code, `Encoder/encoderblock_0/Mlp/Dense_0/kernel`.
 */
export abstract class Module {
  readonly device: Device
  readonly dtype: FloatDType
  readonly random: RandomSource
  readonly #parameters = new Map<string, Parameter>()
  readonly #children = new Map<string, Module>()
  #training = true

  protected constructor(context: LayerContext) {
    requireObject('the context of a layer', context)
    this.device = context.device ?? openDevice()
    this.dtype = context.dtype ?? 'float32'
    this.random = context.random ?? new RandomSource()
    if (this.dtype !== 'float32' && this.dtype !== 'bfloat16') {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `dtype is '${String(this.dtype)}'; wanted 'float32' or 'bfloat16'`,
      )
    }
  }

  /** The context for child modules. */
  protected get context(): Required<LayerContext> {
    return { device: this.device, dtype: this.dtype, random: this.random }
  }

  protected parameter(name: string, shape: readonly number[], initializer: Initializer): Parameter {
    const parameter = new Parameter(initializer(this.device, shape, this.random), this.device)
    this.#parameters.set(name, parameter)
    return parameter
  }

  protected child<M extends Module>(name: string, module: M): M {
    this.#children.set(name, module)
    return module
  }

  /** Runs `compute` and frees its intermediates, unless a tape records (which then frees them). */
  protected run<T>(compute: () => T): T {
    return scope(compute)
  }

  /** Whether dropout and noise are active. */
  get training(): boolean {
    return this.#training
  }

  /** Switches dropout and noise on (default) or off, here and in all children. */
  train(mode = true): this {
    this.#training = mode
    for (const child of this.#children.values()) child.train(mode)
    return this
  }

  /** Switches dropout and noise off. */
  eval(): this {
    return this.train(false)
  }

  /** Child modules by name. */
  children(): ReadonlyMap<string, Module> {
    return this.#children
  }

  /** Every parameter with its path. */
  *namedParameters(prefix = ''): IterableIterator<[string, Parameter]> {
    for (const [name, parameter] of this.#parameters) yield [prefix + name, parameter]
    for (const [name, child] of this.#children) yield* child.namedParameters(`${prefix}${name}/`)
  }

  /** Every parameter by path. */
  parameters(): Map<string, Parameter> {
    return new Map(this.namedParameters())
  }

  /** Number of trained scalars. */
  parameterCount(): number {
    let count = 0
    for (const [, parameter] of this.namedParameters()) count += parameter.size
    return count
  }

  /** Drops all gradients. */
  zeroGrad(): void {
    for (const [, parameter] of this.namedParameters()) parameter.zeroGrad()
  }

  /** Frees all parameters. The module cannot be used afterwards. */
  dispose(): void {
    for (const parameter of this.#parameters.values()) parameter.dispose()
    for (const child of this.#children.values()) child.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
