// What the operations of routing by index owe beyond their selections (test/routers/selection.test.ts): both storages,
// rows that are not in use, groups of thousands of tokens, scores far out, losses and plans of any shape, and the same
// bits for any number of threads.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  combineRows,
  gatherGates,
  gatherGradient,
  gshardLoss,
  importanceLoss,
  loadLoss,
  normalizeSelected,
  type RowLists,
  rowsOfSelectedExperts,
  rowsOfSelectedTokens,
  selectExperts,
  selectTokens,
  setThreads,
  sinkhornPlan,
  sparsePlan,
  type Tensor,
  zLoss,
} from '../../lib/index.js'
import { fromArray, generate, map, randomSource, type Ref, toFloat32, zeros } from '../reference/array.js'
import * as losses from '../reference/auxiliary-losses.js'
import { sinkhornPlan as referencePlan, sinkhornPlanBackward } from '../reference/sinkhorn.js'
import { softmaxRows } from '../reference/softmax.js'
import { sparsePlan as referenceSparsePlan } from '../reference/sparse-transport.js'
import { topTokens } from '../reference/experts-choice.js'
import { tokensChoice } from '../reference/tokens-choice.js'
import {
  checkProperty,
  extent,
  extentOrNone,
  scoresOf,
  seed,
  sparseCase,
  storage,
  stored,
} from '../support/arbitraries.js'
import {
  arrayOf,
  device,
  differentiate,
  evaluate,
  expectClose,
  expectNoTensorsLeftBehind,
  randomOperand,
  ROUNDED_ONCE,
  tensorOf,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

const onCpu = device.kind === 'cpu'

const disposeOf = (...values: readonly (Tensor | RowLists)[]): void => {
  for (const value of values) {
    if ('isTensor' in value) value.dispose()
    else disposeOf(value.expertOffsets, value.rowToken, value.tokenOffsets, value.tokenRows)
  }
}

const numbers = async (tensor: Tensor): Promise<number[]> => [...(await tensor.data())]

/** The groups of an array [groups, tokens, experts]. */
function groupsOf(array: Ref): Ref[] {
  const [groups, tokens, experts] = array.shape
  const size = tokens * experts
  return Array.from({ length: groups }, (_, g) =>
    fromArray(array.data.subarray(g * size, (g + 1) * size), [tokens, experts]),
  )
}

const joined = (parts: readonly Ref[], shape: readonly number[]): Ref =>
  fromArray(
    parts.flatMap((part) => [...part.data]),
    shape,
  )

describe('rows', () => {
  const cases = fc.record({ example: sparseCase, dim: extent(33), storage })

  it('are combined and take their gradients in both storages; rows out of use are not read', async () => {
    await checkProperty(
      cases,
      async ({ example, dim, storage }) => {
        const { groups, tokens, experts, k, capacity, seed } = example
        const random = randomSource(seed)
        const gates = scoresOf('distinct', [groups, tokens, experts], random)
        const scores = tensorOf(gates)
        const selection = selectExperts(scores, k)
        const lists = rowsOfSelectedExperts(selection, experts, capacity)
        const rowToken = await numbers(lists.rowToken)
        const used = rowToken.filter((token) => token >= 0).length
        const gateTensor = gatherGates(scores, lists)
        const rowGate = await arrayOf(gateTensor)
        const rows = map(stored(random.array([rowToken.length, dim]), storage), (value, i) =>
          i < used * dim ? value : NaN,
        )
        const dy = stored(random.array([groups * tokens, dim]), storage)
        const { y, gradients } = await differentiate(
          { rows: [rows, storage], rowGate: [rowGate, 'float32'] },
          ({ rows, rowGate }) => combineRows(rows, rowGate, lists),
          dy,
        )
        const wanted = zeros(groups * tokens, dim)
        const dGate = zeros(rowToken.length)
        const dRows = zeros(used, dim)
        for (let i = 0; i < used * dim; i++) {
          const row = Math.floor(i / dim)
          const at = rowToken[row] * dim + (i % dim)
          wanted.data[at] += rowGate.data[row] * rows.data[i]
          dGate.data[row] += dy.data[at] * rows.data[i]
          dRows.data[i] = rowGate.data[row] * dy.data[at]
        }
        expectClose(y, wanted, ROUNDED_ONCE[storage], 'y')
        const usedOf = (array: Ref, width: number): Ref =>
          fromArray(array.data.subarray(0, used * width), [used, width])
        expectClose(usedOf(gradients.rows, dim), dRows, ROUNDED_ONCE[storage], 'dRows')
        expectClose(usedOf(gradients.rowGate, 1), usedOf(dGate, 1), 2e-5, 'dRowGate', Math.sqrt(dim))

        const dTokens = await evaluate({ rows: [rows, storage] }, ({ rows }) => gatherGradient(lists)(rows))
        const sums = zeros(groups * tokens, dim)
        for (let i = 0; i < used * dim; i++) {
          sums.data[rowToken[Math.floor(i / dim)] * dim + (i % dim)] += rows.data[i]
        }
        expectClose(dTokens, sums, ROUNDED_ONCE[storage], 'gradient of the tokens')
        disposeOf(scores, gateTensor, selection.expert, selection.position, lists)
      },
      40,
    )
  })
})

describe('large groups', () => {
  const [tokens, experts, k] = onCpu ? [4099, 67, 3] : [515, 17, 2]

  it.each(['token-order', 'max-gate', 'sum-of-gates'] as const)(
    'select and place by %s',
    async (priority) => {
      const gates = scoresOf('ties', [1, tokens, experts], randomSource(5))
      const capacity = Math.ceil((tokens * k) / experts / 2)
      const wanted = tokensChoice(groupsOf(gates)[0], { k, capacity, priority })
      const scores = tensorOf(gates)
      const names = { 'token-order': 'none', 'max-gate': 'max', 'sum-of-gates': 'sum' } as const
      const selection = selectExperts(scores, k, names[priority])
      expect(await numbers(selection.expert)).toEqual(wanted.experts)
      expect(await numbers(selection.position)).toEqual(wanted.positions)
      const lists = rowsOfSelectedExperts(selection, experts, capacity)
      const rows = wanted.assignments.toSorted((a, b) => a.expert - b.expert || a.position - b.position)
      expect((await numbers(lists.rowToken)).slice(0, rows.length)).toEqual(rows.map((row) => row.token))
      disposeOf(scores, selection.expert, selection.position, lists)
    },
  )

  it('let experts select tokens', async () => {
    const gates = scoresOf('ties', [2, tokens, experts], randomSource(6))
    const capacity = Math.floor(tokens / 3)
    const scores = tensorOf(gates)
    const token = selectTokens(scores, capacity)
    expect(await numbers(token)).toEqual(groupsOf(gates).flatMap((group) => topTokens(group, capacity)))
    disposeOf(scores, token)
  })
})

describe('scores far out', () => {
  it('order as numbers do; both zeros are equal, NaN comes last', async () => {
    const values = [-0, 0, -Infinity, Infinity, NaN, 1e-45, -1e-45, 3e38, -3e38]
    const scores = tensorOf(toFloat32(fromArray(values, [1, 1, 9])))
    const { expert, position } = selectExperts(scores, 9)
    // Infinity, 3e38, 1e-45, the zeros by index, -1e-45, -3e38, then -Infinity and NaN as its equal, by index.
    expect(await numbers(expert)).toEqual([3, 7, 5, 0, 1, 6, 8, 2, 4])
    disposeOf(scores, expert, position)
  })

  it('of nothing but NaN select valid experts and tokens', async () => {
    const scores = device.full([2, 7, 5], NaN)
    const selection = selectExperts(scores, 3, 'max')
    const token = selectTokens(scores, 4)
    expect(await numbers(selection.expert)).toEqual(new Array(14).fill([0, 1, 2]).flat())
    expect(await numbers(token)).toEqual(new Array(10).fill([0, 1, 2, 3]).flat())
    disposeOf(scores, selection.expert, selection.position, token)
  })
})

describe('losses', () => {
  const cases = fc.record({
    groups: extentOrNone(3),
    tokens: extent(67),
    experts: extent(33),
    sharpness: fc.constantFrom(0.1, 1, 6),
    seed,
  })

  it('of any shape are those of the oracle, with their gradients', async () => {
    await checkProperty(
      cases,
      async ({ groups, tokens, experts, sharpness, seed }) => {
        const random = randomSource(seed)
        const shape = [groups, tokens, experts]
        const logits = random.array(shape, sharpness)
        const gates = toFloat32(joined(groupsOf(logits).map(softmaxRows), shape))
        const sigma = 0.5
        const noisy = toFloat32(map(logits, (value) => value + sigma * random.normal()))
        const k = random.integer(1, experts)
        const dLosses = random.array([groups])
        const check = async (
          name: string,
          input: Ref,
          forward: (input: Tensor) => Tensor,
          oracle: (group: Ref, index: number) => losses.RouterLoss,
        ): Promise<void> => {
          const { y, gradients } = await differentiate(
            { input: [input, 'float32'] },
            ({ input }) => forward(input),
            dLosses,
          )
          const wanted = groupsOf(input).map(oracle)
          expectClose(
            y,
            fromArray(
              wanted.map(({ loss }) => loss),
              [groups],
            ),
            2e-5,
            name,
            0.1,
          )
          const gradient = joined(
            wanted.map(({ gradient }, g) => map(gradient, (value) => dLosses.data[g] * value)),
            shape,
          )
          expectClose(gradients.input, gradient, 5e-5, `gradient of ${name}`, 0.1 / tokens)
        }
        await check('importance', gates, importanceLoss, losses.importanceLoss)
        await check('gshard', gates, gshardLoss, losses.gshardLoss)
        await check('z', logits, zLoss, losses.zLoss)
        const noisyTensor = tensorOf(noisy)
        const noisyGroups = groupsOf(noisy)
        // Where no expert has a chance to be selected, the coefficient of variation is 0 / 0.
        if (sharpness < 6) {
          await check(
            'load',
            logits,
            (input) => loadLoss(input, noisyTensor, k, sigma),
            (group, index) => losses.loadLoss(group, noisyGroups[index], k, sigma),
          )
        }
        noisyTensor.dispose()
      },
      30,
    )
  })

  it('stay finite where logits are far apart', async () => {
    const logits = generate([1, 3, 4], (i) => [1e4, -1e4, 0, 1, -1e4, -1e4, -1e4, -1e4, 88, 89, 90, 91][i])
    const { y, gradients } = await differentiate(
      { logits: [logits, 'float32'] },
      ({ logits }) => zLoss(logits),
      fromArray([1], [1]),
    )
    const wanted = losses.zLoss(groupsOf(logits)[0])
    expectClose(y, fromArray([wanted.loss], [1]), 2e-5, 'loss')
    // Log-sum-exps near 10^4 are multiples of 2^-10, and softmaxes are made from them.
    expectClose(gradients.logits, wanted.gradient, 2 ** -10, 'gradient')
  })
})

describe('plans', () => {
  const cases = fc.record({
    groups: extentOrNone(3),
    tokens: extent(67),
    experts: extent(17),
    iterations: fc.constantFrom(1, 3, 20),
    seed,
  })

  it('by Sinkhorn are those of the oracle after any number of steps', async () => {
    await checkProperty(cases, async ({ groups, tokens, experts, iterations, seed }) => {
      const logits = randomOperand(randomSource(seed), [groups, tokens, experts])
      const plan = await evaluate({ logits }, ({ logits }) => sinkhornPlan(logits, iterations))
      const wanted = joined(
        groupsOf(logits[0]).map((group) => referencePlan(group, iterations)),
        logits[0].shape,
      )
      expectClose(plan, wanted, 2e-5, 'plan')
    })
  })

  it('by Sinkhorn have the implicit gradient once they have converged', async () => {
    await checkProperty(
      cases,
      async ({ groups, tokens, experts, seed }) => {
        const random = randomSource(seed)
        const logits = randomOperand(random, [groups, tokens, experts])
        const dPlan = random.array([groups, tokens, experts])
        const { gradients } = await differentiate(
          { logits },
          ({ logits }) => sinkhornPlan(logits, 300),
          dPlan,
        )
        const dParts = groupsOf(dPlan)
        const wanted = groupsOf(logits[0]).map((group, g) =>
          sinkhornPlanBackward(referencePlan(group, 300), dParts[g]),
        )
        expectClose(gradients.logits, joined(wanted, dPlan.shape), 1e-4, 'gradient', 0.1)
      },
      10,
    )
  })

  it('by Sinkhorn of logits far apart stay finite, with rows that sum to one', async () => {
    const logits = randomOperand(randomSource(3), [2, 13, 5], 'float32', 1e3)
    const plan = await evaluate({ logits }, ({ logits }) => sinkhornPlan(logits))
    for (let row = 0; row < 26; row++) {
      const sum = plan.data.subarray(row * 5, row * 5 + 5).reduce((a, b) => a + b, 0)
      expect(Math.abs(sum - 1)).toBeLessThan(1e-3)
    }
  })

  it('with few non-zeros are those of the oracle', async () => {
    const sparse = fc.record({
      groups: extentOrNone(2),
      tokens: extent(37),
      experts: extent(13),
      byRows: fc.boolean(),
      iterations: fc.constantFrom(1, 5, 20),
      seed,
    })
    await checkProperty(sparse, async ({ groups, tokens, experts, byRows, iterations, seed }) => {
      const random = randomSource(seed)
      const shape = [groups, tokens, experts]
      const similarity = toFloat32(joined(groupsOf(random.array(shape)).map(softmaxRows), shape))
      const k = random.integer(1, byRows ? experts : tokens)
      const plan = await evaluate({ similarity: [similarity, 'float32'] }, ({ similarity }) =>
        sparsePlan(similarity, { k, byRows, iterations }),
      )
      const wanted = groupsOf(similarity).map((group) =>
        referenceSparsePlan(group, { k, byRows, iterations }),
      )
      expectClose(plan, joined(wanted, shape), 2e-4, 'plan')
    })
  })
})

describe('bits', () => {
  /** Everything that routing a batch gives. */
  async function route(): Promise<number[]> {
    const random = randomSource(9)
    const [groups, tokens, experts, dim] = onCpu ? [3, 517, 33, 40] : [2, 70, 9, 16]
    const shape = [groups, tokens, experts]
    const logits = random.array(shape)
    const gates = tensorOf(toFloat32(joined(groupsOf(logits).map(softmaxRows), shape)))
    const logitsTensor = tensorOf(logits)
    const selection = selectExperts(gates, 2, 'max')
    const lists = rowsOfSelectedExperts(selection, experts, Math.ceil(tokens / experts))
    const token = selectTokens(gates, Math.ceil(tokens / experts))
    const tokenLists = rowsOfSelectedTokens(token, tokens)
    const rows = tensorOf(random.array([lists.rowToken.size, dim]))
    const rowGate = gatherGates(gates, lists)
    const results = [
      selection.expert,
      selection.position,
      token,
      rowGate,
      combineRows(rows, rowGate, lists),
      normalizeSelected(gates, selection.expert),
      importanceLoss(gates),
      gshardLoss(gates),
      zLoss(logitsTensor),
      loadLoss(gates, logitsTensor, 2, 1),
      sinkhornPlan(logitsTensor),
      sparsePlan(gates, { k: 40 }),
      tokenLists.tokenRows,
    ]
    const values = (await Promise.all(results.map(numbers))).flat()
    disposeOf(...results, gates, logitsTensor, lists, tokenLists, rows)
    return values
  }

  it('are the same again', async () => {
    expect(await route()).toEqual(await route())
  })

  it.runIf(onCpu)('are the same with 1, 2 and 5 threads', async () => {
    const before = device.description.threads as number
    try {
      setThreads(1)
      const alone = await route()
      for (const threads of [2, 5]) {
        setThreads(threads)
        expect(await route()).toEqual(alone)
      }
    } finally {
      setThreads(before)
    }
  })
})
