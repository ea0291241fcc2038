// Patches, positions and the class token of the Vision Transformer (Dosovitskiy et al., 2021).
import { type Ref, zeros } from './array.js'

function patchGrid(images: readonly number[], patch: number): [number, number] {
  return [Math.floor(images[1] / patch), Math.floor(images[2] / patch)]
}

/** Calls `visit(pixelIndex, patchIndex)` for every value of images [B, H, W, C] that lies in a whole patch. */
function visitPatches(
  shape: readonly number[],
  patch: number,
  visit: (pixel: number, element: number) => void,
): void {
  const [batch, height, width, channels] = shape as [number, number, number, number]
  const [gridHeight, gridWidth] = patchGrid(shape, patch)
  let element = 0
  for (let b = 0; b < batch; b++) {
    for (let gy = 0; gy < gridHeight; gy++) {
      for (let gx = 0; gx < gridWidth; gx++) {
        for (let py = 0; py < patch; py++) {
          for (let px = 0; px < patch; px++) {
            for (let c = 0; c < channels; c++) {
              const y = gy * patch + py
              const x = gx * patch + px
              visit(((b * height + y) * width + x) * channels + c, element++)
            }
          }
        }
      }
    }
  }
}

/**
 * Images [B, H, W, C] → [B, (H/p)·(W/p), p·p·C], each patch in the order row, column, channel. Pixels beyond
 * the last whole patch are ignored.
 */
export function patchify(images: Ref, patch: number): Ref {
  const [gridHeight, gridWidth] = patchGrid(images.shape, patch)
  const patches = zeros(images.shape[0], gridHeight * gridWidth, patch * patch * images.shape[3])
  visitPatches(images.shape, patch, (pixel, element) => {
    patches.data[element] = images.data[pixel]
  })
  return patches
}

/** The gradient of `patchify`: dPatches [B, tokens, p·p·C] → dImages of `imageShape` [B, H, W, C]. */
export function patchifyBackward(dPatches: Ref, imageShape: readonly number[], patch: number): Ref {
  const dImages = zeros(...imageShape)
  visitPatches(imageShape, patch, (pixel, element) => {
    dImages.data[pixel] += dPatches.data[element]
  })
  return dImages
}

/**
 * Fixed two-dimensional sine-cosine positions [gridHeight·gridWidth, dim] (MoCo v3): sin and cos of the column,
 * then sin and cos of the row, dim/4 frequencies temperature^(−i/(dim/4 − 1)) each. dim is a multiple of 4, at least 8.
 */
export function sincos2d(gridHeight: number, gridWidth: number, dim: number, temperature = 10_000): Ref {
  const quarter = dim / 4
  const positions = zeros(gridHeight * gridWidth, dim)
  for (let y = 0; y < gridHeight; y++) {
    for (let x = 0; x < gridWidth; x++) {
      const row = (y * gridWidth + x) * dim
      for (let i = 0; i < quarter; i++) {
        const frequency = 1 / temperature ** (i / (quarter - 1))
        positions.data[row + i] = Math.sin(x * frequency)
        positions.data[row + quarter + i] = Math.cos(x * frequency)
        positions.data[row + 2 * quarter + i] = Math.sin(y * frequency)
        positions.data[row + 3 * quarter + i] = Math.cos(y * frequency)
      }
    }
  }
  return positions
}

/** x [B, M, d] + positions [M, d] (or [1, M, d]). */
export function addPositions(x: Ref, positions: Ref): Ref {
  const y = zeros(...x.shape)
  for (let i = 0; i < x.data.length; i++) y.data[i] = x.data[i] + positions.data[i % positions.data.length]
  return y
}

/** The gradient of `addPositions` with respect to the positions, in `shape`: dy [B, M, d] summed over the batch. */
export function addPositionsBackward(dy: Ref, shape: readonly number[]): Ref {
  const dPositions = zeros(...shape)
  for (let i = 0; i < dy.data.length; i++) dPositions.data[i % dPositions.data.length] += dy.data[i]
  return dPositions
}

/** x [B, M, d], token [d] (any shape of d elements) → [B, M + 1, d] with the token first in every sequence. */
export function prependToken(x: Ref, token: Ref): Ref {
  const [batch, tokens, dim] = x.shape as [number, number, number]
  const y = zeros(batch, tokens + 1, dim)
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < dim; i++) y.data[b * (tokens + 1) * dim + i] = token.data[i]
    for (let i = 0; i < tokens * dim; i++)
      y.data[(b * (tokens + 1) + 1) * dim + i] = x.data[b * tokens * dim + i]
  }
  return y
}

/** Gradients of `prependToken` for dy [B, M + 1, d]: dx [B, M, d], dToken in `tokenShape`. */
export function prependTokenBackward(dy: Ref, tokenShape: readonly number[]): { dx: Ref; dToken: Ref } {
  const [batch, withToken, dim] = dy.shape as [number, number, number]
  const tokens = withToken - 1
  const dx = zeros(batch, tokens, dim)
  const dToken = zeros(...tokenShape)
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < dim; i++) dToken.data[i] += dy.data[b * withToken * dim + i]
    for (let i = 0; i < tokens * dim; i++)
      dx.data[b * tokens * dim + i] = dy.data[(b * withToken + 1) * dim + i]
  }
  return { dx, dToken }
}
