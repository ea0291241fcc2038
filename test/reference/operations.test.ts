import { describe, expect, it } from 'vitest'
import { readLayerGolden } from '../support/golden.js'
import { fromArray, innerProduct, map, randomSource, type Ref, roundToBfloat16, worstError } from './array.js'
import { attention, attentionBackward, attentionWeights } from './attention.js'
import { sigmoidCrossEntropy, smoothedTargets, softmaxCrossEntropy } from './cross-entropy.js'
import {
  addPositions,
  addPositionsBackward,
  patchify,
  patchifyBackward,
  prependToken,
  prependTokenBackward,
} from './embeddings.js'
import { raggedExperts, raggedExpertsBackward } from './experts.js'
import { numericDerivative, numericGradient } from './finite-difference.js'
import { complementaryError, geluErf, geluErfDerivative, geluTanh, geluTanhDerivative } from './gelu.js'
import { layerNorm, layerNormBackward } from './layer-norm.js'
import { linear, linearBackward } from './linear.js'
import { adamWStep, clipScale, globalNorm, sgdStep, zeroMoments } from './optimizers.js'
import { firstToken, firstTokenBackward, meanPool, meanPoolBackward } from './pooling.js'
import { reciprocalSquareRoot, warmupCosine, warmupLinear } from './schedules.js'
import { softmaxRows, softmaxRowsBackward } from './softmax.js'

/** Expects `analytic` to be the gradient of `loss` with respect to `array`. */
function expectGradient(analytic: Ref, loss: () => number, array: Ref): void {
  expect(analytic.shape).toEqual(array.shape)
  expect(worstError(analytic.data, numericGradient(loss, array).data)).toBeLessThan(1e-9)
}

describe('rounding', () => {
  it('to bfloat16 goes to the nearest, ties to even', () => {
    const step = 2 ** -7
    expect(roundToBfloat16(1 + 0.5 * step)).toBe(1)
    expect(roundToBfloat16(1 + 1.5 * step)).toBe(1 + 2 * step)
    expect(roundToBfloat16(1 + 0.51 * step)).toBe(1 + step)
    expect(roundToBfloat16(-3.14159)).toBe(-3.140625)
    expect(roundToBfloat16(3.4e38)).toBe(Infinity)
    expect([roundToBfloat16(0), roundToBfloat16(-0), roundToBfloat16(NaN)]).toEqual([0, -0, NaN])
  })

  it('errors are measured against the largest expected value', () => {
    expect(worstError([1, 2.5], [1, 2])).toBe(0.25)
    expect(worstError([0.5], [0])).toBe(0.5)
    expect(worstError([NaN, Infinity], [NaN, Infinity])).toBe(0)
    expect(worstError([NaN], [1])).toBe(Infinity)
    expect(worstError([1], [1, 2])).toBe(Infinity)
  })
})

describe('GELU', () => {
  it('agrees with the papers’ code', () => {
    const golden = readLayerGolden('gelu') as Record<'x' | 'gelu_tanh' | 'dgelu_tanh' | 'gelu_erf', Ref>
    const values = (f: (x: number) => number): Float64Array => golden.x.data.map((x) => f(x))
    expect(worstError(values(geluTanh), golden.gelu_tanh.data)).toBeLessThan(1e-15)
    expect(worstError(values(geluTanhDerivative), golden.dgelu_tanh.data)).toBeLessThan(1e-14)
    expect(worstError(values(geluErf), golden.gelu_erf.data)).toBeLessThan(1e-15)
    // Also where the value is tiny the relative error is small.
    golden.x.data.forEach((x, i) => {
      if (x !== 0) expect(geluErf(x) / golden.gelu_erf.data[i]).toBeCloseTo(1, 11)
    })
  })

  it('has the right derivatives and the right erfc', () => {
    for (const x of [-4, -2.6, -1, 0, 0.3, 2, 3.6]) {
      expect(geluErfDerivative(x)).toBeCloseTo(numericDerivative(geluErf, x), 10)
      expect(geluTanhDerivative(x)).toBeCloseTo(numericDerivative(geluTanh, x), 10)
    }
    expect(complementaryError(0)).toBe(1)
    expect(complementaryError(1) / 0.15729920705028513).toBeCloseTo(1, 13)
    expect(complementaryError(5) / 1.5374597944280349e-12).toBeCloseTo(1, 13)
    expect(complementaryError(-0.5)).toBeCloseTo(1.5204998778130465, 13)
  })
})

