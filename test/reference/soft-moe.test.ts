import { describe, expect, it } from 'vitest'
import { readLayerGolden } from '../support/golden.js'
import {
  fromArray,
  innerProduct,
  map,
  multiply,
  randomSource,
  type Ref,
  toBfloat16,
  worstError,
  zeros,
} from './array.js'
import { type ExpertOptions, uniformExperts } from './experts.js'
import { numericDerivative, numericGradient } from './finite-difference.js'
import { type Similarity, softMetrics } from './soft-metrics.js'
import {
  expertRowsToSlots,
  softMoE,
  softMoEBackward,
  type SoftMoEOptions,
  slotsToExpertRows,
} from './soft-moe.js'
import { normaliseSlots, slotsToTokens, tokensToSlots, type WeightsMode } from './soft-routing.js'

interface SoftGolden {
  readonly scale: number
  readonly X: Ref
  readonly mu: Ref
  readonly W1: Ref
  readonly b1: Ref
  readonly W2: Ref
  readonly b2: Ref
  readonly dY: Ref
  readonly Y: Ref
  readonly D: Ref
  readonly C: Ref
  readonly y_bf16_dispatcher: Ref
  readonly grads: Record<'X' | 'mu' | 'W1' | 'b1' | 'W2' | 'b2', Ref> & { readonly scale: number }
  readonly metrics: Readonly<Record<string, number>>
}

describe.each(['soft_small', 'soft_p1', 'soft_bigscale'] as const)('the Soft MoE oracle on %s', (name) => {
  const golden = readLayerGolden(name) as SoftGolden
  const weights = {
    phi: golden.mu,
    scale: golden.scale,
    w1: golden.W1,
    b1: golden.b1,
    w2: golden.W2,
    b2: golden.b2,
  }
  const result = softMoE(golden.X, weights)

  it('gives dispatch, combine and output', () => {
    expect(worstError(result.dispatch.data, golden.D.data)).toBeLessThan(1e-12)
    expect(worstError(result.combine.data, golden.C.data)).toBeLessThan(1e-12)
    expect(worstError(result.y.data, golden.Y.data)).toBeLessThan(1e-12)
  })

  it('gives every gradient', () => {
    const { dx, dPhi, dScale, dScaleMagnitude, dw1, db1, dw2, db2 } = softMoEBackward(
      golden.X,
      weights,
      golden.dY,
    )
    const { grads } = golden
    expect(worstError(dx.data, grads.X.data)).toBeLessThan(1e-12)
    expect(worstError(dPhi.data, grads.mu.data)).toBeLessThan(1e-12)
    expect(worstError(dw1.data, grads.W1.data)).toBeLessThan(1e-12)
    expect(worstError(db1.data, grads.b1.data)).toBeLessThan(1e-12)
    expect(worstError(dw2.data, grads.W2.data)).toBeLessThan(1e-12)
    expect(worstError(db2.data, grads.b2.data)).toBeLessThan(1e-12)
    expect(Math.abs(dScale - grads.scale)).toBeLessThan(1e-12 * dScaleMagnitude)
  })

  it('gives the output with operands of dispatch and combine rounded to bfloat16', () => {
    const slots = tokensToSlots(result.dispatch, toBfloat16(golden.X))
    const outputs = expertRowsToSlots(uniformExperts(slotsToExpertRows(slots), weights), golden.X.shape[0])
    const y = slotsToTokens(result.combine, toBfloat16(outputs))
    expect(worstError(y.data, golden.y_bf16_dispatcher.data)).toBeLessThan(1e-9)
  })

  it('gives the router metrics', () => {
    const metrics = softMetrics(result.dispatch, result.combine, normaliseSlots(golden.mu))
    const near = (actual: number, key: string): void => {
      // The papers' code scales the slots before it takes their similarity: with 1e-9 in its root, a 1e-9 difference.
      expect(Math.abs(actual - golden.metrics[key]), key).toBeLessThan(key.startsWith('mu') ? 2e-9 : 1e-12)
    }
    near(metrics.combineWeightsMinMean, 'combine_weights_min_mean')
    near(metrics.combineWeightsMaxMean, 'combine_weights_max_mean')
    near(metrics.dispatchWeightsMinMean, 'dispatch_weights_min_mean')
    near(metrics.dispatchWeightsMaxMean, 'dispatch_weights_max_mean')
    const nearAll = (similarity: Similarity, prefix: string): void => {
      near(similarity.min, `${prefix}_similarity_min`)
      near(similarity.max, `${prefix}_similarity_max`)
      near(similarity.mean, `${prefix}_similarity_mean`)
    }
    nearAll(metrics.combineWeightsSimilarity, 'combine_weights')
    nearAll(metrics.dispatchWeightsSimilarity, 'dispatch_weights')
    nearAll(metrics.slotSimilarity, 'mu')
  })
})

