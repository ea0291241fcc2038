import { describe, expect, it } from 'vitest'
import {
  gshardLoss,
  importanceLoss,
  loadLoss,
  sinkhornPlan,
  sparsePlan,
  zLoss,
  type Tensor,
} from '../../lib/index.js'
import { add, fromArray, randomSource, type Ref, reshape, zeros } from '../reference/array.js'
import * as reference from '../reference/auxiliary-losses.js'
import { sinkhornPlan as referencePlan, sinkhornPlanBackward } from '../reference/sinkhorn.js'
import { softmaxRows } from '../reference/softmax.js'
import { sparsePlan as referenceSparsePlan } from '../reference/sparse-transport.js'
import {
  device,
  differentiate,
  evaluate,
  expectClose,
  expectNoTensorsLeftBehind,
  tensorOf,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

function group(array: Ref): Ref {
  return reshape(array, 1, ...array.shape)
}

/** The loss of one group and the gradient of its first operand. */
async function lossOf(
  a: Ref,
  forward: (tensor: Tensor) => Tensor,
): Promise<{ readonly loss: number; readonly gradient: Ref }> {
  const { y, gradients } = await differentiate(
    { a: [group(a), 'float32'] },
    (leaves) => forward(leaves.a),
    fromArray([1], [1]),
  )
  return { loss: y.data[0], gradient: gradients.a }
}

describe('auxiliary losses', () => {
  it('agree with the oracle on random logits, of each group alone', async () => {
    for (const [tokens, experts] of [
      [1, 2],
      [7, 3],
      [33, 17],
      [64, 8],
    ]) {
      const random = randomSource(tokens * experts)
      const logits = [random.array([tokens, experts]), random.array([tokens, experts])]
      const joined = fromArray(
        logits.flatMap((array) => [...array.data]),
        [2, tokens, experts],
      )
      const gates = fromArray(
        logits.flatMap((array) => [...Float32Array.from(softmaxRows(array).data)]),
        [2, tokens, experts],
      )
      const weights = [1, -2]
      const check = async (
        input: Ref,
        forward: (tensor: Tensor) => Tensor,
        oracle: (array: Ref, g: number) => reference.RouterLoss,
      ): Promise<void> => {
        const { y, gradients } = await differentiate(
          { a: [input, 'float32'] },
          (leaves) => forward(leaves.a),
          fromArray(weights, [2]),
        )
        const size = tokens * experts
        const expected = [0, 1].map((g) =>
          oracle(fromArray(input.data.subarray(g * size, (g + 1) * size), [tokens, experts]), g),
        )
        expectClose(
          y,
          fromArray(
            expected.map(({ loss }) => loss),
            [2],
          ),
          2e-5,
          'losses',
          0.1,
        )
        const wanted = expected.flatMap(({ gradient }, g) => [...gradient.data].map((d) => weights[g] * d))
        expectClose(gradients.a, fromArray(wanted, [2, tokens, experts]), 5e-5, 'gradient', 1e-3)
      }
      await check(gates, importanceLoss, reference.importanceLoss)
      await check(gates, gshardLoss, reference.gshardLoss)
      await check(joined, zLoss, reference.zLoss)
      const sigma = 0.5
      const noisy = add(joined, random.array([2, tokens, experts], sigma))
      const noisyTensor = device.tensor(noisy.data, noisy.shape, { dtype: 'float32' })
      await check(
        joined,
        (tensor) => loadLoss(tensor, noisyTensor, 2, sigma),
        (array, g) => {
          const size = tokens * experts
          const own = fromArray(Float32Array.from(noisy.data.subarray(g * size, (g + 1) * size)), [
            tokens,
            experts,
          ])
          return reference.loadLoss(array, own, 2, sigma)
        },
      )
      noisyTensor.dispose()
    }
  })

  it('are 0 with gradient 0 at perfect balance', async () => {
    const gates = fromArray([0.25, 0.75, 0.75, 0.25], [2, 2])
    const { loss, gradient } = await lossOf(gates, importanceLoss)
    expect(loss).toBe(0)
    expect([...gradient.data].every((d) => d === 0)).toBe(true)
  })

  it('refuse a load loss without noise', () => {
    const logits = device.zeros([1, 2, 3])
    expect(() => loadLoss(logits, logits, 1, 0)).toThrow(/noisy routing only/)
    logits.dispose()
  })
})

describe('transport plans', () => {
  it('without a limit are the plain quadratic plan', async () => {
    const similarity = softmaxRows(randomSource(3).array([24, 6]))
    const rounded = fromArray(Float32Array.from(similarity.data), [24, 6])
    const actual = await evaluate({ s: [group(rounded), 'float32'] }, (t) =>
      sparsePlan(t.s, { iterations: 40 }),
    )
    const expected = referenceSparsePlan(rounded, { k: Infinity, iterations: 40 })
    expectClose(actual, group(expected), 1e-4, 'plan')
  })

  it('by Sinkhorn have the implicit gradient of the converged plan', async () => {
    for (const [tokens, experts] of [
      [12, 4],
      [5, 8],
      [9, 1],
    ]) {
      const random = randomSource(tokens)
      const logits = random.array([tokens, experts])
      const dPlan = random.array([tokens, experts])
      const { y, gradients } = await differentiate(
        { logits: [group(logits), 'float32'] },
        (t) => sinkhornPlan(t.logits, 200),
        group(dPlan),
      )
      const plan = referencePlan(logits, 200)
      expectClose(y, group(plan), 2e-5, 'plan')
      expectClose(gradients.logits, group(sinkhornPlanBackward(plan, dPlan)), 5e-5, 'gradient', 0.1)
    }
  })

  it('of constant logits are uniform, whatever the size of the logits', async () => {
    const logits = tensorOf(zeros(1, 5, 4))
    for (const plan of [sinkhornPlan(logits), sparsePlan(logits)]) {
      for (const value of await plan.data()) expect(value).toBeCloseTo(0.25, 6)
      plan.dispose()
    }
    logits.dispose()
    const large = device.full([1, 5, 4], 300)
    const plan = sinkhornPlan(large)
    for (const value of await plan.data()) expect(value).toBeCloseTo(0.25, 4)
    for (const tensor of [large, plan]) tensor.dispose()
  })
})
