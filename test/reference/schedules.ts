// Learning rates by step, as the papers' trainers compute them. `step` counts from 0.

export interface ScheduleOptions {
  readonly peak: number
  readonly totalSteps: number
  readonly warmupSteps: number
}

/** Warm-up from 0, then 1/√(1 + (step − warmup)/timescale), held at the start of the linear cooldown to 0. */
export function reciprocalSquareRoot(
  step: number,
  {
    peak,
    totalSteps,
    warmupSteps,
    timescale,
    cooldownSteps,
  }: ScheduleOptions & { timescale: number; cooldownSteps: number },
): number {
  if (step < warmupSteps) return (peak * step) / warmupSteps
  const cooldownStart = totalSteps - cooldownSteps
  const value = peak / Math.sqrt(1 + (Math.min(step, cooldownStart) - warmupSteps) / timescale)
  return step > cooldownStart ? (value * (totalSteps - step)) / cooldownSteps : value
}

/** Warm-up from 0, then a straight line to `end` at totalSteps. */
export function warmupLinear(
  step: number,
  { peak, end, totalSteps, warmupSteps }: ScheduleOptions & { end: number },
): number {
  if (step < warmupSteps) return (peak * step) / warmupSteps
  return peak + ((end - peak) * (step - warmupSteps)) / (totalSteps - warmupSteps)
}

/** Warm-up from 0, then half a cosine to `end` at totalSteps. */
export function warmupCosine(
  step: number,
  { peak, end, totalSteps, warmupSteps }: ScheduleOptions & { end: number },
): number {
  if (step < warmupSteps) return (peak * step) / warmupSteps
  const progress = (step - warmupSteps) / (totalSteps - warmupSteps)
  return end + (peak - end) * 0.5 * (1 + Math.cos(Math.PI * progress))
}
