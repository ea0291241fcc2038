import { given, requireArray, requireObject, requireString } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'

/**
 * A value by parameter path: a number for all, or rules of which the first whose pattern matches counts. Patterns are
 * regular expressions, matched anywhere in the path (`Router/mu`, `kernel$`).
 */
export type ByName = number | readonly (readonly [pattern: string | RegExp, value: number])[]

/** The value of the first rule whose pattern matches. */
function firstMatch(what: string, rules: Exclude<ByName, number>, path: string): number | undefined {
  requireArray(what, rules)
  for (const rule of rules) {
    requireArray(`a rule of ${what}`, rule)
    const [pattern, value] = rule
    if (expressionOf(what, pattern).test(path)) return value
  }
  return undefined
}

function expressionOf(what: string, pattern: string | RegExp): RegExp {
  if (pattern instanceof RegExp) return new RegExp(pattern)
  requireString(`a pattern of ${what}`, pattern)
  try {
    return new RegExp(pattern)
  } catch (cause) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `a pattern of ${what} is ${given(pattern)}, which is no regular expression`,
      { cause },
    )
  }
}

/** Looks up the value for a path; `otherwise` where no rule matches. @throws `ERR_INVALID_ARGUMENT` */
export function valueByName(what: string, rules: ByName, path: string, otherwise: number): number {
  const value = typeof rules === 'number' ? rules : (firstMatch(what, rules, path) ?? otherwise)
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
