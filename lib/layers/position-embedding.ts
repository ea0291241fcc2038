import { requireCount, requireSize } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'

/**
 * Fixed sine and cosine position embeddings of a grid (the papers' `sincos2d`): for each position
 * `[sin(x w), cos(x w), sin(y w), cos(y w)]` with `w_i = 10000^(-i / (dim / 4 - 1))`.
 *
 * @returns `height * width` rows of `dim` numbers
 * @throws `ERR_INVALID_ARGUMENT` unless all are whole numbers and `dim` is a multiple of 4
 */
export function sincos2d(height: number, width: number, dim: number): Float32Array {
  requireCount('height', height, 0)
  requireCount('width', width, 0)
  requireCount('dim', dim, 4)
  requireSize('the position embeddings', height * width * dim)
  if (dim % 4 !== 0) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `sincos2d position embeddings need a width that is a multiple of 4, not ${dim}; use 'learned' or another width`,
    )
  }
  const quarter = dim / 4
  const embedding = new Float32Array(height * width * dim)
  // A height of 2^53 is no reason to count to it where there is no width.
  if (embedding.length === 0) return embedding
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const row = (y * width + x) * dim
      for (let i = 0; i < quarter; i++) {
        const frequency = quarter === 1 ? 1 : 10000 ** (-i / (quarter - 1))
        embedding[row + i] = Math.sin(x * frequency)
        embedding[row + quarter + i] = Math.cos(x * frequency)
        embedding[row + 2 * quarter + i] = Math.sin(y * frequency)
        embedding[row + 3 * quarter + i] = Math.cos(y * frequency)
      }
    }
  }
  return embedding
}
