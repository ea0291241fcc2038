import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Random } from '../../lib/core/random.js'
import {
  combine,
  combineWeights,
  dispatch,
  dispatchWeights,
  softLogits,
  type SoftLogits,
  type SoftRoutingPlan,
  type Tensor,
} from '../../lib/index.js'
import { fromArray, generate, map, randomSource, type Ref, reshape, toFloat32 } from '../reference/array.js'
import { expertRowsToSlots, slotsToExpertRows, softMoE, softMoEBackward } from '../reference/soft-moe.js'
import * as reference from '../reference/soft-routing.js'
import {
  checkProperty,
  paddingMask,
  type SoftCase,
  softCase,
  type Storage,
  stored,
} from '../support/arbitraries.js'
import {
  EPSILON_MODES,
  fusedSoftMoELayer,
  layerOperands,
  logSumExps,
  maskTensor,
  phiOf,
  softMoELayer,
  weightsOf,
} from '../support/soft-routing.js'
import {
  arrayOf,
  differentiate,
  expectClose,
  expectNoTensorsLeftBehind,
  randomOperand,
  ROUNDED_ONCE,
  ROUNDED_TWICE,
  tensorOf,
  type Tolerance,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

const largest = (array: Ref): number => array.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0)

/** A sum's rounding error is in proportion to the sum of its terms' sizes. */
const absolute = (array: Ref): Ref => map(array, Math.abs)

const flatSlots = ({ batch, tokens, experts, slotsPerExpert }: SoftCase): number[] => [
  batch,
  tokens,
  experts * slotsPerExpert,
]

const tensorsOf = (results: SoftLogits): readonly Tensor[] => [
  results.logits,
  results.dispatchLse,
  results.combineLse,
  results.tokenNorm,
  results.slotNorm,
]

describe('softLogits', () => {
  const cases = fc.record({ example: softCase, noiseStd: fc.constantFrom(0, 0, 0.5) })

  it('are scaled cosines plus noise, with both log-sum-exps, both norms and every gradient', async () => {
    await checkProperty(
      cases,
      async ({ example, noiseStd }) => {
        const { batch, tokens, dim, experts, slotsPerExpert, storage, epsilonMode, seed } = example
        const random = randomSource(seed)
        const { x, phi, scale } = layerOperands(example, random)
        const mask = paddingMask(example)
        const masks = maskTensor(mask, batch, tokens)
        const key = { seed, stream: 4 }
        const options = {
          numExperts: experts,
          epsMode: EPSILON_MODES[epsilonMode],
          noiseStd,
          key,
          mask: masks,
        }
        const dy = toFloat32(random.array(flatSlots(example)))
        const { y, gradients } = await differentiate(
          { x, phi, scale },
          ({ x, phi, scale }) => softLogits(x, phi, scale, options).logits,
          dy,
        )
        const draws = new Random(seed, 4)
        const noise = generate([batch, tokens, experts, slotsPerExpert], (i) => noiseStd * draws.normal(i))
        const normalisation = { epsilonMode }
        const logits = reference.softLogits(x[0], phiOf(phi[0], example), example.scale, normalisation, noise)
        expect(y.shape).toEqual(flatSlots(example))
        expectClose(y, logits, 2e-5, 'logits', 1e-3)
        const dLogits = reshape(dy, ...logits.shape)
        const wanted = reference.softLogitsBackward(
          x[0],
          phiOf(phi[0], example),
          example.scale,
          dLogits,
          normalisation,
        )
        // In one dimension the cosine is constant and the gradient of what was normalised a difference of equals.
        const terms = Math.abs(example.scale) * Math.sqrt(experts * slotsPerExpert)
        const shortest = Math.min(...rowNorms(x[0], dim))
        expectClose(gradients.x, wanted.dx, ROUNDED_ONCE[storage], 'dx', terms / (shortest + 1e-3))
        const phiTerms = Math.abs(example.scale) * Math.sqrt(batch * tokens * experts)
        expectClose(gradients.phi, wanted.dPhi, 2e-5, 'dPhi', phiTerms)
        const dScale = fromArray([wanted.dScale], [1])
        expectClose(gradients.scale, dScale, 2e-5, 'dScale', wanted.dScaleMagnitude)

        const tensors = [tensorOf(x[0], storage), tensorOf(phi[0]), tensorOf(scale[0])] as const
        const results = softLogits(...tensors, options)
        const sums = logSumExps(logits, mask)
        expectClose(await arrayOf(results.dispatchLse), sums.dispatchLse, 1e-5, 'dispatchLse', 1)
        expectClose(await arrayOf(results.combineLse), sums.combineLse, 1e-5, 'combineLse', 1)
        const tokenNorm = inverseNorms(rowNorms(x[0], dim), epsilonMode)
        expectClose(await arrayOf(results.tokenNorm), reshape(tokenNorm, batch, tokens), 1e-5, 'tokenNorm')
        const slotNorm = inverseNorms(columnNorms(phi[0]), epsilonMode)
        expectClose(await arrayOf(results.slotNorm), slotNorm, 1e-5, 'slotNorm')
        for (const tensor of [...tensorsOf(results), ...tensors, masks]) tensor?.dispose()
      },
      40,
    )
  })
})

