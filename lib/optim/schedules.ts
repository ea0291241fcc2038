import { given, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'

/** Learning rate of a step; steps count from 0. */
export type Schedule = (step: number) => number

function requireNonNegative(name: string, value: number): void {
  if (!(Number.isFinite(value) && value >= 0)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${name} is ${given(value)}; wanted a finite number of 0 or more`,
    )
  }
}

function requirePositive(name: string, value: number): void {
  if (!(Number.isFinite(value) && value > 0)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${name} is ${given(value)}; wanted a finite number over 0`,
    )
  }
}

/** The same rate at every step. */
export function constantRate(rate: number): Schedule {
  requireNonNegative('the learning rate', rate)
  return () => rate
}

function warmup(peak: number, warmupSteps: number, after: Schedule): Schedule {
  return (step) => (step < warmupSteps ? (peak * step) / warmupSteps : after(step))
}

/** Rises linearly from 0 to `peak` in `warmupSteps`, then follows a half cosine down to `end` at `totalSteps`. */
export function warmupCosine(peak: number, warmupSteps: number, totalSteps: number, end = 0): Schedule {
  requireSpan(peak, warmupSteps, totalSteps)
  requireNonNegative('the last learning rate', end)
  const span = Math.max(1, totalSteps - warmupSteps)
  return warmup(peak, warmupSteps, (step) => {
    const progress = Math.min(1, (step - warmupSteps) / span)
    return end + (peak - end) * 0.5 * (1 + Math.cos(Math.PI * progress))
  })
}

/** Rises linearly from 0 to `peak` in `warmupSteps`, then falls linearly to `end` at `totalSteps` (V-MoE). */
export function warmupLinear(peak: number, warmupSteps: number, totalSteps: number, end = 0): Schedule {
  requireSpan(peak, warmupSteps, totalSteps)
  requireNonNegative('the last learning rate', end)
  const span = Math.max(1, totalSteps - warmupSteps)
  return warmup(peak, warmupSteps, (step) => peak + (end - peak) * Math.min(1, (step - warmupSteps) / span))
}

/** Options of `reciprocalSquareRoot`. */
export interface ReciprocalSquareRootOptions {
  readonly peak: number
  readonly totalSteps: number
  /** Default 10,000. */
  readonly timescale?: number
  /** Default 10,000. */
  readonly warmupSteps?: number
  /** The rate falls linearly to 0 in the last steps. Default 50,000. */
  readonly cooldownSteps?: number
}

/**
 * `peak / sqrt(1 + max(0, step - warmupSteps) / timescale)` with a linear warm-up; in the cooldown the rate falls
 * linearly to 0 from the value it had at its start (Soft MoE's pre-training; the `rsqrt` schedule of big_vision).
 */
export function reciprocalSquareRoot(options: ReciprocalSquareRootOptions): Schedule {
  requireObject('the options of the schedule', options)
  const { peak, totalSteps, timescale = 10_000, warmupSteps = 10_000, cooldownSteps = 50_000 } = options
  requireSpan(peak, warmupSteps, totalSteps)
  requirePositive('timescale', timescale)
  requireNonNegative('cooldownSteps', cooldownSteps)
  const cooldownStart = totalSteps - cooldownSteps
  return (step) => {
    const elapsed = Math.max(0, Math.min(step, cooldownStart) - warmupSteps)
    let rate = peak / Math.sqrt(1 + elapsed / timescale)
    if (warmupSteps > 0) rate *= Math.min(1, step / warmupSteps)
    if (cooldownSteps > 0) rate *= Math.min(1, Math.max(0, totalSteps - step) / cooldownSteps)
    return rate
  }
}

function requireSpan(peak: number, warmupSteps: number, totalSteps: number): void {
  requireNonNegative('the highest learning rate', peak)
  requireNonNegative('warmupSteps', warmupSteps)
  requirePositive('totalSteps', totalSteps)
}
