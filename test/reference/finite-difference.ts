// Gradients by central differences, to prove the analytic gradients where no published number exists.
import { type Ref, zeros } from './array.js'

/**
 * ∂loss/∂array by fourth-order central differences. `array` is changed in place during the call and restored.
 * The error is about step⁴ plus 1e-16/step: 1e-11 for smooth functions of size 1.
 */
export function numericGradient(loss: () => number, array: Ref, step = 1e-3): Ref {
  const gradient = zeros(...array.shape)
  const shifted = (index: number, value: number): number => {
    array.data[index] = value
    return loss()
  }
  for (let i = 0; i < array.data.length; i++) {
    const center = array.data[i]
    const near = shifted(i, center + step) - shifted(i, center - step)
    const far = shifted(i, center + 2 * step) - shifted(i, center - 2 * step)
    array.data[i] = center
    gradient.data[i] = (8 * near - far) / (12 * step)
  }
  return gradient
}

/** The same for one number that `loss` takes as its argument. */
export function numericDerivative(loss: (value: number) => number, at: number, step = 1e-3): number {
  const near = loss(at + step) - loss(at - step)
  const far = loss(at + 2 * step) - loss(at - 2 * step)
  return (8 * near - far) / (12 * step)
}
