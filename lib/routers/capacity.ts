import { requireNumber, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'

/** Rounds to the nearest whole number, halves to the even one (Python's `round`). */
export function roundHalfToEven(x: number): number {
  const floor = Math.floor(x)
  const rest = x - floor
  if (rest !== 0.5) return Math.round(x)
  return floor % 2 === 0 ? floor : floor + 1
}

/** Options of `expertCapacity`. */
export interface CapacityOptions {
  /** `ceil` (V-MoE's default) or `round` (halves to even). */
  readonly rounding?: 'ceil' | 'round'
  /** The result is rounded up to a multiple of this. Default 4, as in the official code. */
  readonly multipleOf?: number
}

/**
 * Places in an expert's buffer: `numTokens * capacityFactor / numExperts`, rounded (V-MoE, section 2.3).
 *
 * @param numTokens - tokens of a group, times k for Tokens Choice
 * @throws `ERR_INVALID_ARGUMENT` if the result is below 1
 */
export function expertCapacity(
  numTokens: number,
  numExperts: number,
  capacityFactor: number,
  options: CapacityOptions = {},
): number {
  requireNumber('numTokens', numTokens)
  requireNumber('numExperts', numExperts)
  requireNumber('capacityFactor', capacityFactor)
  requireObject('the options of expertCapacity', options)
  const { rounding = 'ceil', multipleOf = 4 } = options
  requireNumber('multipleOf', multipleOf)
  const exact = (numTokens * capacityFactor) / numExperts
  const capacity = rounding === 'ceil' ? Math.ceil(exact) : roundHalfToEven(exact)
  if (!(capacity >= 1)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${numTokens} tokens with capacity factor ${capacityFactor} for ${numExperts} experts give a capacity of ` +
        `${capacity}; raise the factor or use larger groups, so that it is at least 1`,
    )
  }
  return Math.ceil(capacity / multipleOf) * multipleOf
}

/**
 * Slots of each expert when they are not given: as many slots in total as tokens, rounded half to even, at least 1.
 */
export function defaultSlotsPerExpert(numTokens: number, numExperts: number): number {
  return expertCapacity(numTokens, numExperts, 1, { rounding: 'round', multipleOf: 1 })
}
