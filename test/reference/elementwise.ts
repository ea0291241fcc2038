// Operations that act on elements one by one, move them, or add them along an axis.
import { elementCount, generate, type Ref, zeros } from './array.js'

/** The array seen as [outer, extent, inner] about `axis`. */
function around(array: Ref, axis: number): readonly [outer: number, extent: number, inner: number] {
  return [
    elementCount(array.shape.slice(0, axis)),
    array.shape[axis],
    elementCount(array.shape.slice(axis + 1)),
  ]
}

/** a + alpha * b, where b's shape is the end of a's. */
export function addEnd(a: Ref, b: Ref, alpha: number): Ref {
  return generate(a.shape, (i) => a.data[i] + alpha * b.data[i % b.data.length])
}

/** The gradient of `addEnd` with respect to b [..], for dy of a's shape. */
export function addEndBackward(dy: Ref, shapeOfB: readonly number[], alpha: number): Ref {
  const db = zeros(...shapeOfB)
  dy.data.forEach((value, i) => {
    db.data[i % db.data.length] += alpha * value
  })
  return db
}

/** Elements start … end - 1 of `axis`. */
export function slice(x: Ref, axis: number, start: number, end: number): Ref {
  const [outer, extent, inner] = around(x, axis)
  const y = zeros(...x.shape.map((n, i) => (i === axis ? end - start : n)))
  for (let o = 0; o < outer; o++) {
    for (let m = start; m < end; m++) {
      for (let i = 0; i < inner; i++) {
        y.data[(o * (end - start) + m - start) * inner + i] = x.data[(o * extent + m) * inner + i]
      }
    }
  }
  return y
}

/** `part` in an array of zeros of `shape`, from `start` on of `axis`: the gradient of `slice`. */
export function placed(part: Ref, shape: readonly number[], axis: number, start: number): Ref {
  const whole = zeros(...shape)
  const [outer, length, inner] = around(part, axis)
  for (let o = 0; o < outer; o++) {
    for (let m = 0; m < length; m++) {
      for (let i = 0; i < inner; i++) {
        whole.data[(o * shape[axis] + start + m) * inner + i] = part.data[(o * length + m) * inner + i]
      }
    }
  }
  return whole
}

/** factor * the sum over `axis`, which disappears. */
export function sumAxis(x: Ref, axis: number, factor = 1): Ref {
  const [outer, extent, inner] = around(x, axis)
  const y = zeros(...x.shape.filter((_, i) => i !== axis))
  for (let o = 0; o < outer; o++) {
    for (let m = 0; m < extent; m++) {
      for (let i = 0; i < inner; i++) y.data[o * inner + i] += factor * x.data[(o * extent + m) * inner + i]
    }
  }
  return y
}

/** factor * x, repeated `count` times along a new axis: the gradient of `sumAxis`. */
export function repeatAxis(x: Ref, axis: number, count: number, factor = 1): Ref {
  const outer = elementCount(x.shape.slice(0, axis))
  const inner = elementCount(x.shape.slice(axis))
  const y = zeros(...x.shape.slice(0, axis), count, ...x.shape.slice(axis))
  for (let o = 0; o < outer; o++) {
    for (let m = 0; m < count; m++) {
      for (let i = 0; i < inner; i++) y.data[(o * count + m) * inner + i] = factor * x.data[o * inner + i]
    }
  }
  return y
}

/** x [..., rows, columns] → [..., columns, rows]. */
export function transpose(x: Ref): Ref {
  const [rows, columns] = x.shape.slice(-2)
  const y = zeros(...x.shape.slice(0, -2), columns, rows)
  const matrices = elementCount(x.shape.slice(0, -2))
  for (let b = 0; b < matrices; b++) {
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        y.data[(b * columns + c) * rows + r] = x.data[(b * rows + r) * columns + c]
      }
    }
  }
  return y
}

/** a [..., m, k] times b [..., k, n], with every batch entry a matrix product of its own. */
export function matmul(a: Ref, b: Ref): Ref {
  const [m, k] = a.shape.slice(-2)
  const n = b.shape[b.shape.length - 1]
  const y = zeros(...a.shape.slice(0, -1), n)
  const matrices = elementCount(a.shape.slice(0, -2))
  for (let s = 0; s < matrices; s++) {
    for (let r = 0; r < m; r++) {
      for (let c = 0; c < n; c++) {
        for (let i = 0; i < k; i++) {
          y.data[(s * m + r) * n + c] += a.data[(s * m + r) * k + i] * b.data[(s * k + i) * n + c]
        }
      }
    }
  }
  return y
}