describe('gradients against finite differences', () => {
  const random = randomSource(1)

  it.each(['none', 'gelu_tanh', 'gelu_erf'] as const)('linear with activation %s', (activation) => {
    const [x, weight, bias] = [random.array([2, 3, 4]), random.array([4, 5]), random.array([5])]
    const dy = random.array([2, 3, 5])
    const loss = (): number => innerProduct(linear(x, weight, bias, activation), dy)
    const { dx, dWeight, dBias } = linearBackward(x, weight, bias, activation, dy)
    expectGradient(dx, loss, x)
    expectGradient(dWeight, loss, weight)
    expectGradient(dBias, loss, bias)
  })

  it('layer norm with and without scale and bias', () => {
    const [x, scale, bias, dy] = [
      random.array([3, 5]),
      random.array([5]),
      random.array([5]),
      random.array([3, 5]),
    ]
    const loss = (): number => innerProduct(layerNorm(x, scale, bias), dy)
    const { dx, dScale, dBias } = layerNormBackward(x, scale, dy)
    expectGradient(dx, loss, x)
    expectGradient(dScale, loss, scale)
    expectGradient(dBias, loss, bias)
    expectGradient(layerNormBackward(x, undefined, dy).dx, () => innerProduct(layerNorm(x), dy), x)
  })

  it('attention, with other keys than queries and with dropout', () => {
    const [q, k, v] = [random.array([2, 3, 2, 4]), random.array([2, 5, 2, 4]), random.array([2, 5, 2, 4])]
    const dOut = random.array([2, 3, 2, 4])
    for (const dropout of [undefined, map(random.array([2, 2, 3, 5]), (value) => (value > -0.5 ? 1.5 : 0))]) {
      const loss = (): number => innerProduct(attention(q, k, v, dropout), dOut)
      const { dq, dk, dv } = attentionBackward(q, k, v, dOut, dropout)
      expectGradient(dq, loss, q)
      expectGradient(dk, loss, k)
      expectGradient(dv, loss, v)
    }
    const weights = attentionWeights(q, k)
    for (let row = 0; row < 12; row++) {
      expect(weights.data.subarray(row * 5, row * 5 + 5).reduce((a, b) => a + b)).toBeCloseTo(1, 13)
    }
  })

  it('softmax', () => {
    const [x, dy] = [random.array([3, 4]), random.array([3, 4])]
    expectGradient(softmaxRowsBackward(softmaxRows(x), dy), () => innerProduct(softmaxRows(x), dy), x)
  })

  it.each([0, 0.1])('cross-entropies with label smoothing %d', (smoothing) => {
    const logits = random.array([3, 5], 2)
    const targets = smoothedTargets([4, 0, 2], 5, smoothing)
    expectGradient(
      softmaxCrossEntropy(logits, targets).dLogits,
      () => softmaxCrossEntropy(logits, targets).loss,
      logits,
    )
    expectGradient(
      sigmoidCrossEntropy(logits, targets).dLogits,
      () => sigmoidCrossEntropy(logits, targets).loss,
      logits,
    )
  })

  it('cross-entropies of known value, also at extreme logits', () => {
    const flat = fromArray([0, 0, 0, 0], [1, 4])
    expect(softmaxCrossEntropy(flat, smoothedTargets([1], 4, 0.3)).loss).toBeCloseTo(Math.log(4), 14)
    expect(sigmoidCrossEntropy(flat, smoothedTargets([1], 4)).loss).toBeCloseTo(4 * Math.log(2), 14)
    const extreme = fromArray([1000, -1000], [1, 2])
    expect(softmaxCrossEntropy(extreme, smoothedTargets([1], 2)).loss).toBe(2000)
    expect(sigmoidCrossEntropy(extreme, smoothedTargets([1], 2)).loss).toBe(2000)
  })

  it('patches, positions, class token and pooling', () => {
    const images = random.array([2, 5, 7, 3])
    const dPatches = random.array([2, 6, 12])
    expectGradient(
      patchifyBackward(dPatches, images.shape, 2),
      () => innerProduct(patchify(images, 2), dPatches),
      images,
    )
    const [x, positions, token] = [random.array([2, 3, 4]), random.array([1, 3, 4]), random.array([1, 1, 4])]
    const dx = random.array([2, 3, 4])
    expectGradient(
      addPositionsBackward(dx, positions.shape),
      () => innerProduct(addPositions(x, positions), dx),
      positions,
    )
    const dLonger = random.array([2, 4, 4])
    const prepended = (): number => innerProduct(prependToken(x, token), dLonger)
    expectGradient(prependTokenBackward(dLonger, token.shape).dx, prepended, x)
    expectGradient(prependTokenBackward(dLonger, token.shape).dToken, prepended, token)
    const dPooled = random.array([2, 4])
    expectGradient(meanPoolBackward(dPooled, 3), () => innerProduct(meanPool(x), dPooled), x)
    expectGradient(firstTokenBackward(dPooled, 3), () => innerProduct(firstToken(x), dPooled), x)
  })

  it('experts with ragged rows, one of them without any', () => {
    const rows = [2, 0, 3]
    const x = random.array([5, 4])
    const weights = {
      w1: random.array([3, 4, 2]),
      b1: random.array([3, 2]),
      w2: random.array([3, 2, 3]),
      b2: random.array([3, 3]),
    }
    const dy = random.array([5, 3])
    const loss = (): number => innerProduct(raggedExperts(x, rows, weights), dy)
    const gradients = raggedExpertsBackward(x, rows, weights, dy)
    expectGradient(gradients.dx, loss, x)
    expectGradient(gradients.dw1, loss, weights.w1)
    expectGradient(gradients.db1, loss, weights.b1)
    expectGradient(gradients.dw2, loss, weights.w2)
    expectGradient(gradients.db2, loss, weights.b2)
    expect(gradients.dw1.data.subarray(8, 16)).toEqual(new Float64Array(8))
  })
})

