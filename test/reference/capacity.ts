// Buffer length of an expert (V-MoE, section 2.3) and slots per expert of Soft MoE.

/** Nearest integer; exact halves go to the even neighbour. */
export function roundHalfToEven(value: number): number {
  const below = Math.floor(value)
  const fraction = value - below
  if (fraction === 0.5) return below % 2 === 0 ? below : below + 1
  return fraction < 0.5 ? below : below + 1
}

/**
 * (tokens · factor) / experts, rounded up ('ceil') or to nearest even ('round'), then up to a multiple.
 * `tokens` counts a token once for each expert that it selects.
 */
export function expertCapacity(
  tokens: number,
  experts: number,
  factor: number,
  rounding: 'ceil' | 'round',
  multipleOf: number,
): number {
  const exact = (tokens * factor) / experts
  const whole = rounding === 'ceil' ? Math.ceil(exact) : roundHalfToEven(exact)
  return Math.ceil(whole / multipleOf) * multipleOf
}

/** Slots per expert of a Soft MoE layer that is given a capacity factor instead of a number of slots. */
export function slotsPerExpert(tokens: number, experts: number, factor = 1): number {
  return expertCapacity(tokens, experts, factor, 'round', 1)
}
