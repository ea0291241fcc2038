import type { Parameter } from '../layers/parameter.js'
import { native } from '../native.js'
import { Optimizer, type OptimizerOptions, type StepOperands } from './optimizer.js'

/** Options of `Sgd`. */
export interface SgdOptions extends OptimizerOptions {
  /** In [0, 1). Default 0. */
  readonly momentum?: number
  /** Nesterov's look-ahead. Default false. */
  readonly nesterov?: boolean
}

/** Stochastic gradient descent with momentum; weight decay is added to the gradient. */
export class Sgd extends Optimizer {
  readonly #options: Required<Pick<SgdOptions, 'momentum' | 'nesterov'>>

  constructor(parameters: ReadonlyMap<string, Parameter>, options: SgdOptions) {
    super(parameters, options, ['momentum'])
    const { momentum = 0, nesterov = false } = options
    this.#options = { momentum, nesterov }
  }

  protected override apply(operands: StepOperands): void {
    const { momentum, nesterov } = this.#options
    native.sgdStep(
      operands.values,
      operands.gradients,
      operands.state[0],
      operands.copies,
      operands.learningRates,
      operands.weightDecays,
      momentum,
      nesterov,
      operands.gradientScale,
    )
  }
}
