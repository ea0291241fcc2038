// Indices that are given by hand: whatever they hold, operations neither read nor write outside of their operands,
// the fault is told at the next wait, and the device works on. Sound ones give the bits of the library's own.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  combineRows,
  experts,
  type ExpertSelection,
  gatherGates,
  gatherGradient,
  normalizeSelected,
  type RowLists,
  rowsOfSelectedExperts,
  rowsOfSelectedTokens,
  scope,
  selectExperts,
  selectTokens,
  SoftMoEError,
  type Tensor,
} from '../../lib/index.js'
import { native } from '../../lib/native.js'
import { checkProperty } from '../support/arbitraries.js'
import { device, expectNoTensorsLeftBehind } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const [GROUPS, TOKENS, EXPERTS, K, DIM] = [2, 5, 3, 2, 4]
const ALL = GROUPS * TOKENS

const integers = (values: readonly number[], shape?: readonly number[]): Tensor =>
  device.tensor(Int32Array.from(values), shape)
const random = (shape: readonly number[]): Tensor =>
  device.uniform(shape, { key: { seed: 3, stream: shape.length } })
const gates = (): Tensor => random([GROUPS, TOKENS, EXPERTS])
const weights = () => ({
  w1: random([EXPERTS, DIM, 6]),
  b1: random([EXPERTS, 6]),
  w2: random([EXPERTS, 6, DIM]),
  b2: random([EXPERTS, DIM]),
})

type Numbers<T> = { readonly [Name in keyof T]: readonly number[] }

/** The library's own selection and lists, as numbers. */
function ownNumbers(): { selection: Numbers<ExpertSelection>; lists: Numbers<RowLists> } {
  return scope(() => {
    const selection = selectExperts(gates(), K)
    const lists = rowsOfSelectedExperts(selection, EXPERTS, 3)
    const read = (tensor: Tensor): number[] => [...tensor.dataSync()]
    return {
      selection: { expert: read(selection.expert), position: read(selection.position) },
      lists: {
        expertOffsets: read(lists.expertOffsets),
        rowToken: read(lists.rowToken),
        tokenOffsets: read(lists.tokenOffsets),
        tokenRows: read(lists.tokenRows),
      },
    }
  })
}

const own = ownNumbers()

const listsOf = (numbers: Numbers<RowLists>): RowLists => ({
  expertOffsets: integers(numbers.expertOffsets),
  rowToken: integers(numbers.rowToken),
  tokenOffsets: integers(numbers.tokenOffsets),
  tokenRows: integers(numbers.tokenRows),
})

const changed = (name: keyof RowLists, index: number, value: number): RowLists => {
  const list = [...own.lists[name]]
  list[index < 0 ? list.length + index : index] = value
  return listsOf({ ...own.lists, [name]: list })
}

const selectionOf = ({ expert, position }: Numbers<ExpertSelection>): ExpertSelection => ({
  expert: integers(expert, [GROUPS, TOKENS, K]),
  position: integers(position, [GROUPS, TOKENS, K]),
})

/** The operations that follow row lists, forward and backward. */
const followers: Readonly<Record<string, (lists: RowLists) => Tensor>> = {
  gatherGates: (lists) => gatherGates(gates(), lists),
  gatherGradient: (lists) => gatherGradient(lists)(random([lists.rowToken.size, DIM])),
  combineRows: (lists) =>
    combineRows(random([lists.rowToken.size, DIM]), random([lists.rowToken.size]), lists),
  experts: (lists) => experts(random([ALL, DIM]), weights(), {}, lists),
}

/** The error that waiting for what `act` returns rejects with. */
async function faultOf(act: () => Tensor): Promise<SoftMoEError> {
  const y = scope(act)
  try {
    await y.data()
  } catch (error) {
    expect(error).toBeInstanceOf(SoftMoEError)
    return error as SoftMoEError
  } finally {
    y.dispose()
  }
  throw new Error('nothing was refused')
}

async function expectFault(act: () => Tensor, text: RegExp): Promise<void> {
  const { code, message } = await faultOf(act)
  expect([code, message]).toEqual(['ERR_INVALID_ARGUMENT', expect.stringMatching(text)])
  await device.synchronize() // told once
  const sound = scope(() => followers.gatherGates?.(listsOf(own.lists)) ?? device.zeros([]))
  await sound.data()
  sound.dispose()
}