interface OptimizerCase {
  readonly clip_global_norm: number | null
  readonly weight_decay: number
  readonly learning_rate: number
  readonly params: { readonly a: number[][]; readonly b: number[] }
  readonly grads: readonly { readonly a: number[][]; readonly b: number[] }[]
  readonly after_step: readonly { readonly a: number[][]; readonly b: number[] }[]
}

interface ScheduleCase {
  readonly schedule: string
  readonly total_steps: number
  readonly peak_value: number
  readonly end_value?: number
  readonly timescale?: number
  readonly warmup_steps: number
  readonly cooldown_steps?: number
  readonly steps: readonly number[]
  readonly values: readonly number[]
}

describe('optimisation', () => {
  const golden = readLayerGolden('optimizer') as { schedules: ScheduleCase[]; adamw: OptimizerCase[] }
  const arrays = ({ a, b }: { a: number[][]; b: number[] }): Ref[] => [
    fromArray(a.flat(), [3, 4]),
    fromArray(b, [4]),
  ]

  it.each(golden.adamw.map((adamw, index) => ({ index, adamw })))(
    'AdamW with clipping, case $index',
    ({ adamw }) => {
      const values = arrays(adamw.params)
      const moments = values.map(zeroMoments)
      expect(adamw.grads).toHaveLength(6)
      adamw.grads.forEach((step, i) => {
        const gradients = arrays(step)
        const scale = adamw.clip_global_norm === null ? 1 : clipScale(gradients, adamw.clip_global_norm)
        values.forEach((value, j) => {
          adamWStep(
            value,
            moments[j],
            map(gradients[j], (g) => scale * g),
            i + 1,
            {
              learningRate: adamw.learning_rate,
              weightDecay: adamw.weight_decay,
            },
          )
        })
        arrays(adamw.after_step[i]).forEach((expected, j) => {
          expect(worstError(values[j].data, expected.data)).toBeLessThan(1e-12)
        })
      })
    },
  )

  it.each(golden.schedules)('schedule $schedule, warm-up $warmup_steps', (c) => {
    const { total_steps: totalSteps, peak_value: peak, warmup_steps: warmupSteps } = c
    const common = { totalSteps, peak, warmupSteps }
    const values = c.steps.map((step) => {
      const end = c.end_value ?? 0
      if (c.schedule === 'warmup_linear_decay') return warmupLinear(step, { ...common, end })
      if (c.schedule === 'warmup_cosine_decay') return warmupCosine(step, { ...common, end })
      return reciprocalSquareRoot(step, {
        ...common,
        timescale: c.timescale ?? 1,
        cooldownSteps: c.cooldown_steps ?? 0,
      })
    })
    expect(worstError(values, c.values)).toBeLessThan(1e-12)
  })

  it('clipping leaves small gradients alone and shrinks large ones to the bound', () => {
    const gradients = [fromArray([3], [1]), fromArray([4], [1])]
    expect(globalNorm(gradients)).toBe(5)
    expect(clipScale(gradients, 10)).toBe(1)
    expect(clipScale(gradients, 2)).toBeCloseTo(0.4, 15)
  })

  it('SGD with momentum, two steps by hand', () => {
    const run = (nesterov: boolean): number => {
      const [value, buffer, gradient] = [fromArray([1], [1]), fromArray([0], [1]), fromArray([2], [1])]
      for (let i = 0; i < 2; i++)
        sgdStep(value, buffer, gradient, { learningRate: 0.1, momentum: 0.5, nesterov, weightDecay: 0.5 })
      return value.data[0]
    }
    // g = 2.5, m = 2.5, x = 0.75; g = 2.375, m = 3.625, x = 0.3875.
    expect(run(false)).toBeCloseTo(0.3875, 14)
    // g = 2.5, m = 2.5, x = 1 − 0.1·3.75 = 0.625; g = 2.3125, m = 3.5625, x = 0.625 − 0.1·4.09375.
    expect(run(true)).toBeCloseTo(0.215625, 14)
  })
})
