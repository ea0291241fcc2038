// Tests of refusals: every one is a SoftMoEError with a stable code and a sentence.
import { expect, it } from 'vitest'
import { type ErrorCode, SoftMoEError, type Tensor } from '../../lib/index.js'
import { device } from './tensors.js'

export const float = (...shape: number[]): Tensor => device.zeros(shape)
export const narrow = (...shape: number[]): Tensor => device.zeros(shape, { dtype: 'bfloat16' })
export const whole = (...shape: number[]): Tensor => device.zeros(shape, { dtype: 'int32' })

/** What JavaScript without types may pass. */
export const anything = (value: unknown): never => value as never

export function disposed(): Tensor {
  const tensor = float(2, 3)
  tensor.dispose()
  return tensor
}

export function expectRefusal(act: () => unknown, code: ErrorCode, text: RegExp): void {
  let error: unknown
  try {
    act()
  } catch (thrown) {
    error = thrown
  }
  expect(error).toBeInstanceOf(SoftMoEError)
  const { code: actual, message } = error as SoftMoEError
  expect([actual, message]).toEqual([code, expect.stringMatching(text)])
}

export type Refusal = readonly [what: string, act: () => unknown, code: ErrorCode, text: RegExp]

export function refuse(cases: readonly Refusal[]): void {
  it.each(cases)('%s', (_, act, code, text) => {
    expectRefusal(act, code, text)
    // The device works on.
    const tensor = device.ones([1])
    expect(tensor.itemSync()).toBe(1)
    tensor.dispose()
  })
}
