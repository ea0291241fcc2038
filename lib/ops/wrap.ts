import type { TensorHandle } from '../native.js'
import type { Device } from '../core/device.js'
import { Tensor } from '../core/tensor.js'

/** A tensor of what the addon returned. */
export function wrap(handle: TensorHandle, device: Device): Tensor {
  return new Tensor(handle, device)
}

/** As `wrap`, for results that may be absent. */
export function wrapOptional(handle: TensorHandle | null, device: Device): Tensor | null {
  return handle === null ? null : new Tensor(handle, device)
}

/** The gradient that must be there, because its node has one output. */
export function only(gradients: readonly (Tensor | null)[]): Tensor {
  const gradient = gradients[0]
  if (gradient === null || gradient === undefined) throw new Error('an output gradient is missing')
  return gradient
}

/** The tensor that the forward saved for its gradient. */
export function saved(tensor: Tensor | null): Tensor {
  if (tensor === null) throw new Error('a tensor for the gradient was not saved')
  return tensor
}
