import type { Parameter } from '../layers/parameter.js'
import { native } from '../native.js'
import { Optimizer, type OptimizerOptions, type StepOperands } from './optimizer.js'

/** Options of `AdamW`. */
export interface AdamWOptions extends OptimizerOptions {
  /** Default 0.9. */
  readonly beta1?: number
  /** Default 0.999. */
  readonly beta2?: number
  /** Default 1e-8. */
  readonly eps?: number
}

/**
 * Adam with decoupled weight decay: `value -= rate * (m' / (sqrt(v') + eps) + decay * value)`.
 *
 * @example
 * const optimizer = new AdamW(model.parameters(), { learningRate: warmupCosine(1e-3, 200, 5000), weightDecay: 0.05 })
 * const { loss } = await optimizer.step(() => crossEntropy(model.forward(images), labels))
 */
export class AdamW extends Optimizer {
  readonly #options: Required<Pick<AdamWOptions, 'beta1' | 'beta2' | 'eps'>>

  constructor(parameters: ReadonlyMap<string, Parameter>, options: AdamWOptions) {
    super(parameters, options, ['m', 'v'])
    const { beta1 = 0.9, beta2 = 0.999, eps = 1e-8 } = options
    this.#options = { beta1, beta2, eps }
  }

  protected override apply(operands: StepOperands): void {
    const { beta1, beta2, eps } = this.#options
    native.adamwStep(
      operands.values,
      operands.gradients,
      operands.state[0],
      operands.state[1],
      operands.copies,
      operands.learningRates,
      operands.weightDecays,
      beta1,
      beta2,
      eps,
      operands.step,
      operands.gradientScale,
    )
  }
}
