import { describe, expect, it } from 'vitest'
import {
  combineRows,
  gatherGates,
  normalizeSelected,
  type RowLists,
  rowsOfSelectedExperts,
  rowsOfSelectedTokens,
  selectExperts,
  selectTokens,
  type RoutingPriority,
} from '../../lib/index.js'
import { fromArray, generate, randomSource, type Ref, zeros } from '../reference/array.js'
import { expertsChoice, topTokens } from '../reference/experts-choice.js'
import {
  type Assignment,
  combineTensor,
  type Priority,
  renormalisedGates,
  renormalisedGatesBackward,
  topExperts,
  tokensChoice,
} from '../reference/tokens-choice.js'
import { checkProperty, scoresOf, sparseCase } from '../support/arbitraries.js'
import { differentiate, expectClose, expectNoTensorsLeftBehind, tensorOf } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const PRIORITIES = {
  'token-order': 'none',
  'max-gate': 'max',
  'sum-of-gates': 'sum',
} as const satisfies Record<Priority, RoutingPriority>

interface Rows {
  readonly expertOffsets: readonly number[]
  readonly rowToken: readonly number[]
  readonly tokenOffsets: readonly number[]
  readonly tokenRows: readonly number[]
}

function disposeOf({ expertOffsets, rowToken, tokenOffsets, tokenRows }: RowLists): void {
  for (const tensor of [expertOffsets, rowToken, tokenOffsets, tokenRows]) tensor.dispose()
}

async function rowsOf(lists: RowLists): Promise<Rows> {
  const read = async (tensor: RowLists[keyof RowLists]): Promise<number[]> => [...(await tensor.data())]
  const rows = {
    expertOffsets: await read(lists.expertOffsets),
    rowToken: await read(lists.rowToken),
    tokenOffsets: await read(lists.tokenOffsets),
    tokenRows: await read(lists.tokenRows),
  }
  disposeOf(lists)
  return rows
}

/** The rows that assignments of groups stand for: expert-major, then by group, then by place. */
function expectedRows(
  groups: readonly (readonly Assignment[])[],
  tokens: number,
  experts: number,
  maxRows: number,
): Rows {
  const rows = groups
    .flatMap((assignments, group) => assignments.map((assignment) => ({ ...assignment, group })))
    .sort((a, b) => a.expert - b.expert || a.group - b.group || a.position - b.position)
    .map(({ expert, group, token }) => ({ expert, token: group * tokens + token }))
  const padded = (values: readonly number[]): number[] => [
    ...values,
    ...new Array<number>(maxRows - values.length).fill(-1),
  ]
  const offsets = (count: number, owner: (row: (typeof rows)[number]) => number): number[] =>
    Array.from({ length: count + 1 }, (_, i) => rows.filter((row) => owner(row) < i).length)
  const all = groups.length * tokens
  return {
    expertOffsets: offsets(experts, (row) => row.expert),
    rowToken: padded(rows.map((row) => row.token)),
    tokenOffsets: offsets(all, (row) => row.token),
    tokenRows: padded(
      Array.from({ length: all }, (_, token) =>
        rows.flatMap((row, r) => (row.token === token ? [r] : [])),
      ).flat(),
    ),
  }
}

function groupsOf(scores: Ref): Ref[] {
  const [groups, tokens, experts] = scores.shape
  const size = tokens * experts
  return Array.from({ length: groups }, (_, g) =>
    fromArray(scores.data.subarray(g * size, (g + 1) * size), [tokens, experts]),
  )
}

describe('tokens that select experts', () => {
  it('agree with the oracle on ties, NaN, one expert, more experts than tokens, any capacity', async () => {
    await checkProperty(
      sparseCase,
      async ({ groups, tokens, experts, k, capacity, priority, scores: kind, seed }) => {
        const array = scoresOf(kind, [groups, tokens, experts], randomSource(seed))
        // Some capacities are larger than the group.
        const places = seed % 3 === 0 ? capacity + tokens : capacity
        const expected = groupsOf(array).map((group) =>
          tokensChoice(group, { k, capacity: places, priority }),
        )
        const scores = tensorOf(array)
        const selection = selectExperts(scores, k, PRIORITIES[priority])
        const { expert, position } = selection
        expect([...(await expert.data())]).toEqual(expected.flatMap((group) => [...group.experts]))
        expect([...(await position.data())]).toEqual(expected.flatMap((group) => [...group.positions]))
        const lists = rowsOfSelectedExperts(selection, experts, places)
        const maxRows = lists.rowToken.size
        const assignments = expected.map((group) => group.assignments)
        expect(await rowsOf(lists)).toEqual(expectedRows(assignments, tokens, experts, maxRows))
        for (const tensor of [scores, expert, position]) tensor.dispose()
      },
      60,
    )
  })
})

