import { describe, expect, it } from 'vitest'
import { allCases, chooseCases, familiesOf } from '../../bench/case-list.js'
import { idOf, weightTraffic } from '../../bench/cases.js'
import { readLimits, RoundLimits } from '../../bench/limits.js'
import { parseOptions } from '../../bench/options.js'
import { comparePairs, compareSweep, comparisons, peerTable } from '../../bench/report.js'
import { floorOf, type Limits, peerResult, percentile, type Row, rowOf } from '../../bench/rows.js'
import { runsOfTurn } from '../../bench/timing.js'

const DTYPES = ['float32', 'bfloat16'] as const
const LIMITS: Limits = { float32: 100, bfloat16: 200, int8: 400, bandwidth: 10 }

function caseOf(id: RegExp): ReturnType<typeof allCases>[number] {
  const found = allCases(DTYPES, [2, 1]).find((benchCase) => id.test(idOf(benchCase)))
  if (found === undefined) throw new Error(`no case like ${id.source}`)
  return found
}

describe('the list of cases', () => {
  const all = allCases(DTYPES, [2, 1])

  it('names each row once', () => {
    expect(new Set(all.map(idOf)).size).toBe(all.length)
  })

  it('has every size, batch, pass, dtype and both counts of threads for both layers', () => {
    for (const layer of ['dense MLP', 'Soft MoE 128x1']) {
      for (const size of ['S/16', 'B/16', 'L/16', 'H/14']) {
        for (const batch of [1, 8, 64]) {
          const rows = all.filter(
            ({ group, name }) => group === 'layers' && name === `${layer} ${size} B=${batch}`,
          )
          expect(rows).toHaveLength(2 * 2 * 2)
        }
      }
    }
  })

  it('sweeps from 8 to 4096 experts at the same slots', () => {
    const sweep = all.filter(({ group, dtype }) => group === 'sweep' && dtype === 'float32')
    expect(sweep.map(({ shape }) => shape.numExperts)).toEqual([
      8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
    ])
    expect(new Set(sweep.map(({ flops }) => flops)).size).toBe(1)
    expect(familiesOf(sweep)).toHaveLength(1)
  })

  it('times routers in turns with Soft MoE at equal slots', () => {
    const family = familiesOf(all).find(([first]) => first?.group === 'routers')
    expect(family?.map(({ name }) => name)).toEqual([
      'Soft MoE 28x7 S/16 B=1',
      'Tokens Choice k=1 28 S/16 B=1',
      'Tokens Choice k=2 28 S/16 B=1',
      'Experts Choice 28 S/16 B=1',
    ])
  })

  it('has frozen weights in turns with the plain ones, beside the peers in the format of the row', () => {
    const names = (group: string, first: string): string[] | undefined =>
      familiesOf(all.filter((benchCase) => benchCase.group === group))
        .find(([own]) => idOf(own).includes(first))
        ?.map(({ name }) => name)
    expect(names('layers', 'Soft MoE 128x1 B/16 B=4, forward, float32, 2')).toEqual([
      'Soft MoE 128x1 B/16 B=4',
      'Soft MoE 128x1 B/16 float32 frozen B=4',
      'Soft MoE 128x1 B/16 bfloat16 frozen B=4',
      'Soft MoE 128x1 B/16 int8 frozen B=4',
    ])
    for (const dtype of DTYPES) {
      expect(names('peers', `Soft MoE 128x1 S/16 B=8, forward, ${dtype}`)).toEqual([
        'Soft MoE 128x1 S/16 B=8',
        `Soft MoE 128x1 S/16 ${dtype} frozen B=8`,
      ])
      expect(names('peers', `Soft MoE 128x1 S/16 B=8, forward+backward, ${dtype}`)).toHaveLength(1)
    }
  })

  it('runs fewer rows when it should be quick, and any row that is named', () => {
    const choice = { dtypes: DTYPES, threads: [2, 1] }
    const count = (extent: 'quick' | 'standard' | 'all'): number => chooseCases({ ...choice, extent }).length
    expect(count('quick')).toBeLessThan(count('standard'))
    expect(count('standard')).toBeLessThan(count('all'))
    expect(count('all')).toBe(all.length)
    const named = chooseCases({
      ...choice,
      extent: 'quick',
      only: /layers: dense MLP H\/14 B=64, forward, bf/i,
    })
    expect(named.map(idOf)).toEqual([
      'layers: dense MLP H/14 B=64, forward, bfloat16, 2 threads',
      'layers: dense MLP H/14 B=64, forward, bfloat16, 1 thread',
    ])
  })
})

