import { describe, expect, it } from 'vitest'
import { readLayerGolden } from '../support/golden.js'
import { innerProduct, randomSource, type Ref, reshape, worstError, zeros } from './array.js'
import { gshardLoss, importanceLoss, loadLoss, zLoss } from './auxiliary-losses.js'
import { expertCapacity, roundHalfToEven, slotsPerExpert } from './capacity.js'
import { expertsChoice, expertsChoiceMetrics, topTokens } from './experts-choice.js'
import { numericGradient } from './finite-difference.js'
import { sinkhornPlan, sinkhornPlanBackward } from './sinkhorn.js'
import { sparseMoE, sparseMoEBackward, type SparseMoEOptions } from './sparse-moe.js'
import { sparsePlan, sparseSimplexProjection } from './sparse-transport.js'
import {
  combineTensor,
  renormalisedGates,
  renormalisedGatesBackward,
  topExperts,
  tokensChoice,
} from './tokens-choice.js'

interface Cases<T> {
  readonly cases: readonly T[]
}

describe('the oracle of capacity', () => {
  it('agrees with the papers’ code', () => {
    const { cases } = readLayerGolden('capacity') as Cases<{
      num_tokens: number
      num_experts: number
      factor: number
      how: 'ceil' | 'round'
      multiple_of: number
      capacity: number
    }>
    expect(cases).toHaveLength(15)
    for (const c of cases) {
      expect(expertCapacity(c.num_tokens, c.num_experts, c.factor, c.how, c.multiple_of)).toBe(c.capacity)
    }
    expect(slotsPerExpert(196, 8)).toBe(24)
    expect([0.5, 1.5, 2.5, -0.5, 2.4999, 2.5001].map(roundHalfToEven)).toEqual([0, 2, 2, 0, 2, 3])
  })
})

describe('the oracle of Tokens Choice', () => {
  const { cases } = readLayerGolden('token_choice') as Cases<{
    gates: Ref
    K: number
    capacity: number
    bpr: boolean
    expert: Ref
    position: Ref
    weight: Ref
    combine: Ref
    kept: Ref
  }>

  it.each(cases.map((golden, index) => ({ index, golden })))(
    'agrees with the papers’ code on case $index',
    ({ golden }) => {
      const { gates, K: k, capacity, bpr } = golden
      const routing = tokensChoice(gates, { k, capacity, priority: bpr ? 'max-gate' : 'token-order' })
      expect(routing.experts).toEqual([...golden.expert.data])
      expect(routing.positions).toEqual([...golden.position.data])
      expect(routing.kept.map(Number)).toEqual([...golden.kept.data])
      expect(routing.experts.map((e, i) => gates.data[Math.floor(i / k) * gates.shape[1] + e])).toEqual([
        ...golden.weight.data,
      ])
      expect(combineTensor(gates, routing.assignments, capacity)).toEqual(golden.combine)
    },
  )

  it('counts NaN as −infinity and breaks ties by the lower index', () => {
    const scores: Ref = { shape: [2, 3], data: Float64Array.of(NaN, 0.5, 0.5, NaN, NaN, NaN) }
    expect(topExperts(scores, 2)).toEqual([1, 2, 0, 1])
    expect(topTokens(scores, 1)).toEqual([0, 0, 0])
  })

  it('serves tokens by the sum of their gates when asked', () => {
    const scores: Ref = { shape: [2, 3], data: Float64Array.of(0.6, 0.05, 0.35, 0.5, 0.49, 0.01) }
    expect(tokensChoice(scores, { k: 2, capacity: 1, priority: 'max-gate' }).kept).toEqual([
      true,
      true,
      false,
      true,
    ])
    const bySum = tokensChoice(scores, { k: 2, capacity: 1, priority: 'sum-of-gates' })
    expect(bySum.kept).toEqual([false, true, true, true])
  })

  it('has the gradient of renormalised gates', () => {
    const gates: Ref = { shape: [3, 4], data: Float64Array.from({ length: 12 }, randomSource(1).uniform) }
    const selected = topExperts(gates, 2)
    const d = randomSource(2).array([3, 4])
    const numeric = numericGradient(() => innerProduct(renormalisedGates(gates, selected, 2), d), gates, 1e-4)
    expect(worstError(renormalisedGatesBackward(gates, selected, 2, d).data, numeric.data)).toBeLessThan(1e-9)
  })
})

