// The array that every oracle takes and returns: a shape and its elements in float64, row-major.

export interface Ref {
  readonly shape: readonly number[]
  readonly data: Float64Array
}

/** Number of elements of `shape`; 1 for a scalar's empty shape. */
export function elementCount(shape: readonly number[]): number {
  let count = 1
  for (const extent of shape) count *= extent
  return count
}

/** An array of zeros. */
export function zeros(...shape: number[]): Ref {
  return { shape, data: new Float64Array(elementCount(shape)) }
}

/** An array of `shape` whose element at flat index i is `valueAt(i)`. */
export function generate(shape: readonly number[], valueAt: (index: number) => number): Ref {
  const result = zeros(...shape)
  for (let i = 0; i < result.data.length; i++) result.data[i] = valueAt(i)
  return result
}

/** `values` (copied) in the given shape. Throws when the counts differ. */
export function fromArray(values: ArrayLike<number>, shape: readonly number[]): Ref {
  if (values.length !== elementCount(shape)) {
    throw new Error(`${String(values.length)} values do not fill shape [${shape.join(', ')}]`)
  }
  return { shape: [...shape], data: Float64Array.from(values) }
}

/** A copy of `array` (or of `array` seen in another shape). */
export function copy(array: Ref, shape: readonly number[] = array.shape): Ref {
  return fromArray(array.data, shape)
}

/** The same elements in another shape; shares the data. */
export function reshape(array: Ref, ...shape: number[]): Ref {
  if (elementCount(shape) !== array.data.length) {
    throw new Error(`cannot see [${array.shape.join(', ')}] as [${shape.join(', ')}]`)
  }
  return { shape, data: array.data }
}

/** `change` applied to every element. */
export function map(array: Ref, change: (value: number, index: number) => number): Ref {
  return generate(array.shape, (i) => change(array.data[i], i))
}

/** Elementwise sum of two arrays of one shape. */
export function add(a: Ref, b: Ref): Ref {
  if (a.data.length !== b.data.length) throw new Error('the arrays differ in size')
  return generate(a.shape, (i) => a.data[i] + b.data[i])
}

/** Elementwise product of two arrays of one shape. */
export function multiply(a: Ref, b: Ref): Ref {
  if (a.data.length !== b.data.length) throw new Error('the arrays differ in size')
  return generate(a.shape, (i) => a.data[i] * b.data[i])
}

/** Σ a·b over all elements: the scalar whose gradient with respect to `a` is `b`. */
export function innerProduct(a: Ref, b: Ref): number {
  let sum = 0
  for (let i = 0; i < a.data.length; i++) sum += a.data[i] * b.data[i]
  return sum
}

/** The extent of the last axis and the number of rows before it: `[rows, width]`. */
export function rowsAndWidth(array: Ref): readonly [number, number] {
  const width = array.shape[array.shape.length - 1] ?? 1
  return [elementCount(array.shape.slice(0, -1)), width]
}

/** The nearest float32. */
export function roundToFloat32(value: number): number {
  return Math.fround(value)
}

const bits = new DataView(new ArrayBuffer(4))

/** The nearest bfloat16 of the nearest float32; ties to even. */
export function roundToBfloat16(value: number): number {
  if (Number.isNaN(value)) return NaN
  bits.setFloat32(0, value)
  const pattern = bits.getUint32(0)
  const keptLastBit = (pattern >>> 16) & 1
  bits.setUint32(0, ((pattern + 0x7fff + keptLastBit) & 0xffff0000) >>> 0)
  return bits.getFloat32(0)
}

/** Every element rounded to float32. */
export function toFloat32(array: Ref): Ref {
  return map(array, roundToFloat32)
}

/** Every element rounded to bfloat16. */
export function toBfloat16(array: Ref): Ref {
  return map(array, roundToBfloat16)
}

/**
 * Largest absolute error divided by the largest absolute expected value (by 1 when all are zero).
 * Infinity when a length differs or only one side of a pair is finite.
 */
export function worstError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity
  let largest = 0
  let worst = 0
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i]
    const e = expected[i]
    if (Object.is(a, e)) continue
    if (!Number.isFinite(a) || !Number.isFinite(e)) return Infinity
    worst = Math.max(worst, Math.abs(a - e))
  }
  for (let i = 0; i < expected.length; i++) {
    const size = Math.abs(expected[i])
    if (Number.isFinite(size)) largest = Math.max(largest, size)
  }
  return worst / (largest || 1)
}

/** A seeded source of test data (mulberry32). For tests only. */
export interface RandomSource {
  /** In [0, 1). */
  readonly uniform: () => number
  /** Standard normal. */
  readonly normal: () => number
  /** An integer in [low, high]. */
  readonly integer: (low: number, high: number) => number
  /** Normal elements times `scale`, each exactly representable in float32. */
  readonly array: (shape: readonly number[], scale?: number) => Ref
}

/** A random source that gives the same numbers for the same `seed`. */
export function randomSource(seed: number): RandomSource {
  let state = seed >>> 0
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
  return {
    uniform,
    normal,
    integer: (low, high) => low + Math.floor(uniform() * (high - low + 1)),
    array: (shape, scale = 1) => generate(shape, () => Math.fround(scale * normal())),
  }
}
