import { given, requireFunction, requireObject } from '../core/arguments.js'
import type { Device } from '../core/device.js'
import { SoftMoEError } from '../core/errors.js'
import { withCollector } from '../core/lifetime.js'
import { Tape } from '../core/tape.js'
import { Tensor } from '../core/tensor.js'
import type { Parameter } from '../layers/parameter.js'
import { native, type TensorHandle } from '../native.js'
import { type ByName, valueByName } from './rules.js'
import { constantRate, type Schedule } from './schedules.js'

/** Options that every optimiser has. */
export interface OptimizerOptions {
  /** Rate of each step: a number or a schedule. */
  readonly learningRate: number | Schedule
  /** Factor of the learning rate by parameter path. Default 1. */
  readonly learningRateScale?: ByName
  /** Weight decay by parameter path. Default 0. */
  readonly weightDecay?: ByName
  /** Gradients are scaled so that their global norm is at most this. Default 0: no clipping. */
  readonly clipNorm?: number
}

/** What one step reports. */
export interface StepResult {
  /** The loss that the step function returned. */
  readonly loss: number
  /** Global norm of the gradients before clipping. */
  readonly gradientNorm: number
  /** The rate that was used. */
  readonly learningRate: number
}

interface Entry {
  readonly path: string
  readonly parameter: Parameter
  readonly state: readonly Tensor[]
  readonly rateScale: number
  readonly weightDecay: number
}

/** What a subclass's native step gets. */
export interface StepOperands {
  readonly values: readonly TensorHandle[]
  readonly gradients: readonly TensorHandle[]
  readonly state: readonly (readonly TensorHandle[])[]
  readonly copies: readonly (TensorHandle | null)[]
  readonly learningRates: readonly number[]
  readonly weightDecays: readonly number[]
  readonly gradientScale: TensorHandle
  /** Steps count from 1. */
  readonly step: number
}

/** Updates parameters in place from their gradients, all of them in one native pass. */
export abstract class Optimizer {
  readonly #entries: readonly Entry[]
  readonly #schedule: Schedule
  readonly #clipNorm: number
  readonly #device: Device
  #steps = 0

