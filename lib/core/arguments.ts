/** What functions ask of arguments that TypeScript's types alone cannot hold: callers need not be typed. */
import { SoftMoEError } from './errors.js'

/** How a wrong value is named in errors. Never calls into the value. */
export function given(value: unknown): string {
  switch (typeof value) {
    case 'number':
    case 'boolean':
    case 'undefined':
      return String(value)
    case 'bigint':
      return `${value}n`
    case 'string':
      return `'${value.slice(0, 80)}'`
    case 'object':
      return value === null ? 'null' : Array.isArray(value) ? 'an array' : 'an object'
    default:
      return `a ${typeof value}`
  }
}

/** @throws `ERR_INVALID_ARGUMENT` unless `value` is an object */
export function requireObject(name: string, value: unknown): void {
  if ((typeof value === 'object' && value !== null) || typeof value === 'function') return
  throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is ${given(value)}; wanted an object`)
}

/** @throws `ERR_INVALID_ARGUMENT` unless `value` is a function that can be called: a class cannot */
export function requireFunction(name: string, value: unknown): void {
  if (typeof value === 'function' && !/^class\b/.test(Function.prototype.toString.call(value))) return
  throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is ${given(value)}; wanted a function`)
}

/** @throws `ERR_INVALID_ARGUMENT` unless `value` is an array */
export function requireArray(name: string, value: unknown): void {
  if (Array.isArray(value)) return
  throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is ${given(value)}; wanted an array`)
}

/** @throws `ERR_INVALID_ARGUMENT` unless `value` is a number */
export function requireNumber(name: string, value: unknown): void {
  if (typeof value === 'number') return
  throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is ${given(value)}; wanted a number`)
}

/** @throws `ERR_INVALID_ARGUMENT` unless `value` is a string */
export function requireString(name: string, value: unknown): void {
  if (typeof value === 'string') return
  throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is ${given(value)}; wanted a string`)
}

/** @throws `ERR_INVALID_ARGUMENT` unless `value` is a whole number of at least `least` */
export function requireCount(name: string, value: unknown, least = 1): void {
  if (Number.isInteger(value) && (value as number) >= least) return
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `${name} is ${given(value)}; wanted a whole number of ${least} or more`,
  )
}

/** @throws `ERR_INVALID_ARGUMENT` unless `0 <= value < 1` */
export function requireRate(name: string, value: unknown): void {
  if (typeof value === 'number' && value >= 0 && value < 1) return
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `${name} is ${given(value)}; wanted a number from 0 to below 1`,
  )
}

/** The most elements that one array on the host may have: what is asked for beyond is a mistake. */
const MOST_ELEMENTS = 2 ** 30

/** @throws `ERR_OUT_OF_MEMORY` for an array of more than 2^30 elements */
export function requireSize(name: string, elements: number): void {
  if (elements <= MOST_ELEMENTS) return
  throw new SoftMoEError(
    'ERR_OUT_OF_MEMORY',
    `${name} would have ${elements} elements; at most ${MOST_ELEMENTS} are supported`,
  )
}