function rowNorms(x: Ref, dim: number): Float64Array {
  const norms = new Float64Array(x.data.length / dim)
  x.data.forEach((value, i) => {
    norms[Math.floor(i / dim)] += value * value
  })
  return norms.map(Math.sqrt)
}

function columnNorms(phi: Ref): Float64Array {
  const norms = new Float64Array(phi.shape[1])
  phi.data.forEach((value, i) => {
    norms[i % norms.length] += value * value
  })
  return norms.map(Math.sqrt)
}

function inverseNorms(norms: Float64Array, mode: reference.EpsilonMode): Ref {
  const inverse = (norm: number): number =>
    mode === 'inside' ? (norm ** 2 + 1e-6) ** -0.5 : 1 / (norm + 1e-6)
  return generate([norms.length], (i) => inverse(norms[i]))
}

/** The plan of a case around a tensor of its logits, with log-sum-exps from the oracle. */
async function withPlan<T>(
  example: SoftCase,
  logits: Ref,
  use: (planOf: (logits: Tensor) => SoftRoutingPlan) => Promise<T>,
): Promise<T> {
  const { batch, tokens, experts, slotsPerExpert } = example
  const mask = paddingMask(example)
  const sums = logSumExps(logits, mask)
  const tensors = {
    dispatchLse: tensorOf(toFloat32(sums.dispatchLse)),
    combineLse: tensorOf(toFloat32(sums.combineLse)),
    mask: maskTensor(mask, batch, tokens),
  }
  const result = await use((logitsTensor) => ({
    batch,
    tokens,
    numExperts: experts,
    slotsPerExpert,
    dispatch: example.dispatch,
    combine: example.combine,
    logits: logitsTensor,
    ...tensors,
  }))
  tensors.dispatchLse.dispose()
  tensors.combineLse.dispose()
  tensors.mask?.dispose()
  return result
}

/** Logits [B, M, N, P] of the size that the case's scale allows. */
function randomLogits(
  example: SoftCase,
  random: { array: (shape: readonly number[], s?: number) => Ref },
): Ref {
  const { batch, tokens, experts, slotsPerExpert, scale } = example
  return random.array([batch, tokens, experts, slotsPerExpert], Math.abs(scale) / 2)
}

/** A weight's error is its logit's, which float32 holds to 2^-24 of itself. */
const weightTolerance = (example: SoftCase): number => 1e-5 + Math.abs(example.scale) * 2 ** -20

