import { describe, expect, it } from 'vitest'
import {
  coefficientOfVariation,
  droppedTokens,
  expertCapacity,
  expertsChoice,
  expertsOfTokens,
  expertsPerTokenHistogram,
  gateHistogram,
  RandomSource,
  readSparseRouting,
  routerMetrics,
  SoftMoE,
  sparseHistograms,
  sparseMetrics,
  SparseMoE,
  type SparseRouting,
  type SparseRoutingTable,
  softMetrics,
  type Tensor,
  tokensChoice,
  costModel,
  vmoeConfig,
} from '../../lib/index.js'
import { moeBlockIndices } from '../../lib/models/config.js'
import { randomSource, type Ref } from '../reference/array.js'
import { expertsChoice as chooseTokens } from '../reference/experts-choice.js'
import { readLayerGolden } from '../support/golden.js'
import { device, expectNoTensorsLeftBehind } from '../support/tensors.js'

expectNoTensorsLeftBehind()

it('refuses what holds no numbers', () => {
  for (const call of [softMetrics, sparseMetrics, coefficientOfVariation]) {
    expect(() => Reflect.apply(call, undefined, [null]) as unknown).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
    )
  }
})

/** The table of a routing of one group. */
function tableOf(
  gates: Ref,
  assignments: readonly { readonly token: number; readonly expert: number; readonly position: number }[],
  requested = assignments.length,
): SparseRoutingTable {
  const [tokens, numExperts] = gates.shape
  const rows = assignments.toSorted((a, b) => a.expert - b.expert || a.position - b.position)
  const count = (length: number, of: (row: (typeof rows)[number]) => number): Int32Array => {
    const counts = new Int32Array(length)
    for (const row of rows) counts[of(row)] += 1
    return counts
  }
  const importance = new Float64Array(numExperts)
  gates.data.forEach((gate, i) => (importance[i % numExperts] += gate))
  return {
    groups: 1,
    tokensPerGroup: tokens,
    numExperts,
    capacity: 1,
    requested,
    rowToken: Int32Array.from(rows, (row) => row.token),
    rowExpert: Int32Array.from(rows, (row) => row.expert),
    rowGate: Float32Array.from(rows, (row) => gates.data[row.token * numExperts + row.expert]),
    tokensPerExpert: count(numExperts, (row) => row.expert),
    expertsPerToken: count(tokens, (row) => row.token),
    importance,
  }
}

function disposeOf(routing: SparseRouting): void {
  for (const value of Object.values(routing) as (Tensor | number | null)[]) {
    if (typeof value === 'object') value?.dispose()
  }
}