describe('the numbers of a row', () => {
  it('interpolates percentiles', () => {
    expect(percentile([1, 2, 3, 4], 0.5)).toBe(2.5)
    expect(percentile([1, 2, 3], 0)).toBe(1)
    expect(percentile([1, 2, 3], 1)).toBe(3)
    expect(percentile([1, 3], 0.1)).toBeCloseTo(1.2)
  })

  it('counts FLOPs of a dense MLP by hand: two products forward, four more backward', () => {
    const flops = 2 * 2 * 8 * 196 * 384 * 1536
    expect(caseOf(/layers: dense MLP S\/16 B=8, forward, float32/).flops).toBe(flops)
    expect(caseOf(/layers: dense MLP S\/16 B=8, forward\+backward, float32/).flops).toBe(3 * flops)
  })

  it('counts the bytes of weights: read once forward, twice and a float32 gradient written backward', () => {
    const parameters = 128 * (2 * 384 * 1536 + 1536 + 384) + 384 * 128 + 1
    expect(caseOf(/peers: Soft MoE 128x1 S\/16 B=1, forward, float32/).bytes).toBe(4 * parameters)
    expect(caseOf(/peers: Soft MoE 128x1 S\/16 B=1, forward, bfloat16/).bytes).toBe(2 * parameters)
    expect(weightTraffic(10, 'bfloat16', 'forward+backward')).toBe(10 * (2 + 2 + 4))
  })

  it('takes the larger of the compute and the memory floor', () => {
    expect(floorOf({ flops: 1e9, bytes: 1e6, dtype: 'float32', weights: null }, LIMITS)).toBeCloseTo(10)
    expect(floorOf({ flops: 1e9, bytes: 1e6, dtype: 'bfloat16', weights: null }, LIMITS)).toBeCloseTo(5)
    expect(floorOf({ flops: 1e6, bytes: 1e9, dtype: 'float32', weights: null }, LIMITS)).toBeCloseTo(100)
    expect(floorOf({ flops: 1e9, bytes: 1e6, dtype: 'float32', weights: 'int8' }, LIMITS)).toBeCloseTo(2.5)
  })

  it('derives rates and the share of the floor from the median', () => {
    const benchCase = { ...caseOf(/layers: dense MLP S\/16 B=8, forward, float32/), flops: 1e9, bytes: 2e6 }
    const row = rowOf(benchCase, [30, 10, 20], LIMITS)
    expect(row).toMatchObject({
      medianMs: 20,
      runs: 3,
      threads: 2,
      shape: { batch: 8, tokens: 196, dim: 384 },
    })
    expect(row.gflops).toBeCloseTo(50)
    expect(row.gbPerS).toBeCloseTo(0.1)
    expect(row.shareOfFloor).toBeCloseTo(0.5)
    const unknown = { floorMs: null, shareOfFloor: null }
    expect(rowOf(benchCase, [1], null)).toMatchObject({ ...unknown, limits: null })
    expect(rowOf(benchCase, [1], { bandwidth: 10 })).toMatchObject(unknown)
  })

  it('sets a peer against our times of the same rounds', () => {
    const result = peerResult({
      name: 'it',
      part: 'layer',
      times: [30, 30, 90],
      ours: [10, 10, 10],
      difference: 0,
    })
    expect(result).toMatchObject({ medianMs: 30, oursMs: 10, ratio: 3 })
  })

  it('fills a turn with short runs', () => {
    expect(runsOfTurn(10, 40)).toBe(4)
    expect(runsOfTurn(1000, 40)).toBe(1)
    expect(runsOfTurn(0.001, 40)).toBe(50)
  })
})

describe('the limits', () => {
  it('are read from an answer', () => {
    expect(readLimits('float32 310.5 bfloat16 4000.0 bandwidth 35.0 ')).toEqual({
      float32: 310.5,
      bfloat16: 4000,
      bandwidth: 35,
    })
    expect(readLimits('')).toEqual({})
  })

  it('of a row are the medians over its rounds, of those that bound it', async () => {
    const answers = [20, 60, 30].map((bandwidth, i) => ({ float32: 100 + i, int8: 400, bandwidth }))
    const asked: string[][] = []
    const measure = (names: readonly string[]): Promise<Partial<Limits>> => {
      asked.push([...names])
      return Promise.resolve(answers[asked.length - 1])
    }
    const [plain, frozen] = [/S\/16 B=8, forward, float32, 2/, /S\/16 int8 frozen B=8/].map((id) =>
      caseOf(new RegExp(`layers: Soft MoE.* ${id.source}`)),
    )
    const limits = new RoundLimits({ measure }, [plain, plain, frozen])
    expect(limits.median()).toBeNull()
    for (let round = 0; round < 3; round++) await limits.measure()
    expect(asked).toEqual(Array.from({ length: 3 }, () => ['float32', 'bandwidth', 'int8']))
    expect(limits.median()).toEqual({ float32: 101, int8: 400, bandwidth: 30 })
    expect(rowOf(plain, [1], limits.median()).limits).toEqual({ float32: 101, bandwidth: 30 })
    expect(rowOf(frozen, [1], limits.median()).limits).toEqual({ int8: 400, bandwidth: 30 })
  })

  it('stay unknown without a process that measures them', async () => {
    const limits = new RoundLimits(null, [caseOf(/layers: dense MLP S\/16 B=8, forward, float32/)])
    await limits.measure()
    expect(limits.median()).toBeNull()
  })
})