describe('dispatch', () => {
  it('gives each slot its mean of the tokens, with every gradient', async () => {
    await checkProperty(
      softCase,
      async (example) => {
        const { batch, tokens, dim, experts, slotsPerExpert, storage, seed } = example
        const random = randomSource(seed)
        const x = randomOperand(random, [batch, tokens, dim], storage)
        const logits = randomLogits(example, random)
        const dy = stored(random.array([experts, batch * slotsPerExpert, dim]), storage)
        const soft = example.dispatch === 'soft'
        const { y, gradients } = await withPlan(example, logits, async (planOf) => {
          const constant = tensorOf(reshape(logits, ...flatSlots(example)))
          const result = await differentiate(
            { x, logits: soft ? ([reshape(logits, ...flatSlots(example)), 'float32'] as const) : undefined },
            ({ x, logits }) => dispatch(planOf(logits ?? constant), x),
            dy,
          )
          constant.dispose()
          return result
        })
        const weights = weightsOf(example, logits).dispatch
        // bfloat16: the weights are rounded as operands of the product, then its result.
        const tolerance = ROUNDED_TWICE[storage] + weightTolerance(example)
        expect(y.shape).toEqual(dy.shape)
        expectClose(
          y,
          slotsToExpertRows(reference.tokensToSlots(weights, x[0])),
          tolerance,
          'slots',
          largest(reference.tokensToSlots(weights, absolute(x[0]))),
        )
        const dSlots =
          batch === 0 ? reshape(dy, 0, experts, slotsPerExpert, dim) : expertRowsToSlots(dy, batch)
        expectClose(
          gradients.x,
          reference.slotsToTokens(weights, dSlots),
          tolerance,
          'dx',
          largest(reference.slotsToTokens(weights, absolute(dSlots))),
        )
        if (!soft) return
        const dLogits = reference.dispatchWeightsBackward(weights, reference.tokenSlotProducts(x[0], dSlots))
        // A difference of inner products: as exact as they are. The slots in one of them were stored.
        const size = largest(weights) * Math.sqrt(dim) * largest(x[0])
        const loose = ROUNDED_TWICE[storage] + weightTolerance(example)
        expectClose(gradients.logits, dLogits, loose, 'dLogits', size)
      },
      50,
    )
  })
})

describe('combine', () => {
  it('gives each token its mean of the slots, with every gradient', async () => {
    await checkProperty(
      softCase,
      async (example) => {
        const { batch, tokens, dim, experts, slotsPerExpert, storage, seed } = example
        const random = randomSource(seed)
        const slots = randomOperand(random, [experts, batch * slotsPerExpert, dim], storage)
        const logits = randomLogits(example, random)
        const dy = stored(random.array([batch, tokens, dim]), storage)
        const soft = example.combine === 'soft'
        const { y, gradients } = await withPlan(example, logits, async (planOf) => {
          const constant = tensorOf(reshape(logits, ...flatSlots(example)))
          const result = await differentiate(
            {
              slots,
              logits: soft ? ([reshape(logits, ...flatSlots(example)), 'float32'] as const) : undefined,
            },
            ({ slots, logits }) => combine(planOf(logits ?? constant), slots),
            dy,
          )
          constant.dispose()
          return result
        })
        const weights = weightsOf(example, logits).combine
        const rows =
          batch === 0
            ? reshape(slots[0], 0, experts, slotsPerExpert, dim)
            : expertRowsToSlots(slots[0], batch)
        // bfloat16: the weights are rounded as operands of the product, then its result.
        const tolerance = ROUNDED_TWICE[storage] + weightTolerance(example)
        expect(y.shape).toEqual(dy.shape)
        expectClose(
          y,
          reference.slotsToTokens(weights, rows),
          tolerance,
          'y',
          largest(reference.slotsToTokens(weights, absolute(rows))),
        )
        const dSlots = slotsToExpertRows(reference.tokensToSlots(weights, dy))
        expectClose(
          gradients.slots,
          dSlots,
          tolerance,
          'dSlots',
          largest(reference.tokensToSlots(weights, absolute(dy))),
        )
        if (!soft) return
        const dLogits = reference.combineWeightsBackward(weights, reference.tokenSlotProducts(dy, rows))
        const size = largest(weights) * Math.sqrt(dim) * largest(slots[0])
        const loose = ROUNDED_TWICE[storage] + weightTolerance(example)
        expectClose(gradients.logits, dLogits, loose, 'dLogits', size)
      },
      50,
    )
  })
})