describe('statistics of a routing by index', () => {
  it('agree with the papers’ code for Experts Choice', () => {
    const { cases } = readLayerGolden('expert_choice') as {
      readonly cases: readonly {
        readonly gates: Ref
        readonly capacity: number
        readonly metrics: Readonly<Record<string, number>>
      }[]
    }
    expect(cases).toHaveLength(4)
    for (const { gates, capacity, metrics: golden } of cases) {
      const metrics = sparseMetrics(tableOf(gates, chooseTokens(gates, capacity)))
      const expected: Record<string, number> = {
        expertsPerTokenMin: golden.num_experts_per_item_min,
        expertsPerTokenMax: golden.num_experts_per_item_max,
        gateMin: golden.min_selected_gate,
        gateMax: golden.max_selected_gate,
      }
      for (const [name, value] of Object.entries(golden)) {
        const least = /at_least_(\d+)_experts/.exec(name)?.[1]
        if (least !== undefined) expected[`tokensWithAtLeast${least}`] = value
      }
      for (const [name, value] of Object.entries(expected)) expect(metrics[name], name).toBeCloseTo(value, 6)
    }
  })

  it('count what is dropped, and how even the load is', () => {
    const gates = {
      shape: [4, 2],
      data: Float64Array.of(0.75, 0.25, 0.5, 0.5, 1, 0, 0.25, 0.75),
    }
    const assignments = [
      { token: 0, expert: 0, position: 0 },
      { token: 2, expert: 0, position: 1 },
      { token: 3, expert: 1, position: 0 },
      { token: 0, expert: 1, position: 1 },
    ]
    const table = tableOf(gates, assignments, 8)
    expect(sparseMetrics(table)).toEqual({
      droppedFraction: 0.25,
      droppedAssignments: 0.5,
      expertsPerTokenMin: 0,
      expertsPerTokenMean: 1,
      expertsPerTokenMax: 2,
      expertImbalance: 1,
      loadVariation: 0,
      importanceVariation: 0.25,
      gateMin: 0.25,
      gateMean: 0.6875,
      gateMax: 1,
      tokensWithAtLeast1: 0.75,
      tokensWithAtLeast2: 0.25,
    })
    expect(droppedTokens(table)).toEqual([1])
    expect(expertsOfTokens(table)).toEqual([[0, 1], [], [0], [1]])
    expect(expertsPerTokenHistogram(table)).toEqual([1, 2, 1])
    expect(gateHistogram(table, 4)).toEqual([0, 1, 0, 3])
    const histograms = sparseHistograms(table)
    expect(histograms).toMatchObject({ load: [0.5, 0.5], expertsPerToken: [0.25, 0.5, 0.25] })
    expect(histograms.importance).toEqual([0.625, 0.375])
    expect(histograms.gates).toHaveLength(20)
    expect(histograms.gates[5]).toBe(0.25)
    expect(coefficientOfVariation([1, 3])).toBe(0.5)
    expect(coefficientOfVariation([0, 0])).toBe(0)
  })

  it('are read from a layer', async () => {
    const shape = { dim: 8, hiddenDim: 8, numExperts: 4 }
    const x = device.tensor(randomSource(4).array([3, 20, 8]).data, [3, 20, 8])
    const layer = new SparseMoE(
      { ...shape, router: tokensChoice({ k: 2, capacityFactor: 0.8, priority: 'max' }), groupSize: 20 },
      { device, random: new RandomSource(1) },
    )
    const routing = layer.routing(x)
    expect([routing.groups, routing.tokensPerGroup, routing.numExperts]).toEqual([3, 20, 4])
    expect(routing.capacity).toBe(expertCapacity(40, 4, 0.8))
    const table = await readSparseRouting(routing)
    const position = await routing.position!.data()
    const kept = position.filter((place) => place < routing.capacity).length
    expect(table.rowToken.length).toBe(kept)
    expect(table.tokensPerExpert.reduce((a, b) => a + b)).toBe(kept)
    expect(table.expertsPerToken.reduce((a, b) => a + b)).toBe(kept)
    expect(table.importance.reduce((a, b) => a + b)).toBeCloseTo(60, 4)
    const metrics = await routerMetrics(layer, x)
    expect(metrics).toEqual(sparseMetrics(table))
    expect(metrics.droppedAssignments).toBeCloseTo(1 - kept / 120, 12)
    const dropless = await routerMetrics(layer, x, { call: { dropless: true } })
    expect([dropless.droppedFraction, dropless.expertsPerTokenMin]).toEqual([0, 2])
    const experts = new SparseMoE({ ...shape, router: expertsChoice() }, { device })
    expect((await routerMetrics(experts, x)).loadVariation).toBe(0)
    disposeOf(routing)
    for (const thing of [x, layer, experts]) thing.dispose()
  })
})

describe('statistics of Soft MoE', () => {
  it.each(['soft_small', 'soft_p1', 'soft_bigscale'] as const)(
    'agree with the papers’ code on %s',
    (name) => {
      const golden = readLayerGolden(name) as {
        readonly dims: Readonly<Record<'B' | 'M' | 'd' | 'N' | 'P', number>>
        readonly mu: Ref
        readonly scale: number
        readonly D: Ref
        readonly C: Ref
        readonly metrics: Readonly<Record<string, number>>
      }
      const { B: batch, M: tokens, d: dim, N: numExperts, P: slotsPerExpert } = golden.dims
      const metrics = softMetrics(
        { dispatch: golden.D.data, combine: golden.C.data, mu: golden.mu.data, scale: golden.scale },
        { batch, tokens, dim, numExperts, slotsPerExpert },
        true,
      )
      const names = Object.keys(golden.metrics).filter((key) => key !== 'auxiliary_loss')
      expect(names).toHaveLength(13)
      for (const key of names) {
        const own = key
          .replace('mu_', 'slot_')
          .replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
        expect(metrics[own], own).toBeCloseTo(golden.metrics[key], 7)
      }
    },
  )

  it('are read from a layer, similarities only when asked', async () => {
    const layer = new SoftMoE(
      { dim: 8, hiddenDim: 8, numExperts: 3, slotsPerExpert: 2 },
      { device, random: new RandomSource(2) },
    ).eval()
    const x = device.tensor(randomSource(4).array([2, 7, 8]).data, [2, 7, 8])
    const metrics = await routerMetrics(layer, x)
    expect(Object.keys(metrics)).not.toContain('slotSimilarityMax')
    expect(metrics.scale).toBe(1)
    for (const name of ['combineEntropy', 'dispatchEntropy']) {
      expect(metrics[name]).toBeGreaterThan(0.9)
      expect(metrics[name]).toBeLessThanOrEqual(1)
    }
    const all = await routerMetrics(layer, x, { similarity: true })
    expect(all).toMatchObject(metrics)
    expect(all.slotSimilarityMax).toBeLessThan(1)
    for (const thing of [layer, x]) thing.dispose()
  })

  it('of uniform weights say so', () => {
    const weights = new Float64Array(12).fill(0.25)
    const metrics = softMetrics(
      { dispatch: new Float64Array(12).fill(1 / 3), combine: weights, mu: new Float64Array(4), scale: 1 },
      { batch: 1, tokens: 3, dim: 1, numExperts: 2, slotsPerExpert: 2 },
    )
    expect(metrics.combineEntropy).toBeCloseTo(1, 12)
    expect(metrics.dispatchEntropy).toBeCloseTo(1, 12)
    expect([metrics.importanceVariation, metrics.tokensOver2, metrics.tokensUnderQuarter]).toEqual([0, 0, 0])
  })
})

