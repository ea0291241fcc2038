// What the tests on a device share: the device under test, tensors from the oracles' arrays and back, gradients
// through the tape, comparison.
//
// SOFTMOE_TEST_DEVICE = cpu (default) | cuda names the device; SOFTMOE_CPU_ISA and SOFTMOE_CUDA_DRIVER choose what is
// behind it.
import { afterEach, beforeEach, expect } from 'vitest'
import { customGradient, type Device, openDevice, Tape, type Tensor } from '../../lib/index.js'
import { elementCount, fromArray, type Ref, roundToBfloat16, roundToFloat32 } from '../reference/array.js'
import { type Storage, stored } from './arbitraries.js'

function testDeviceKind(): 'cpu' | 'cuda' {
  const kind = process.env.SOFTMOE_TEST_DEVICE ?? 'cpu'
  if (kind !== 'cpu' && kind !== 'cuda') {
    throw new Error(`SOFTMOE_TEST_DEVICE is ${kind}; wanted cpu or cuda`)
  }
  return kind
}

/** The device under test. */
export const device: Device = openDevice(testDeviceKind())

/** Fails a test that passed but left tensors behind. Call once in a file that disposes of all its tensors. */
export function expectNoTensorsLeftBehind(): void {
  let before = 0
  beforeEach(() => {
    before = device.memoryUsage().tensors
  })
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') return
    // Fewer than before: the garbage collector took what an earlier, failed test had left.
    expect(device.memoryUsage().tensors, 'tensors left behind').toBeLessThanOrEqual(before)
  })
}

/** A tensor with the elements of `array`, which `dtype` must hold exactly (see `stored`). */
export function tensorOf(
  array: Ref,
  dtype: Storage = 'float32',
  options: { readonly requiresGrad?: boolean } = {},
): Tensor {
  const round = dtype === 'bfloat16' ? roundToBfloat16 : roundToFloat32
  const inexact = array.data.find((value) => !Object.is(round(value), value))
  if (inexact !== undefined)
    throw new Error(`${inexact} is not exact in ${dtype}; round the case's elements first`)
  return device.tensor(array.data, array.shape, { dtype, ...options })
}

/** The elements of a tensor, when the device is there. */
export async function arrayOf(tensor: Tensor): Promise<Ref> {
  return fromArray(await tensor.data(), tensor.shape)
}

/** An array and the dtype to store it in. */
export type Operand = readonly [array: Ref, dtype: Storage]

/** A tensor for each operand; absent operands stay absent. */
export type TensorsOf<Operands> = {
  readonly [Name in keyof Operands]: undefined extends Operands[Name] ? Tensor | undefined : Tensor
}

/** The result of an operation on a case, and the gradient of each operand. */
export interface Derivatives<Operands> {
  readonly y: Ref
  readonly gradients: { readonly [Name in keyof Operands]: Ref }
}

/** A scalar whose gradient with respect to `y` is exactly `dy`, whatever the kernels do. */
export function lossWithGradient(y: Tensor, dy: Ref): Tensor {
  return customGradient(
    'lossWithGradient',
    [y],
    () => [y.device.zeros([])],
    () => [y.device.tensor(dy.data, y.shape, { dtype: y.dtype })],
  )[0]
}

/**
 * Runs `forward` under a tape on leaf tensors made of `operands` and pulls `dy` back to every one of them. All
 * tensors are disposed of.
 */
export async function differentiate<Operands extends Readonly<Record<string, Operand | undefined>>>(
  operands: Operands,
  forward: (tensors: TensorsOf<Operands>) => Tensor,
  dy: Ref,
): Promise<Derivatives<Operands>> {
  const present = Object.entries(operands).filter(
    (entry): entry is [string, Operand] => entry[1] !== undefined,
  )
  const leaves = present.map(
    ([name, [array, dtype]]) => [name, tensorOf(array, dtype, { requiresGrad: true })] as const,
  )
  const tape = new Tape()
  const [loss, y] = tape.record(() => {
    const result = forward(Object.fromEntries(leaves) as TensorsOf<Operands>)
    return [lossWithGradient(result, dy), result]
  })
  const computed = arrayOf(y)
  tape.backward(loss)
  const gradients: Record<string, Ref> = {}
  for (const [name, leaf] of leaves) {
    if (leaf.grad === null) throw new Error(`${name} got no gradient`)
    expect(leaf.grad.shape, `shape of the gradient of ${name}`).toEqual(leaf.shape)
    gradients[name] = await arrayOf(leaf.grad)
  }
  const result = { y: await computed, gradients: gradients as Derivatives<Operands>['gradients'] }
  loss.dispose()
  y.dispose()
  for (const [, leaf] of leaves) {
    leaf.grad?.dispose()
    leaf.dispose()
  }
  return result
}

/** The result alone, without a tape. */
export async function evaluate<Operands extends Readonly<Record<string, Operand | undefined>>>(
  operands: Operands,
  forward: (tensors: TensorsOf<Operands>) => Tensor,
): Promise<Ref> {
  const inputs = Object.fromEntries(
    Object.entries(operands)
      .filter((entry): entry is [string, Operand] => entry[1] !== undefined)
      .map(([name, [array, dtype]]) => [name, tensorOf(array, dtype)]),
  )
  const y = forward(inputs as TensorsOf<Operands>)
  const result = await arrayOf(y)
  y.dispose()
  for (const input of Object.values(inputs)) input.dispose()
  return result
}

/** A random array whose elements the dtype holds exactly. */
export function randomOperand(
  random: { array: (shape: readonly number[], scale?: number) => Ref },
  shape: readonly number[],
  dtype: Storage = 'float32',
  scale = 1,
): Operand {
  return [stored(random.array(shape, scale), dtype), dtype]
}

/** Error that is allowed for each storage, as a share of the largest element. */
export type Tolerance = Readonly<Record<Storage, number>>

/**
 * float32: sums of a few hundred products. bfloat16: the result is rounded once to eight significant bits, by up to
 * 2^-8 of itself, after the same float32 arithmetic.
 */
export const ROUNDED_ONCE: Tolerance = { float32: 2e-5, bfloat16: 2 ** -8 + 2e-5 }

/** bfloat16: an intermediate that is stored (before an activation, in a slot) was rounded, too. */
export const ROUNDED_TWICE: Tolerance = { float32: 2e-5, bfloat16: 2 ** -7 + 2e-5 }

/** Results that no rounding touches: copies, selections, powers of two. */
export const EXACT: Tolerance = { float32: 0, bfloat16: 0 }

/**
 * Every element within `tolerance` of the largest expected one. `size` is that size where the expected elements
 * cancel: the error of a sum is in proportion to its terms.
 */
export function expectClose(actual: Ref, expected: Ref, tolerance: number, what: string, size = 0): void {
  expect(actual.data.length, `elements of ${what}`).toBe(elementCount(expected.shape))
  let largest = size
  for (const value of expected.data) if (Number.isFinite(value)) largest = Math.max(largest, Math.abs(value))
  const bound = tolerance * largest
  for (let i = 0; i < expected.data.length; i++) {
    const [a, e] = [actual.data[i], expected.data[i]]
    // 0 and -0 are equal here; NaN is equal to NaN.
    if (a === e || Math.abs(a - e) <= bound || (Number.isNaN(a) && Number.isNaN(e))) continue
    expect.fail(
      `${what}: element ${i} of [${expected.shape.join(', ')}] is ${a}, wanted ${e} within ${bound} ` +
        `(${(Math.abs(a - e) / (largest || 1)).toExponential(2)} of the largest)`,
    )
  }
}
