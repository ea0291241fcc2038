/** Random numbers of the stress programs: Marsaglia's xorshift, "Xorshift RNGs", 2003. */
export class Xorshift {
  #state: number

  constructor(seed: number) {
    this.#state = (Math.imul(seed + 1, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1
    for (let i = 0; i < 8; i++) this.uniform()
  }

  /** From 0 up to 1. */
  uniform(): number {
    this.#state ^= this.#state << 13
    this.#state ^= this.#state >>> 17
    this.#state ^= this.#state << 5
    this.#state >>>= 0
    return this.#state / 2 ** 32
  }

  /** A whole number from 0 up to `count`. */
  below(count: number): number {
    return Math.floor(this.uniform() * count)
  }

  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)]
  }
}