  /** @param stateNames - names of the float32 state tensors that each parameter has */
  protected constructor(
    parameters: ReadonlyMap<string, Parameter>,
    options: OptimizerOptions,
    readonly stateNames: readonly string[],
  ) {
    requireObject('the options of the optimiser', options)
    if (!((parameters as unknown) instanceof Map)) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the parameters are ${given(parameters)}; wanted a Map: give model.parameters()`,
      )
    }
    const { learningRate, learningRateScale = 1, weightDecay = 0, clipNorm = 0 } = options
    this.#schedule = typeof learningRate === 'number' ? constantRate(learningRate) : learningRate
    requireFunction('learningRate, unless it is a number,', this.#schedule)
    if (!(Number.isFinite(clipNorm) && clipNorm >= 0)) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `clipNorm is ${given(clipNorm)}; wanted a finite number of 0 or more`,
      )
    }
    this.#clipNorm = clipNorm
    const [first] = parameters.values()
    if (first === undefined) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        'the optimiser got no parameters; give model.parameters()',
      )
    }
    this.#device = first.device
    this.#entries = withCollector(null, () =>
      [...parameters].map(([path, parameter]) => ({
        path,
        parameter,
        state: stateNames.map(() => parameter.device.zeros(parameter.shape)),
        rateScale: valueByName('learningRateScale', learningRateScale, path, 1),
        weightDecay: valueByName('weightDecay', weightDecay, path, 0),
      })),
    )
  }

  /** Steps done. */
  get steps(): number {
    return this.#steps
  }

  /** The rate of the next step. */
  get learningRate(): number {
    return this.#schedule(this.#steps)
  }

  /** The native pass. */
  protected abstract apply(operands: StepOperands): void

  /**
   * Records `compute`, differentiates its loss and adds the gradients to the parameters, without updating them: call
   * it for each micro-batch, then `update()`.
   *
   * @param factor - of the gradients; 1 / micro-batches gives their mean
   * @returns the loss, which the caller disposes of
   */
  accumulate(compute: () => Tensor, factor = 1): Tensor {
    const tape = new Tape()
    const loss = tape.record(compute)
    try {
      tape.backward(loss, factor)
    } catch (error) {
      if ((loss as unknown) instanceof Tensor) loss.dispose()
      throw error
    }
    return loss
  }

  /**
   * Updates every parameter from its gradient and drops the gradients. Parameters without one stay as they are.
   *
   * @returns the global norm of the gradients, a float32 tensor of shape `[]` that the caller disposes of
   * @throws `ERR_NOT_RECORDED` if no parameter has a gradient
   */
  update(): Tensor {
    const ready = this.#entries.flatMap((entry) => {
      const gradient = entry.parameter.grad
      return gradient === null ? [] : [{ ...entry, gradient }]
    })
    if (ready.length === 0) {
      throw new SoftMoEError('ERR_NOT_RECORDED', 'no parameter has a gradient; call backward before update()')
    }
    const learningRate = this.#schedule(this.#steps)
    if (!(Number.isFinite(learningRate) && learningRate >= 0)) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the schedule gave the learning rate ${learningRate} for step ${this.#steps}; wanted 0 or more`,
      )
    }
    this.#steps += 1
    const gradients = ready.map(({ gradient }) => gradient.handle)
    const [norm, gradientScale] = native.globalNorm(gradients, this.#clipNorm)
    this.apply({
      values: ready.map(({ parameter }) => parameter.value.handle),
      gradients,
      state: this.stateNames.map((_, i) => ready.map(({ state }) => state[i].handle)),
      copies: ready.map(({ parameter }) => parameter.copy?.handle ?? null),
      learningRates: ready.map(({ rateScale }) => learningRate * rateScale),
      weightDecays: ready.map(({ weightDecay }) => weightDecay),
      gradientScale,
      step: this.#steps,
    })
    native.dispose(gradientScale)
    for (const { parameter } of ready) {
      parameter.zeroGrad()
      parameter.markChanged()
    }
    return new Tensor(norm, this.#device)
  }

  /**
   * One training step: records `compute`, differentiates, updates. Waits for the loss.
   *
   * @throws (rejects) `ERR_NON_FINITE` if the loss or the gradients' norm is NaN or infinite. The parameters are then
   * no longer usable: go back to a checkpoint.
   */
  async step(compute: () => Tensor): Promise<StepResult> {
    const learningRate = this.learningRate
    const loss = this.accumulate(compute)
    let norm: Tensor | null = null
    try {
      norm = this.update()
      const [lossValue, gradientNorm] = await Promise.all([loss.item(), norm.item()])
      if (!Number.isFinite(lossValue) || !Number.isFinite(gradientNorm)) {
        throw new SoftMoEError(
          'ERR_NON_FINITE',
          `step ${this.#steps} gave the loss ${lossValue} and the gradient norm ${gradientNorm}; ` +
            'go back to a checkpoint and lower the learning rate, or find the cause with setDetectAnomaly(true)',
        )
      }
      return { loss: lossValue, gradientNorm, learningRate }
    } finally {
      loss.dispose()
      norm?.dispose()
    }
  }

  /** State tensors by `<state name>/<parameter path>`, for checkpoints. */
  *namedState(): IterableIterator<[string, Tensor]> {
    for (const { path, state } of this.#entries) {
      for (const [i, name] of this.stateNames.entries()) yield [`${name}/${path}`, state[i]]
    }
  }

  /**
   * Replaces the elements of one state tensor, when a checkpoint is restored.
   *
   * @param name - as `namedState` has it
   * @throws `ERR_INVALID_ARGUMENT` for an unknown name, `ERR_SHAPE` if the counts differ
   */
  setState(name: string, values: Float32Array): void {
    const state = new Map(this.namedState()).get(name)
    if (state === undefined) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the optimiser has no state named ${given(name)}; see namedState()`,
      )
    }
    const source = withCollector(null, () => this.#device.tensor(values, state.shape))
    native.copyInto(state.handle, source.handle)
    source.dispose()
  }

  /** Sets the number of steps done, when a checkpoint is restored. */
  restoreSteps(steps: number): void {
    if (!Number.isInteger(steps) || steps < 0) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the number of steps is ${given(steps)}; wanted 0 or more`,
      )
    }
    this.#steps = steps
  }

  /** Frees the state. */
  dispose(): void {
    for (const { state } of this.#entries) for (const tensor of state) tensor.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