describe('the oracle of Experts Choice', () => {
  const { cases } = readLayerGolden('expert_choice') as Cases<{
    gates: Ref
    capacity: number
    token: Ref
    combine: Ref
    metrics: Record<string, number>
  }>

  it.each(cases.map((golden, index) => ({ index, golden })))(
    'agrees with the papers’ code on case $index',
    ({ golden }) => {
      const { gates, capacity } = golden
      expect(topTokens(gates, capacity)).toEqual([...golden.token.data])
      const assignments = expertsChoice(gates, capacity)
      expect(combineTensor(gates, assignments, capacity)).toEqual(golden.combine)
      const metrics = expertsChoiceMetrics(gates, assignments)
      for (const [key, value] of Object.entries(golden.metrics)) {
        const least = /at_least_(\d+)_experts/.exec(key)?.[1]
        const actual = least
          ? metrics.tokensWithAtLeast(Number(least))
          : {
              num_experts_per_item_min: metrics.expertsPerTokenMin,
              num_experts_per_item_max: metrics.expertsPerTokenMax,
              min_selected_gate: metrics.minSelectedGate,
              max_selected_gate: metrics.maxSelectedGate,
            }[key]
        expect(actual, key).toBeCloseTo(value, 12)
      }
    },
  )
})

describe('the oracles of the auxiliary losses', () => {
  const { cases } = readLayerGolden('aux_losses') as Cases<{
    logits: Ref
    noise: Ref
    noise_std: number
    K: number
    gates: Ref
    load: number
    dload_dlogits: Ref
    importance: number
    dimportance_dgates: Ref
    gshard: number
    dgshard_dgates: Ref
  }>

  it.each(cases.map((golden, index) => ({ index, golden })))(
    'agree with the papers’ code on case $index',
    ({ golden }) => {
      const noisy: Ref = {
        shape: golden.logits.shape,
        data: golden.logits.data.map((l, i) => l + golden.noise.data[i]),
      }
      const load = loadLoss(golden.logits, noisy, golden.K, golden.noise_std)
      expect(worstError([load.loss], [golden.load])).toBeLessThan(1e-12)
      expect(worstError(load.gradient.data, golden.dload_dlogits.data)).toBeLessThan(1e-12)
      const importance = importanceLoss(golden.gates)
      expect(worstError([importance.loss], [golden.importance])).toBeLessThan(1e-12)
      expect(worstError(importance.gradient.data, golden.dimportance_dgates.data)).toBeLessThan(1e-12)
      // The papers' code takes the mean of its one-hot matrix in float32.
      const gshard = gshardLoss(golden.gates)
      // The papers’ code takes the mean of its one-hot matrix in float32 when it computes the loss.
      expect(worstError([gshard.loss], [golden.gshard])).toBeLessThan(1e-7)
      expect(worstError(gshard.gradient.data, golden.dgshard_dgates.data)).toBeLessThan(1e-12)
    },
  )

  it('have the gradients of finite differences', () => {
    const logits = randomSource(3).array([7, 5])
    const noise = randomSource(4).array([7, 5], 0.3)
    const noisy = (): Ref => ({ shape: [7, 5], data: logits.data.map((l, i) => l + noise.data[i]) })
    const gates: Ref = { shape: [7, 5], data: Float64Array.from({ length: 35 }, randomSource(5).uniform) }
    const error = (analytic: Ref, loss: () => number, at: Ref): number =>
      worstError(analytic.data, numericGradient(loss, at).data)
    expect(error(zLoss(logits).gradient, () => zLoss(logits).loss, logits)).toBeLessThan(1e-9)
    expect(
      error(loadLoss(logits, noisy(), 2, 0.5).gradient, () => loadLoss(logits, noisy(), 2, 0.5).loss, logits),
    ).toBeLessThan(1e-8)
    expect(error(importanceLoss(gates).gradient, () => importanceLoss(gates).loss, gates)).toBeLessThan(1e-9)
    expect(error(gshardLoss(gates).gradient, () => gshardLoss(gates).loss, gates)).toBeLessThan(1e-9)
  })

  it('are flat where the experts are perfectly balanced', () => {
    const balanced: Ref = { shape: [4, 2], data: new Float64Array(8).fill(0.5) }
    expect(importanceLoss(balanced)).toEqual({ loss: 0, gradient: zeros(4, 2) })
  })
})

