// y = act(x W + b).
import { type Ref, rowsAndWidth, zeros } from './array.js'
import { type Activation, activate, activationDerivative } from './gelu.js'

/** x [..., in], weight [in, out], bias [out] or none → x W + b, [..., out]. */
export function affine(x: Ref, weight: Ref, bias?: Ref): Ref {
  const [rows, inputs] = rowsAndWidth(x)
  const outputs = weight.shape[1]
  const y = zeros(...x.shape.slice(0, -1), outputs)
  for (let row = 0; row < rows; row++) {
    if (bias) y.data.set(bias.data, row * outputs)
    for (let i = 0; i < inputs; i++) {
      for (let o = 0; o < outputs; o++)
        y.data[row * outputs + o] += x.data[row * inputs + i] * weight.data[i * outputs + o]
    }
  }
  return y
}

/** x [..., in], weight [in, out], bias [out] or none → act(x W + b), [..., out]. */
export function linear(x: Ref, weight: Ref, bias?: Ref, activation: Activation = 'none'): Ref {
  const y = affine(x, weight, bias)
  for (let i = 0; i < y.data.length; i++) y.data[i] = activate(activation, y.data[i])
  return y
}

export interface LinearGradients {
  readonly dx: Ref
  readonly dWeight: Ref
  readonly dBias: Ref
}

/** Gradients of `linear` for dy [..., out]: dx [..., in], dWeight [in, out], dBias [out]. */
export function linearBackward(
  x: Ref,
  weight: Ref,
  bias: Ref | undefined,
  activation: Activation,
  dy: Ref,
): LinearGradients {
  const [rows, inputs] = rowsAndWidth(x)
  const outputs = weight.shape[1]
  const before = affine(x, weight, bias)
  const dx = zeros(...x.shape)
  const dWeight = zeros(inputs, outputs)
  const dBias = zeros(outputs)
  for (let row = 0; row < rows; row++) {
    const dBefore = new Float64Array(outputs)
    for (let o = 0; o < outputs; o++) {
      const at = row * outputs + o
      dBefore[o] = dy.data[at] * activationDerivative(activation, before.data[at])
      dBias.data[o] += dBefore[o]
    }
    for (let i = 0; i < inputs; i++) {
      for (let o = 0; o < outputs; o++) {
        dWeight.data[i * outputs + o] += x.data[row * inputs + i] * dBefore[o]
        dx.data[row * inputs + i] += weight.data[i * outputs + o] * dBefore[o]
      }
    }
  }
  return { dx, dWeight, dBias }
}