describe('row lists by hand', () => {
  const BIG = 2 ** 31 - 1
  const faults: readonly (readonly [keyof RowLists, number, number, RegExp, ...string[]])[] = [
    ['expertOffsets', 0, 1, /begins with 1/, 'experts'],
    ['expertOffsets', 0, -1, /begins with -1/, 'experts'],
    ['expertOffsets', 1, BIG, /element 2 of an offsets list .*at least 2147483647/, 'experts'],
    ['expertOffsets', 2, -5, /element 2 of an offsets list is -5/, 'experts'],
    ['expertOffsets', -1, BIG, /expertOffsets end with 2147483647; wanted at most/, 'experts'],
    ['rowToken', 0, ALL, /rowToken\[0\] is 10; wanted 0 to 9/, 'experts'],
    ['rowToken', 3, -1, /rowToken\[3\] is -1/, 'experts'],
    ['rowToken', 2, -(2 ** 31), /rowToken\[2\] is -2147483648/, 'experts'],
    ['tokenOffsets', 0, 2, /begins with 2/],
    ['tokenOffsets', -1, BIG, /tokenOffsets end with/],
    ['tokenOffsets', 4, BIG, /offsets list/],
    ['tokenRows', 0, BIG, /tokenRows\[0\] is 2147483647/],
    ['tokenRows', 1, -1, /tokenRows\[1\] is -1/],
  ]
  for (const [list, index, value, text, ...also] of faults) {
    for (const [name, follow] of Object.entries(followers)) {
      if (name === 'experts' && !also.includes(name)) continue
      it(`${name}: ${list}[${index}] = ${value}`, () =>
        expectFault(() => follow(changed(list, index, value)), text))
    }
  }

  it('of two routings are not mixed', async () => {
    const rowToken = [...own.lists.rowToken]
    const [a = 0, b = 0] = rowToken
    ;[rowToken[0], rowToken[1]] = [b, a]
    const lists = { ...own.lists, rowToken }
    expect(a).not.toBe(b)
    await expectFault(() => gatherGates(gates(), listsOf(lists)), /another token/)
  })

  it('give one token one row of an expert', async () => {
    const lists = {
      expertOffsets: [0, 2, 2, 2],
      rowToken: [4, 4],
      tokenOffsets: Array.from({ length: ALL + 1 }, (_, n) => (n > 4 ? 2 : 0)),
      tokenRows: [0, 1],
    }
    await expectFault(() => gatherGates(gates(), listsOf(lists)), /second row .* same expert/)
  })

  it('are refused in the gradient, too', async () => {
    scope(() => {
      const { expertOffsets, rowToken } = changed('rowToken', 0, 1000)
      const { w1, w2 } = weights()
      const [pre, dy] = [random([rowToken.size, 6]), random([rowToken.size, DIM])]
      const x = random([ALL, DIM])
      const [rows, key] = [[expertOffsets.handle, rowToken.handle], { seed: 0, stream: 0 }] as const
      for (const gradient of native.expertsBackward(
        x.handle,
        ...rows,
        w1.handle,
        w2.handle,
        pre.handle,
        dy.handle,
        'gelu',
        0,
        key,
      ))
        native.dispose(gradient)
    })
    await expect(device.synchronize()).rejects.toMatchObject({
      code: 'ERR_INVALID_ARGUMENT',
      message: expect.stringMatching(/experts_backward: rowToken\[0\] is 1000/) as unknown,
    })
  })

  it('of the right operands only: the library’s lists for other sizes are checked, too', async () => {
    await expectFault(() => {
      const lists = rowsOfSelectedExperts(selectExperts(gates(), K), EXPERTS, 3)
      return experts(random([ALL - 4, DIM]), weights(), {}, lists)
    }, /rowToken/)
    await expectFault(() => {
      const { expertOffsets, rowToken, tokenOffsets, tokenRows } = rowsOfSelectedExperts(
        selectExperts(gates(), K),
        EXPERTS,
        3,
      )
      // In each other's place.
      return gatherGates(gates(), { expertOffsets, rowToken: tokenRows, tokenOffsets, tokenRows: rowToken })
    }, /rowToken|tokenRows/)
  })

  it.each(Object.keys(followers))('%s: sound ones give the bits of the library’s own', async (name) => {
    const follow = followers[name]
    if (follow === undefined) throw new Error('no such operation')
    const run = (listsFor: () => RowLists): Promise<number[]> => {
      const y = scope(() => follow(listsFor()))
      return y.data().then((values) => {
        y.dispose()
        return [...values]
      })
    }
    const used = (own.lists.expertOffsets.at(-1) ?? 0) * DIM
    const byHand = await run(() => listsOf(own.lists))
    const byLibrary = await run(() => rowsOfSelectedExperts(selectExperts(gates(), K), EXPERTS, 3))
    const counted = name === 'experts' ? used : byHand.length
    expect(byHand.slice(0, counted)).toEqual(byLibrary.slice(0, counted))
  })
})