describe('the oracles of the transport plans', () => {
  it('agree with the papers’ code', () => {
    const sinkhorn = readLayerGolden('sinkhorn') as Cases<{ logits: Ref; iters: number; plan: Ref }>
    for (const { logits, iters, plan } of sinkhorn.cases) {
      expect(worstError(sinkhornPlan(logits, iters).data, plan.data)).toBeLessThan(1e-12)
    }
    const sparse = readLayerGolden('ksparse') as Cases<{
      sim: Ref
      k: number
      iters: number
      row_sparse: boolean
      adam_lr: number
      tol: number
      plan: Ref
    }>
    for (const {
      sim,
      k,
      iters,
      row_sparse: byRows,
      adam_lr: learningRate,
      tol: tolerance,
      plan,
    } of sparse.cases) {
      const actual = sparsePlan(sim, { k, iterations: iters, byRows, learningRate, tolerance })
      expect(worstError(actual.data, plan.data)).toBeLessThan(1e-12)
      expect([...actual.data].map((p) => p > 0)).toEqual([...plan.data].map((p) => p > 0))
    }
  })

  it('project onto the sparse simplex', () => {
    expect(
      [...sparseSimplexProjection(Float64Array.of(0.2, 5, 0.1, 4.8), 2)].map((p) => +p.toFixed(12)),
    ).toEqual([0, 0.6, 0, 0.4])
    expect([...sparseSimplexProjection(Float64Array.of(1, 1, 1), 2)]).toEqual([0.5, 0.5, 0])
    const whole = sparseSimplexProjection(Float64Array.of(0.3, 0.3, 0.3, 0.3), Infinity)
    expect([...whole].map((p) => +p.toFixed(12))).toEqual([0.25, 0.25, 0.25, 0.25])
  })

  it('reach both marginals without a sparsity constraint', () => {
    const sim: Ref = { shape: [5, 4], data: new Float64Array(20).fill(0.3) }
    expect(worstError(sparsePlan(sim, { k: Infinity }).data, new Float64Array(20).fill(0.25))).toBeLessThan(
      1e-12,
    )
    const random: Ref = { shape: [6, 3], data: Float64Array.from({ length: 18 }, randomSource(6).uniform) }
    for (const byRows of [false, true]) {
      const plan = sparsePlan(random, { k: Infinity, iterations: 3000, tolerance: 1e-6, byRows })
      for (let s = 0; s < 6; s++)
        expect(plan.data[s * 3] + plan.data[s * 3 + 1] + plan.data[s * 3 + 2]).toBeCloseTo(1, 4)
    }
  })

  it('Sinkhorn’s implicit gradient is that of the converged plan', () => {
    const logits = randomSource(7).array([5, 3])
    const d = randomSource(8).array([5, 3])
    const numeric = numericGradient(() => innerProduct(sinkhornPlan(logits, 400), d), logits)
    expect(worstError(sinkhornPlanBackward(sinkhornPlan(logits, 400), d).data, numeric.data)).toBeLessThan(
      1e-9,
    )
  })
})