describe('experts that select tokens', () => {
  it('agree with the oracle on ties, NaN, one expert, more experts than tokens, any capacity', async () => {
    await checkProperty(
      sparseCase,
      async ({ groups, tokens, experts, capacity, scores: kind, seed }) => {
        const array = scoresOf(kind, [groups, tokens, experts], randomSource(seed))
        const scores = tensorOf(array)
        const token = selectTokens(scores, capacity)
        expect([...(await token.data())]).toEqual(
          groupsOf(array).flatMap((group) => topTokens(group, capacity)),
        )
        const assignments = groupsOf(array).map((group) => expertsChoice(group, capacity))
        const rows = await rowsOf(rowsOfSelectedTokens(token, tokens))
        expect(rows).toEqual(expectedRows(assignments, tokens, experts, groups * experts * capacity))
        for (const tensor of [scores, token]) tensor.dispose()
      },
      60,
    )
  })
})

describe('rows of a routing', () => {
  it('carry gates and outputs, with their gradients', async () => {
    await checkProperty(
      sparseCase,
      async ({ groups, tokens, experts, k, capacity, priority, scores: kind, seed }) => {
        const random = randomSource(seed)
        const gates = scoresOf(kind === 'nan' ? 'distinct' : kind, [groups, tokens, experts], random)
        const dim = 1 + (seed % 9)
        const scores = tensorOf(gates)
        const selection = selectExperts(scores, k, PRIORITIES[priority])
        const lists = rowsOfSelectedExperts(selection, experts, capacity)
        const rows = random.array([lists.rowToken.size, dim])
        const dy = random.array([groups * tokens, dim])
        const { y, gradients } = await differentiate(
          { gates: [gates, 'float32'], rows: [rows, 'float32'] },
          (leaves) => combineRows(leaves.rows, gatherGates(leaves.gates, lists), lists),
          dy,
        )
        const wantedY = zeros(groups * tokens, dim)
        const wantedGates = zeros(groups, tokens, experts)
        const wantedRows = zeros(...rows.shape)
        const { expertOffsets, rowToken } = await rowsOf(lists)
        for (let e = 0; e < experts; e++) {
          for (let r = expertOffsets[e]; r < expertOffsets[e + 1]; r++) {
            const at = rowToken[r] * experts + e
            for (let i = 0; i < dim; i++) {
              wantedY.data[rowToken[r] * dim + i] += gates.data[at] * rows.data[r * dim + i]
              wantedGates.data[at] += dy.data[rowToken[r] * dim + i] * rows.data[r * dim + i]
              wantedRows.data[r * dim + i] = gates.data[at] * dy.data[rowToken[r] * dim + i]
            }
          }
        }
        const used = expertOffsets[experts] * dim
        const usedRows = (array: Ref): Ref => fromArray(array.data.subarray(0, used), [used])
        expectClose(y, wantedY, 2e-6, 'y')
        expectClose(gradients.gates, wantedGates, 2e-6, 'gates', 1)
        expectClose(usedRows(gradients.rows), usedRows(wantedRows), 2e-6, 'rows')
        for (const tensor of [scores, selection.expert, selection.position]) tensor.dispose()
      },
    )
  })

  it('take renormalised gates, with their gradient', async () => {
    await checkProperty(sparseCase, async ({ groups, tokens, experts, k, seed }) => {
      const random = randomSource(seed)
      const gates = generate([groups, tokens, experts], () => Math.fround(0.01 + random.uniform()))
      const dy = random.array([groups, tokens, experts])
      const scores = tensorOf(gates)
      const { expert, position } = selectExperts(scores, k)
      const { y, gradients } = await differentiate(
        { gates: [gates, 'float32'] },
        (leaves) => normalizeSelected(leaves.gates, expert),
        dy,
      )
      const parts = groupsOf(gates)
      const dParts = groupsOf(dy)
      const joined = (arrays: readonly Ref[]): Ref =>
        fromArray(
          arrays.flatMap((array) => [...array.data]),
          [groups, tokens, experts],
        )
      const selected = parts.map((part) => topExperts(part, k))
      expectClose(y, joined(parts.map((part, g) => renormalisedGates(part, selected[g], k))), 2e-6, 'y')
      expectClose(
        gradients.gates,
        joined(parts.map((part, g) => renormalisedGatesBackward(part, selected[g], k, dParts[g]))),
        2e-5,
        'gates',
        1,
      )
      for (const tensor of [scores, expert, position]) tensor.dispose()
    })
  })

  it('put the same weights where the dense combine tensor has them', () => {
    // The oracle's two forms of one routing: a guard against a test that compares a thing with itself.
    const gates = fromArray([0.4, 0.6, 0.7, 0.3], [2, 2])
    const { assignments } = tokensChoice(gates, { k: 1, capacity: 1 })
    expect([...combineTensor(gates, assignments, 1).data]).toEqual([0, 0.6, 0.7, 0])
  })
})