it('dispatch and combine weights can be inspected', async () => {
  await checkProperty(softCase, async (example) => {
    const logits = randomLogits(example, randomSource(example.seed))
    await withPlan(example, logits, async (planOf) => {
      const tensor = tensorOf(reshape(logits, ...flatSlots(example)))
      const wanted = weightsOf(example, logits)
      const results = [dispatchWeights(planOf(tensor), tensor), combineWeights(planOf(tensor), tensor)]
      expectClose(await arrayOf(results[0]), wanted.dispatch, weightTolerance(example), 'D')
      expectClose(await arrayOf(results[1]), wanted.combine, weightTolerance(example), 'C')
      for (const result of [...results, tensor]) result.dispose()
    })
  })
})

describe('the layer', () => {
  /** bfloat16: slots before and after the experts, their hidden units and all gradients between are stored. */
  const TOLERANCE: Tolerance = { float32: 2e-5, bfloat16: 2 ** -5 }

  async function checkLayer(example: SoftCase, storage: Storage, layer: typeof softMoELayer): Promise<void> {
    const { batch, tokens, dim, experts, slotsPerExpert, epsilonMode, seed } = example
    const random = randomSource(seed)
    const operands = layerOperands({ ...example, storage }, random)
    const mask = paddingMask(example)
    const masks = maskTensor(mask, batch, tokens)
    const dy = stored(random.array([batch, tokens, dim]), storage)
    const { y, gradients } = await differentiate(
      { ...operands },
      (tensors) => layer(tensors, example, { epsMode: EPSILON_MODES[epsilonMode], mask: masks }),
      dy,
    )
    masks?.dispose()
    const { x, phi, w1, b1, w2, b2 } = operands
    const weights = {
      phi: phiOf(phi[0], example),
      scale: example.scale,
      w1: w1[0],
      b1: b1[0],
      w2: w2[0],
      b2: b2[0],
    }
    const options = {
      epsilonMode,
      dispatch: example.dispatch,
      combine: example.combine,
      ...(mask ? { mask } : {}),
    }
    const tolerance = TOLERANCE[storage]
    expectClose(y, softMoE(x[0], weights, options).y, tolerance, 'y', 1)
    const wanted = softMoEBackward(x[0], weights, dy, options)
    const slots = Math.max(1, batch * experts * slotsPerExpert)
    // Sums over the slots of gradients that are of the size of 1 or of the scale.
    const size = Math.max(1, Math.abs(example.scale)) * Math.sqrt(tokens / slots)
    const shortest = Math.min(1, ...rowNorms(x[0], dim)) + 1e-3
    expectClose(gradients.x, wanted.dx, tolerance, 'dx', size / shortest)
    const phiSize = size / (Math.min(...columnNorms(phi[0])) + 1e-3)
    expectClose(gradients.phi, wanted.dPhi, tolerance, 'dPhi', phiSize)
    // Each logit's gradient is a difference of inner products, which may cancel for all of them (one token or slot).
    const dScaleSize = Math.max(wanted.dScaleMagnitude, Math.sqrt(batch * tokens) / 2)
    expectClose(gradients.scale, fromArray([wanted.dScale], [1]), tolerance, 'dScale', dScaleSize)
    expectClose(gradients.w1, wanted.dw1, tolerance, 'dw1', size)
    expectClose(gradients.b1, wanted.db1, tolerance, 'db1', size)
    expectClose(gradients.w2, wanted.dw2, tolerance, 'dw2', size)
    expectClose(gradients.b2, wanted.db2, tolerance, 'db2', size)
  }

  // At least one side is soft: without logits there is nothing that Phi's gradient could come from.
  const cases = softCase.filter((example) => example.dispatch === 'soft' || example.combine === 'soft')

  // Wide enough that roundings average out, and not so sharp that they choose another token.
  const wideCases = cases.map((example) => ({
    ...example,
    dim: example.dim + 8,
    hidden: example.hidden + 8,
    scale: Math.min(example.scale, 4),
  }))

  describe.each([
    ['from its operations', softMoELayer],
    ['as one operation', fusedSoftMoELayer],
  ] as const)('%s', (_, layer) => {
    it('agrees with Soft MoE in float32, with every gradient', async () => {
      await checkProperty(cases, (example) => checkLayer(example, 'float32', layer), 40)
    })

    it('agrees with Soft MoE in bfloat16, with every gradient', async () => {
      await checkProperty(wideCases, (example) => checkLayer(example, 'bfloat16', layer), 40)
    })
  })
})
