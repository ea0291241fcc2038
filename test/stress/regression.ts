/** Least-squares line through points. */
export function slope(x: readonly number[], y: readonly number[]): number {
  const count = x.length
  const meanX = x.reduce((sum, value) => sum + value, 0) / count
  const meanY = y.reduce((sum, value) => sum + value, 0) / count
  let above = 0
  let below = 0
  for (let i = 0; i < count; i++) {
    above += (x[i] - meanX) * (y[i] - meanY)
    below += (x[i] - meanX) ** 2
  }
  return above / below
}
