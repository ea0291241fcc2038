/**
 * Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 *
 * A number is a pure function of (seed, stream, index), so any worker can compute any of them in any order, and a run
 * that resumes at step k draws what the uninterrupted run drew. The native kernels use the same generator:
 *
 *     key     = (seed mod 2^32, floor(seed / 2^32))
 *     counter = (floor(index / 4) mod 2^32, floor(index / 4) / 2^32, stream, 0)
 *     number `index` of the stream is word `index mod 4` of the block
 */
import { given } from './arguments.js'
import { SoftMoEError } from './errors.js'

const MULTIPLIER_0 = 0xd2511f53
const MULTIPLIER_1 = 0xcd9e8d57
const WEYL_0 = 0x9e3779b9
const WEYL_1 = 0xbb67ae85
const ROUNDS = 10
const TWO_32 = 2 ** 32

/**
 * What a stream of random numbers is for. Different purposes never share numbers, and they lie above the streams that
 * `RandomSource` hands out for initialisation, dropout and noise.
 */
export const RandomPurpose = {
  split: 253,
  shuffle: 254,
  augmentation: 255,
} as const

/** The stream number of a purpose and a counter below 2^24, such as an epoch. */
export function streamOf(purpose: keyof typeof RandomPurpose, counter = 0): number {
  if (!Number.isInteger(counter) || counter < 0 || counter >= 2 ** 24) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the counter of a random stream is ${given(counter)}; give a whole number from 0 to 16777215`,
    )
  }
  if (typeof purpose !== 'string' || !Object.hasOwn(RandomPurpose, purpose)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `the purpose of a random stream is ${given(purpose)}; give one of ${Object.keys(RandomPurpose).join(', ')}`,
    )
  }
  return RandomPurpose[purpose] * 2 ** 24 + counter
}

/** The upper 32 bits of the 64-bit product of two unsigned 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff
  const aHigh = a >>> 16
  const bLow = b & 0xffff
  const bHigh = b >>> 16
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const carry = aLow * bHigh + (middle & 0xffff)
  return (aHigh * bHigh + (middle >>> 16) + (carry >>> 16)) >>> 0
}

/** One Philox4x32-10 block: `counter` (4 words) under `key` (2 words) into `out` (4 words). */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
  out: Uint32Array,
): void {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0)
    const low0 = Math.imul(MULTIPLIER_0, c0)
    const high1 = multiplyHigh(MULTIPLIER_1, c2)
    const low1 = Math.imul(MULTIPLIER_1, c2)
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1 >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + WEYL_0) >>> 0
    k1 = (k1 + WEYL_1) >>> 0
  }
  out[0] = c0
  out[1] = c1
  out[2] = c2
  out[3] = c3
}

/** The random numbers of one (seed, stream). Stateless from outside: every method takes the index of the number. */
export class Random {
  readonly #key: readonly [number, number]
  readonly #stream: number
  readonly #words = new Uint32Array(4)
  #block = -1

  /**
   * @param seed a whole number from 0 to 2^53 - 1
   * @param stream a whole number from 0 to 2^32 - 1, see {@link streamOf}
   * @throws SoftMoEError `ERR_INVALID_ARGUMENT` for anything else
   */
  constructor(seed: number, stream: number) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the seed is ${given(seed)}; give a whole number from 0 to 2^53 - 1`,
      )
    }
    if (!Number.isInteger(stream) || stream < 0 || stream >= TWO_32) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the stream is ${given(stream)}; give a whole number from 0 to 2^32 - 1`,
      )
    }
    this.#key = [seed % TWO_32, Math.floor(seed / TWO_32)]
    this.#stream = stream
  }

  /** Number `index` as an unsigned 32-bit integer. */
  uint32(index: number): number {
    const block = Math.floor(index / 4)
    if (block !== this.#block) {
      philox4x32([block % TWO_32, Math.floor(block / TWO_32), this.#stream, 0], this.#key, this.#words)
      this.#block = block
    }
    return this.#words[index - block * 4]
  }

  /** Number `index`, uniform in [0, 1) with 24 bits: exact in float32. */
  uniform(index: number): number {
    return (this.uint32(index) >>> 8) * 2 ** -24
  }

  /** Number `index` as a whole number in [0, bound). The bias is below bound / 2^32. */
  integer(index: number, bound: number): number {
    return Math.floor((this.uint32(index) * bound) / TWO_32)
  }

  /**
   * Number `index` of the standard normal distribution, by Box and Muller: the numbers 2k and 2k + 1 are the cosine and
   * the sine branch of the uniform pair (2k, 2k + 1).
   */
  normal(index: number): number {
    const even = index - (index % 2)
    const radius = Math.sqrt(-2 * Math.log(((this.uint32(even) >>> 8) + 1) * 2 ** -24))
    const angle = 2 * Math.PI * this.uniform(even + 1)
    return radius * (index === even ? Math.cos(angle) : Math.sin(angle))
  }

  /** A random order of 0 … count - 1 (Fisher and Yates), made of the first `count` numbers of the stream. */
  permutation(count: number): Int32Array {
    const order = Int32Array.from({ length: count }, (_, position) => position)
    for (let last = count - 1; last > 0; last--) {
      const other = this.integer(last, last + 1)
      const swapped = order[last]
      order[last] = order[other]
      order[other] = swapped
    }
    return order
  }
}