describe('the oracle of the sparse layer', () => {
  const { cases } = readLayerGolden('vmoe_layer') as Cases<{
    kind: 'token' | 'expert'
    bpr: boolean | null
    K: number | null
    capacity: number
    X: Ref
    router: Ref
    W1: Ref
    b1: Ref
    W2: Ref
    b2: Ref
    dY: Ref
    Y: Ref
    grads: Record<'X' | 'router' | 'W1' | 'b1' | 'W2' | 'b2', Ref>
  }>

  it.each(cases.map((golden, index) => ({ index, golden })))(
    'agrees with the papers’ code on case $index',
    ({ golden }) => {
      const { grads } = golden
      const weights = { router: golden.router, w1: golden.W1, b1: golden.b1, w2: golden.W2, b2: golden.b2 }
      const options: SparseMoEOptions =
        golden.kind === 'expert'
          ? { choice: 'experts', capacity: golden.capacity }
          : {
              choice: 'tokens',
              k: golden.K ?? 1,
              capacity: golden.capacity,
              priority: golden.bpr ? 'max-gate' : 'token-order',
            }
      const x = reshape(golden.X, 1, ...golden.X.shape)
      const dy = reshape(golden.dY, 1, ...golden.dY.shape)
      expect(worstError(sparseMoE(x, weights, options).y.data, golden.Y.data)).toBeLessThan(1e-12)
      const gradients = sparseMoEBackward(x, weights, dy, options)
      expect(worstError(gradients.dx.data, grads.X.data)).toBeLessThan(1e-12)
      expect(worstError(gradients.dRouter.data, grads.router.data)).toBeLessThan(1e-12)
      expect(worstError(gradients.dw1.data, grads.W1.data)).toBeLessThan(1e-12)
      expect(worstError(gradients.db1.data, grads.b1.data)).toBeLessThan(1e-12)
      expect(worstError(gradients.dw2.data, grads.W2.data)).toBeLessThan(1e-12)
      expect(worstError(gradients.db2.data, grads.b2.data)).toBeLessThan(1e-12)
    },
  )

  const everyOption: readonly (SparseMoEOptions & { title: string })[] = [
    { title: 'renormalised gates', choice: 'tokens', k: 2, capacity: 3, renormalise: true },
    { title: 'dropless', choice: 'tokens', k: 2, capacity: Infinity },
    { title: 'sum priority', choice: 'tokens', k: 2, capacity: 2, priority: 'sum-of-gates' },
    {
      title: 'all auxiliary losses',
      choice: 'tokens',
      k: 2,
      capacity: 3,
      noiseSigma: 0.25,
      auxiliary: { importance: 0.3, load: 0.2, gshard: 0.4, z: 0.1 },
    },
    { title: 'Sinkhorn Tokens Choice', choice: 'tokens', k: 2, capacity: 3, plan: 'sinkhorn' },
    {
      title: 'Sinkhorn gates',
      choice: 'tokens',
      k: 2,
      capacity: 3,
      plan: 'sinkhorn',
      gatesFromPlan: true,
      sinkhornIterations: 300,
    },
    { title: 'Sinkhorn Experts Choice', choice: 'experts', capacity: 2, plan: 'sinkhorn' },
    // Five steps: the selection is piecewise constant in the logits, and these do not stand at one of its jumps.
    { title: 'sparse plan', choice: 'experts', capacity: 2, plan: { k: 2, iterations: 5 } },
    {
      title: 'row-sparse plan',
      choice: 'tokens',
      k: 1,
      capacity: 2,
      plan: { k: 1, byRows: true, iterations: 5 },
    },
  ]

  it.each(everyOption)('has the gradients of finite differences: $title', (options) => {
    const random = randomSource(9)
    const x = random.array([2, 5, 3])
    const weights = {
      router: random.array([3, 4]),
      w1: random.array([4, 3, 2]),
      b1: random.array([4, 2]),
      w2: random.array([4, 2, 3]),
      b2: random.array([4, 3]),
    }
    const dy = random.array([2, 5, 3])
    const withNoise = { ...options, noise: random.array([2, 5, 4], 0.25) }
    const loss = (): number => {
      const { y, auxiliaryLoss } = sparseMoE(x, weights, withNoise)
      return innerProduct(y, dy) + 0.7 * auxiliaryLoss
    }
    const gradients = sparseMoEBackward(x, weights, dy, withNoise, 0.7)
    const pairs: [Ref, Ref][] = [
      [x, gradients.dx],
      [weights.router, gradients.dRouter],
      [weights.w1, gradients.dw1],
      [weights.b1, gradients.db1],
      [weights.w2, gradients.dw2],
      [weights.b2, gradients.db2],
    ]
    for (const [array, gradient] of pairs) {
      expect(worstError(gradient.data, numericGradient(loss, array, 2e-4).data)).toBeLessThan(1e-8)
    }
  })
})
