import { requireNumber } from '../core/arguments.js'
import type { Device } from '../core/device.js'
import type { RandomSource } from '../core/random-source.js'
import { native, type TensorHandle } from '../native.js'

/** Makes the first values of a parameter, float32. */
export type Initializer = (device: Device, shape: readonly number[], random: RandomSource) => TensorHandle

/** Standard deviation of a standard normal truncated at two standard deviations. */
const TRUNCATED_NORMAL_STD = 0.87962566103423978

/** All elements `value`. */
export function constant(value: number): Initializer {
  return (device, shape) => native.full(device, shape, 'float32', value)
}

export const zeros: Initializer = constant(0)
export const ones: Initializer = constant(1)

/** Normal about 0. */
export function normal(std: number): Initializer {
  return (device, shape, random) => native.random(device, shape, 'float32', 'normal', 0, std, random.next())
}

/** Variance `1 / fanIn`, truncated at two standard deviations (LeCun; Flax's default for kernels). */
export function lecunNormal(fanIn: number): Initializer {
  requireNumber('fanIn', fanIn)
  const scale = Math.sqrt(1 / fanIn) / TRUNCATED_NORMAL_STD
  return (device, shape, random) =>
    native.random(device, shape, 'float32', 'truncated-normal', 0, scale, random.next())
}

/** Uniform within `± sqrt(6 / (fanIn + fanOut))` (Glorot). */
export function xavierUniform(fanIn: number, fanOut: number): Initializer {
  requireNumber('fanIn', fanIn)
  requireNumber('fanOut', fanOut)
  const limit = Math.sqrt(6 / (fanIn + fanOut))
  return (device, shape, random) =>
    native.random(device, shape, 'float32', 'uniform', -limit, 2 * limit, random.next())
}

/** Draws once for `shape[1 …]` and repeats it along the first axis: all experts start the same. */
export function sharedAlongFirstAxis(initializer: Initializer): Initializer {
  return (device, shape, random) => {
    const [count = 0, ...rest] = shape
    const one = initializer(device, rest, random)
    const all = native.broadcast(one, 0, count, 1)
    native.dispose(one)
    return all
  }
}