describe('capacity', () => {
  it('agrees with the papers’ code', () => {
    const { cases } = readLayerGolden('capacity') as {
      readonly cases: readonly {
        readonly num_tokens: number
        readonly num_experts: number
        readonly factor: number
        readonly how: 'ceil' | 'round'
        readonly multiple_of: number
        readonly capacity: number
      }[]
    }
    expect(cases).toHaveLength(15)
    for (const c of cases) {
      const options = { rounding: c.how, multipleOf: c.multiple_of }
      expect(expertCapacity(c.num_tokens, c.num_experts, c.factor, options)).toBe(c.capacity)
    }
    expect(() => expertCapacity(4, 32, 0.5, { rounding: 'round' })).toThrow(
      /give a capacity of 0; raise the factor/,
    )
  })
})

describe('presets of V-MoE', () => {
  const blocksOf = (
    name: string,
    options: Partial<Parameters<typeof vmoeConfig>[1]> = {},
  ): readonly number[] => {
    const { depth, moe } = vmoeConfig(name, { numClasses: 10, ...options })
    return moeBlockIndices(moe!.blocks!, depth)
  }

  it('place the MoE layers as the paper does', () => {
    expect(blocksOf('S/32')).toEqual([5, 7])
    expect(blocksOf('S/32', { blocks: { every: 2 } })).toEqual([1, 3, 5, 7])
    expect(blocksOf('B/16')).toEqual([9, 11])
    expect(blocksOf('B/16', { blocks: { lastOdd: 5 } })).toEqual([3, 5, 7, 9, 11])
    expect(blocksOf('L/16', { blocks: { every: 4 } })).toEqual([3, 7, 11, 15, 19, 23])
    expect(blocksOf('H/14', { blocks: { lastOdd: 5 } })).toEqual([23, 25, 27, 29, 31])
    expect(() => blocksOf('S/32', { blocks: { lastOdd: 5 } })).toThrow(/moe.blocks is/)
  })

  it('have a class token, a representation layer and groups of eight images', () => {
    const config = vmoeConfig('B/16', { numClasses: 1000 })
    expect(config).toMatchObject({
      classifier: 'token',
      positionEmbedding: 'learned',
      representationDim: 768,
      moe: { numExperts: 32, groupSize: 8 * 197, shareInit: true },
    })
    expect(config.headBias).toBeCloseTo(-Math.log(1000), 12)
  })

  it('have the paper’s numbers of parameters, in millions', () => {
    for (const [name, blocks, millions] of [
      ['S/32', { every: 2 }, 297],
      ['B/16', { every: 2 }, 979],
      ['L/16', { every: 2 }, 3446],
      ['H/14', { lastOdd: 5 }, 2689],
      ['H/14', { every: 2 }, 7161],
    ] as const) {
      const { parameters } = costModel(vmoeConfig(name, { numClasses: 18291, blocks }))
      expect(Math.abs(parameters / 1e6 / millions - 1), `${name}: ${parameters}`).toBeLessThan(0.005)
    }
  })
})
