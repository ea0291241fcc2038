import { given, requireArray, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'

/**
 * A value by parameter path: a number for all, or rules of which the first whose pattern matches counts. Patterns are
 * regular expressions, matched anywhere in the path (`Router/mu`, `kernel$`).
 */
export type ByName = number | readonly (readonly [pattern: string | RegExp, value: number])[]

/** Looks up the value for a path; `otherwise` where no rule matches. @throws `ERR_INVALID_ARGUMENT` */
export function valueByName(what: string, rules: ByName, path: string, otherwise: number): number {
  if (typeof rules !== 'number') requireArray(what, rules)
  const value =
    typeof rules === 'number'
      ? rules
      : (rules.find(([pattern]) => new RegExp(pattern).test(path))?.[1] ?? otherwise)
  if (!Number.isFinite(value) || value < 0) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${what} of ${path} is ${given(value)}; wanted a finite number of 0 or more`,
    )
  }
  return value
}

/** The papers' weight decay: kernels only, and the soft router's scale with `routerScale`; biases, norms, Phi: none. */
export function kernelDecay(kernels: number, options: { head?: number; routerScale?: number } = {}): ByName {
  requireObject('the options of kernelDecay', options)
  return [
    ['^head/kernel$', options.head ?? kernels],
    ['Router/scale$', options.routerScale ?? 0],
    ['kernel$', kernels],
  ]
}
