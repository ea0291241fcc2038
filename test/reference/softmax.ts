// Softmax over the last axis.
import { type Ref, rowsAndWidth, zeros } from './array.js'

/** x [..., d] → [..., d], each row positive with sum one. */
export function softmaxRows(x: Ref): Ref {
  const [rows, width] = rowsAndWidth(x)
  const y = zeros(...x.shape)
  for (let row = 0; row < rows; row++) {
    let largest = -Infinity
    for (let i = 0; i < width; i++) largest = Math.max(largest, x.data[row * width + i])
    let total = 0
    for (let i = 0; i < width; i++) total += Math.exp(x.data[row * width + i] - largest)
    for (let i = 0; i < width; i++)
      y.data[row * width + i] = Math.exp(x.data[row * width + i] - largest) / total
  }
  return y
}

/** y = softmaxRows(x) and dy → dx, all [..., d]. */
export function softmaxRowsBackward(y: Ref, dy: Ref): Ref {
  const [rows, width] = rowsAndWidth(y)
  const dx = zeros(...y.shape)
  for (let row = 0; row < rows; row++) {
    let dot = 0
    for (let i = 0; i < width; i++) dot += y.data[row * width + i] * dy.data[row * width + i]
    for (let i = 0; i < width; i++) {
      dx.data[row * width + i] = y.data[row * width + i] * (dy.data[row * width + i] - dot)
    }
  }
  return dx
}
