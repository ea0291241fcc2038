// Rows divided by their length, with eps inside the root: y = x / sqrt(sum of squares + eps).
import { type Ref, rowsAndWidth, zeros } from './array.js'

/** x [..., d] → y [..., d]. */
export function normaliseAlongRows(x: Ref, epsilon = 1e-6): Ref {
  const [rows, width] = rowsAndWidth(x)
  const y = zeros(...x.shape)
  for (let row = 0; row < rows; row++) {
    let squares = epsilon
    for (let i = 0; i < width; i++) squares += x.data[row * width + i] ** 2
    for (let i = 0; i < width; i++) y.data[row * width + i] = x.data[row * width + i] / Math.sqrt(squares)
  }
  return y
}

/** The gradient for dy [..., d]: with r = 1 / sqrt(squares + eps), dx = r dy - r^3 x (x . dy). */
export function normaliseAlongRowsBackward(x: Ref, dy: Ref, epsilon = 1e-6): Ref {
  const [rows, width] = rowsAndWidth(x)
  const dx = zeros(...x.shape)
  for (let row = 0; row < rows; row++) {
    let squares = epsilon
    let dot = 0
    for (let i = 0; i < width; i++) {
      squares += x.data[row * width + i] ** 2
      dot += x.data[row * width + i] * dy.data[row * width + i]
    }
    const inverse = 1 / Math.sqrt(squares)
    for (let i = 0; i < width; i++) {
      const at = row * width + i
      dx.data[at] = inverse * dy.data[at] - inverse ** 3 * dot * x.data[at]
    }
  }
  return dx
}