/** Every gradient of the layer against finite differences; returns the worst error. */
function worstGradientError(
  [batch, tokens, dim, experts, slotsPerExpert, hidden]: readonly number[],
  options: SoftMoEOptions,
  seed: number,
  changeInput: (x: Ref) => void = () => undefined,
): number {
  const random = randomSource(seed)
  const x = random.array([batch, tokens, dim])
  changeInput(x)
  const weights = {
    phi: random.array([dim, experts, slotsPerExpert]),
    w1: random.array([experts, dim, hidden]),
    b1: random.array([experts, hidden]),
    w2: random.array([experts, hidden, dim]),
    b2: random.array([experts, dim]),
  }
  const scale = 1.7
  const dy = random.array([batch, tokens, dim])
  const loss = (): number => innerProduct(softMoE(x, { ...weights, scale }, options).y, dy)
  const gradients = softMoEBackward(x, { ...weights, scale }, dy, options)
  const pairs: [Ref, Ref][] = [
    [x, gradients.dx],
    [weights.phi, gradients.dPhi],
    [weights.w1, gradients.dw1],
    [weights.b1, gradients.db1],
    [weights.w2, gradients.dw2],
    [weights.b2, gradients.db2],
  ]
  const errors = pairs.map(([array, gradient]) =>
    worstError(gradient.data, numericGradient(loss, array).data),
  )
  const numericScale = numericDerivative(
    (s) => innerProduct(softMoE(x, { ...weights, scale: s }, options).y, dy),
    scale,
  )
  return Math.max(...errors, Math.abs(gradients.dScale - numericScale))
}

const MODES: readonly WeightsMode[] = ['soft', 'uniform', 'identity']

describe('Soft MoE gradients against finite differences', () => {
  it.each(MODES.flatMap((dispatch) => MODES.map((combine) => ({ dispatch, combine }))))(
    'dispatch $dispatch, combine $combine, with padding',
    ({ dispatch, combine }) => {
      const mask = [1, 0, 1, 1, 1, 1, 1, 0]
      expect(worstGradientError([2, 4, 3, 3, 2, 5], { dispatch, combine, mask }, 1)).toBeLessThan(1e-9)
      expect(worstGradientError([1, 4, 3, 3, 1, 2], { dispatch, combine }, 2)).toBeLessThan(1e-9)
    },
  )

  it('eps outside the root, erf GELU, noise, dropout', () => {
    const random = randomSource(3)
    const keep = (shape: number[]): Ref => map(random.array(shape), (v) => (v > -0.5 ? 1.4 : 0))
    const dropout: ExpertOptions = { hiddenDropout: keep([8, 5]), outputDropout: keep([8, 3]) }
    const noise = random.array([2, 4, 2, 2])
    expect(worstGradientError([2, 4, 3, 2, 2, 5], { epsilonMode: 'outside', epsilon: 0.1 }, 4)).toBeLessThan(
      1e-9,
    )
    expect(worstGradientError([2, 4, 3, 2, 2, 5], { epsilon: 0.1 }, 4)).toBeLessThan(1e-9)
    expect(
      worstGradientError([2, 4, 3, 2, 2, 5], { activation: 'gelu_erf', noise, ...dropout }, 5),
    ).toBeLessThan(1e-9)
  })

  it('one token, one slot, one of everything', () => {
    expect(worstGradientError([2, 1, 3, 2, 2, 2], {}, 6)).toBeLessThan(1e-9)
    expect(worstGradientError([2, 3, 3, 1, 1, 2], {}, 7)).toBeLessThan(1e-9)
    expect(worstGradientError([1, 1, 1, 1, 1, 1], { epsilon: 0.1 }, 8)).toBeLessThan(1e-9)
  })

  it('gives a fully masked sequence no output and no gradient', () => {
    const random = randomSource(9)
    const x = random.array([2, 3, 4])
    const weights = {
      phi: random.array([4, 2, 2]),
      scale: 1,
      w1: random.array([2, 4, 3]),
      b1: random.array([2, 3]),
      w2: random.array([2, 3, 4]),
      b2: random.array([2, 4]),
    }
    const mask = [1, 1, 0, 0, 0, 0]
    expect(worstGradientError([2, 3, 4, 2, 2, 3], { mask }, 9)).toBeLessThan(1e-9)
    const { y, dispatch } = softMoE(x, weights, { mask })
    const { dx } = softMoEBackward(x, weights, random.array([2, 3, 4]), { mask })
    for (const array of [y, dx]) expect(array.data.subarray(8)).toEqual(new Float64Array(16))
    expect(dispatch.data.subarray(12)).toEqual(new Float64Array(12))
  })

  it('gives a zero token a finite gradient in both eps forms', () => {
    const zeroFirst = (x: Ref): void => void x.data.fill(0, 0, 3)
    // At 0 the form with eps outside the root is not differentiated: its router gradient is defined as 0.
    expect(worstGradientError([1, 3, 3, 2, 1, 2], { epsilon: 0.5 }, 10, zeroFirst)).toBeLessThan(1e-9)
    const random = randomSource(11)
    const weights = {
      phi: random.array([3, 2, 1]),
      scale: 1,
      w1: random.array([2, 3, 2]),
      b1: zeros(2, 2),
      w2: random.array([2, 2, 3]),
      b2: zeros(2, 3),
    }
    const x = fromArray([0, 0, 0, 1, 2, 3], [1, 2, 3])
    const { dx } = softMoEBackward(x, weights, random.array([1, 2, 3]), { epsilonMode: 'outside' })
    expect(dx.data.every(Number.isFinite)).toBe(true)
  })
})

