// GELU(x) = x Φ(x) (Hendrycks and Gimpel, 2016), exact by the error function or by its tanh approximation.

export type Activation = 'none' | 'gelu_tanh' | 'gelu_erf'

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI)
const CUBIC = 0.044715

/** ½x(1 + tanh(√(2/π)(x + 0.044715x³))). */
export function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(SQRT_2_OVER_PI * (x + CUBIC * x ** 3)))
}

export function geluTanhDerivative(x: number): number {
  const t = Math.tanh(SQRT_2_OVER_PI * (x + CUBIC * x ** 3))
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * CUBIC * x * x)
}

/** 1 − erf(x) with small relative error also where it is tiny. */
export function complementaryError(x: number): number {
  if (x < 0) return 2 - complementaryError(-x)
  if (x < 2.5) {
    // erf(x) = 2/√π e^(−x²) Σ 2ⁿ x^(2n+1) / (1·3·5⋯(2n+1)), all terms positive.
    let term = x
    let sum = x
    for (let n = 1; term > 1e-18 * sum; n++) {
      term *= (2 * x * x) / (2 * n + 1)
      sum += term
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
  }
  // Continued fraction erfc(x) = e^(−x²)/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/…))), from its tail.
  let tail = x
  for (let n = 200; n >= 1; n--) tail = x + n / 2 / tail
  return Math.exp(-x * x) / (Math.sqrt(Math.PI) * tail)
}

/** Φ(x), the standard normal distribution function. */
export function normalDistribution(x: number): number {
  return 0.5 * complementaryError(-x / Math.SQRT2)
}

/** φ(x), the standard normal density. */
export function normalDensity(x: number): number {
  return Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI)
}

/** xΦ(x). */
export function geluErf(x: number): number {
  return x * normalDistribution(x)
}

export function geluErfDerivative(x: number): number {
  return normalDistribution(x) + x * normalDensity(x)
}

export function activate(activation: Activation, x: number): number {
  if (activation === 'gelu_tanh') return geluTanh(x)
  if (activation === 'gelu_erf') return geluErf(x)
  return x
}

export function activationDerivative(activation: Activation, x: number): number {
  if (activation === 'gelu_tanh') return geluTanhDerivative(x)
  if (activation === 'gelu_erf') return geluErfDerivative(x)
  return 1
}
