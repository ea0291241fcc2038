import { given } from './arguments.js'
import type { RandomKey } from '../native.js'
import { SoftMoEError } from './errors.js'

let refusal: string | null = null

/** Runs `fn`, in which no key may be drawn: whoever tries gets an `ERR_INVALID_ARGUMENT` with `reason`. */
export function withoutRandomKeys<T>(reason: string, fn: () => T): T {
  const outer = refusal
  refusal = reason
  try {
    return fn()
  } finally {
    refusal = outer
  }
}

/** Everything that later draws depend on. */
export interface RandomState {
  readonly seed: number
  readonly draws: number
}

/**
 * Hands out keys for initialisation, dropout and noise. A draw depends on the seed and on how many keys were handed
 * out before, so a run that restores `state` draws what the uninterrupted run would have drawn.
 */
export class RandomSource {
  #seed: number
  #draws: number

  /** @param seed - a whole number from 0 to 2^53 - 1, default 0 */
  constructor(seed = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the seed is ${given(seed)}; give a whole number from 0 to 9007199254740991`,
      )
    }
    this.#seed = seed
    this.#draws = 0
  }

  /** A key that was never handed out. Operations may use its stream and the three after it. */
  next(): RandomKey {
    if (refusal !== null) throw new SoftMoEError('ERR_INVALID_ARGUMENT', refusal)
    this.#draws += 1
    return { seed: this.#seed, stream: this.#draws * 4 }
  }

  get state(): RandomState {
    return { seed: this.#seed, draws: this.#draws }
  }

  set state({ seed, draws }: RandomState) {
    if (!Number.isSafeInteger(draws) || draws < 0) {
      throw new SoftMoEError('ERR_INVALID_ARGUMENT', `the number of draws is ${draws}; wanted 0 or more`)
    }
    this.#seed = new RandomSource(seed).#seed
    this.#draws = draws
  }
}