describe('selections by hand', () => {
  const rows = (selection: Partial<Numbers<ExpertSelection>>, capacity = 3): Tensor =>
    rowsOfSelectedExperts(selectionOf({ ...own.selection, ...selection }), EXPERTS, capacity).rowToken

  it.each([
    ['an expert beyond the last', { expert: own.selection.expert.with(3, EXPERTS) }, /element 3 .* is 3/],
    ['a negative expert', { expert: own.selection.expert.with(0, -1) }, /element 0 .* is -1/],
    ['an expert twice', { expert: own.selection.expert.with(1, own.selection.expert[0] ?? 0) }, /already/],
    ['a negative position', { position: own.selection.position.with(2, -7) }, /position 2 is -7/],
    ['a place twice', { position: own.selection.position.map(() => 0) }, /positions .* each once/],
    ['places with a gap', { position: own.selection.position.map((place) => place + 1) }, /positions/],
  ])('%s', (_, selection, text) => expectFault(() => rows(selection), text))

  it('positions beyond all memory', () =>
    expectFault(
      () => rows({ position: own.selection.position.map((_, i) => 2 ** 31 - 1 - i) }, 2 ** 40),
      /positions/,
    ))

  it('what follows a refused selection is as safe', async () => {
    await expectFault(() => {
      const lists = rowsOfSelectedExperts(
        selectionOf({ ...own.selection, expert: own.selection.expert.map(() => 10 ** 6) }),
        EXPERTS,
        3,
      )
      return combineRows(random([lists.rowToken.size, DIM]), gatherGates(gates(), lists), lists)
    }, /selection/)
    await device.synchronize().catch(() => undefined)
  })

  it('tokens that do not exist, or twice with an expert', async () => {
    const tokens = [0, 1, 2, 3, 1, 4]
    const made = (list: readonly number[]): Tensor =>
      rowsOfSelectedTokens(integers([...list, ...tokens], [2, EXPERTS, 2]), TOKENS).rowToken
    await expectFault(() => made([0, 1, 2, TOKENS, 1, 4]), /element 3 .* is 5/)
    await expectFault(() => made([-9, 1, 2, 3, 1, 4]), /element 0 .* is -9/)
    await expectFault(() => made([0, 1, 3, 3, 1, 4]), /a token twice/)
    await expectFault(
      () => rowsOfSelectedTokens(selectTokens(gates(), 2), TOKENS - 1).rowToken,
      /element \d+ of the selection is 4/,
    )
  })

  it('normalizeSelected', async () => {
    const of = (expert: readonly number[]): Tensor =>
      normalizeSelected(gates(), integers(expert, [GROUPS, TOKENS, K]))
    await expectFault(() => of(own.selection.expert.with(5, 999_999)), /element 5 .* is 999999/)
    await expectFault(() => of(own.selection.expert.with(5, -999_999)), /element 5/)
  })
})

it('any numbers at all give an error or a result', async () => {
  const number = fc.oneof(fc.integer({ min: -2, max: 12 }), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }))
  const list = (length: number) => fc.array(number, { minLength: length, maxLength: length })
  const rows = own.lists.rowToken.length
  const cases = fc.record({
    expertOffsets: list(EXPERTS + 1),
    rowToken: list(rows),
    tokenOffsets: list(ALL + 1),
    tokenRows: list(rows),
    expert: list(ALL * K),
    position: list(ALL * K),
    capacity: fc.integer({ min: 1, max: 6 }),
  })
  await checkProperty(
    cases,
    async ({ expert, position, capacity, ...lists }) => {
      const results: (() => Tensor)[] = [
        ...Object.values(followers).map((follow) => () => follow(listsOf(lists))),
        () => rowsOfSelectedExperts(selectionOf({ expert, position }), EXPERTS, capacity).tokenRows,
        () => normalizeSelected(gates(), integers(expert, [GROUPS, TOKENS, K])),
        () => rowsOfSelectedTokens(integers(expert, [GROUPS, 1, TOKENS * K]), TOKENS).tokenRows,
      ]
      for (const act of results) {
        const y = scope(act)
        await y.data().catch((error: unknown) => {
          expect(error).toBeInstanceOf(SoftMoEError)
        })
        y.dispose()
      }
      await device.synchronize().catch(() => undefined)
    },
    60,
  )
})
