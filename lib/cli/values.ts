/** Values of options: each parser takes the text from the command line and refuses with a sentence. */
import { InvalidArgumentError } from 'commander'
import { nearestName } from '../core/nearest-name.js'

/** Turns the text of an option into its value or throws commander's `InvalidArgumentError`. */
export type ValueParser<T> = (text: string) => T

function number(text: string): number {
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text.trim()) ? Number(text) : Number.NaN
}

/** A whole number in a range. */
export function wholeNumber(least: number, most: number): ValueParser<number> {
  return (text) => {
    const value = number(text)
    if (Number.isInteger(value) && value >= least && value <= most) return value
    throw new InvalidArgumentError(`Give a whole number from ${least} to ${most}.`)
  }
}

/** A number in a range, ends included unless `above` is set, which leaves out the least. */
export function realNumber(least: number, most: number, above = false): ValueParser<number> {
  return (text) => {
    const value = number(text)
    if (value <= most && (above ? value > least : value >= least)) return value
    throw new InvalidArgumentError(
      `Give a number ${above ? `above ${least} and up` : `from ${least}`} to ${most}.`,
    )
  }
}

/** One of a few names; a mistyped one is answered with the nearest. */
export function oneOf<const T extends string>(names: readonly T[]): ValueParser<T> {
  return (text) => {
    const found = names.find((name) => name === text)
    if (found !== undefined) return found
    throw new InvalidArgumentError(
      `Did you mean ${nearestName(text, names)}? Give one of ${names.join(', ')}.`,
    )
  }
}

/** A text that is not empty. */
export const nonEmpty: ValueParser<string> = (text) => {
  if (text.trim() !== '') return text
  throw new InvalidArgumentError('Give a name or path that is not empty.')
}