describe('Soft MoE identities', () => {
  it('has dispatch columns and combine rows that sum to one in every mode', () => {
    const random = randomSource(12)
    const weights = {
      phi: random.array([3, 2, 3]),
      scale: 5,
      w1: random.array([2, 3, 2]),
      b1: zeros(2, 2),
      w2: random.array([2, 2, 3]),
      b2: zeros(2, 3),
    }
    for (const tokens of [1, 4, 6, 11]) {
      const x = random.array([1, tokens, 3])
      for (const mode of MODES) {
        const { dispatch, combine } = softMoE(x, weights, { dispatch: mode, combine: mode })
        for (let j = 0; j < 6; j++) {
          let column = 0
          for (let m = 0; m < tokens; m++) column += dispatch.data[m * 6 + j]
          expect(column).toBeCloseTo(1, 12)
        }
        for (let m = 0; m < tokens; m++) {
          expect(combine.data.subarray(m * 6, m * 6 + 6).reduce((a, b) => a + b)).toBeCloseTo(1, 12)
        }
      }
    }
  })

  it('takes a batch of none', () => {
    const random = randomSource(14)
    const weights = {
      phi: random.array([3, 2, 2]),
      scale: 1,
      w1: random.array([2, 3, 4]),
      b1: random.array([2, 4]),
      w2: random.array([2, 4, 3]),
      b2: random.array([2, 3]),
    }
    expect(softMoE(zeros(0, 5, 3), weights).y.shape).toEqual([0, 5, 3])
    const { dx, dw1 } = softMoEBackward(zeros(0, 5, 3), weights, zeros(0, 5, 3))
    expect(dx.shape).toEqual([0, 5, 3])
    expect(dw1).toEqual(zeros(2, 3, 4))
  })

  it('is token-wise f_expert(x) in identity mode with as many slots as tokens', () => {
    const random = randomSource(13)
    const weights = {
      phi: random.array([3, 2, 2]),
      scale: 1,
      w1: random.array([2, 3, 4]),
      b1: random.array([2, 4]),
      w2: random.array([2, 4, 3]),
      b2: random.array([2, 3]),
    }
    const x = random.array([1, 4, 3])
    const { y, dispatch, combine } = softMoE(x, weights, { dispatch: 'identity', combine: 'identity' })
    const direct = uniformExperts({ shape: [2, 2, 3], data: x.data }, weights)
    expect(worstError(y.data, direct.data)).toBeLessThan(1e-15)
    expect(multiply(dispatch, combine).data).toEqual(dispatch.data)
  })
})