describe('the comparisons', () => {
  const row = (id: RegExp, medianMs: number, floorMs: number): Row => ({
    ...rowOf(caseOf(id), [medianMs], LIMITS),
    floorMs,
    shareOfFloor: floorMs / medianMs,
  })

  it('says what 4096 experts cost after the floor', () => {
    const rows = [
      row(/ 8 experts B=8, forward, float32/, 20, 10),
      row(/4096 experts B=8, forward, float32/, 66, 30),
    ]
    const [sweep] = compareSweep(rows)
    expect(sweep).toMatchObject({ fewest: 8, most: 4096 })
    expect(sweep?.ratio).toBeCloseTo(3.3)
    expect(sweep?.ratioAfterFloor).toBeCloseTo(1.1)
  })

  it('says what 4096 experts cost after reading their weights', () => {
    // 10 GB/s: the weights of 4088 experts take 2 x 128 x 512 x 4 bytes each, and their biases.
    const rows = [
      row(/ 8 experts B=8, forward, float32/, 20, 10),
      row(/4096 experts B=8, forward, float32/, 66, 30),
    ]
    const reading = (4088 * (2 * 128 * 512 + 512 + 128) * 4) / 10e6
    expect(compareSweep(rows)[0]?.ratioAfterBytes).toBeCloseTo(66 / (20 + reading), 6)
  })

  it('sets routing by index against Soft MoE of the same batch and dtype', () => {
    const rows = [
      row(/routers: Soft MoE .* S\/16 B=8, forward, float32/, 10, 1),
      row(/routers: Experts Choice .* S\/16 B=8, forward, float32/, 15, 1),
      row(/routers: Experts Choice .* S\/16 B=8, forward, bfloat16/, 15, 1),
    ]
    expect(comparePairs(rows, 'routers')).toMatchObject([{ ratio: 1.5, base: 'Soft MoE 28x7 S/16 B=8' }])
  })

  it('gives the time of one call', () => {
    const calls = rowOf(caseOf(/^parts: 1000 calls.*float32/), [2.5], LIMITS)
    expect(comparisons([calls])).toBe('a call takes 2.50 µs beside its work (forward, float32, 2 thr)')
  })

  it('tables the peers that were timed', () => {
    const peer = peerResult({ name: 'one 1.0', part: 'layer', times: [20], ours: [10], difference: 0 })
    const peers = [peer, { name: 'other', skipped: 'not installed' }]
    const table = peerTable([{ ...row(/peers: dense MLP S\/16 B=8, forward, float32/, 10, 9), peers }])
    expect(table).toContain('| dense MLP S/16 B=8 | forward | float32 | 10.00 | 90 % | 20.00 (2.00x) |')
    expect(peerTable([row(/peers: dense MLP S\/16 B=8, forward, float32/, 10, 9)])).toBe('')
  })
})

describe('the options', () => {
  const refuse = (...argv: string[]): (() => unknown) => {
    return () =>
      parseOptions(argv, (program) => program.exitOverride().configureOutput({ writeErr: () => undefined }))
  }

  it('measures everything by default', () => {
    expect(parseOptions([])).toEqual({
      extent: 'standard',
      list: false,
      dtypes: DTYPES,
      threads: null,
      seconds: 1,
      limits: true,
    })
  })

  it('reads what it is given', () => {
    const options = parseOptions([
      '--quick',
      '--only',
      'peers.*B=8',
      '--dtype',
      'bfloat16',
      '--threads',
      '1,2',
      '--no-limits',
    ])
    expect(options).toMatchObject({ extent: 'quick', dtypes: ['bfloat16'], threads: [1, 2], limits: false })
    expect(options.only?.test('PEERS: x B=8')).toBe(true)
  })

  it('refuses what it cannot use', () => {
    expect(refuse('--threads', '0')).toThrow(/whole numbers/)
    expect(refuse('--threads', 'two')).toThrow(/whole numbers/)
    expect(refuse('--dtype', 'float16')).toThrow(/float32 or bfloat16/)
    expect(refuse('--only', '(')).toThrow(/regular expression/)
    expect(refuse('--peers', 'PyTorch,other')).toThrow(/some of onnxruntime-node,/)
    expect(refuse('--seconds', '0')).toThrow(/over 0/)
    expect(refuse('--fast')).toThrow(/unknown option/)
  })
})
