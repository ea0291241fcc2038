/** All rows of the benchmark, and which of them a run takes. */
import type { FloatDType } from '../lib/index.js'
import { WEIGHT_FORMATS } from '../lib/ops/frozen-experts.js'
import { type BackboneName, type Pass, slotsLikeTokens } from './backbones.js'
import { callCase } from './calls.js'
import {
  type BenchCase,
  type CaseOptions,
  denseMlp,
  type Extent,
  frozenSoftMoe,
  GROUPS,
  idOf,
  softMoe,
  sparseMoe,
  sweepCase,
} from './cases.js'
import { modelCase } from './models.js'
import { softParts, sparseParts } from './routing-parts.js'

/** Which rows to run. */
export interface Choice {
  readonly dtypes: readonly FloatDType[]
  /** Counts of threads; the standard rows that are not about scaling take the first. */
  readonly threads: readonly number[]
  /** Matched with `idOf`; then every extent counts. */
  readonly only?: RegExp
  readonly extent: Extent
}

const BACKBONE_NAMES: readonly BackboneName[] = ['S/16', 'B/16', 'L/16', 'H/14']
const PASSES: readonly Pass[] = ['forward', 'forward+backward']
const ONE_SLOT = { numExperts: 128, slotsPerExpert: 1 } as const

/** Dense MLP and Soft MoE layer at every size. */
function layers(base: CaseOptions, alone: boolean): readonly BenchCase[] {
  const { pass } = base
  return BACKBONE_NAMES.flatMap((backbone) =>
    [1, 8, 64].flatMap((batch) => {
      const small = backbone === 'S/16' || backbone === 'B/16'
      const usual = batch === 8 || (batch === 1 && pass === 'forward')
      const extentOf = (isStandard: boolean): Extent => {
        if (alone) return isStandard && backbone === 'S/16' && batch === 8 ? 'standard' : 'all'
        if (isStandard && backbone === 'S/16' && pass === 'forward' && batch === 8) return 'quick'
        return isStandard ? 'standard' : 'all'
      }
      const options = { ...base, batch }
      return [
        denseMlp('layers', backbone, {
          ...options,
          extent: extentOf(usual && (small || pass === 'forward')),
        }),
        softMoe('layers', backbone, ONE_SLOT, { ...options, extent: extentOf(usual && small) }),
      ]
    }),
  )
}

/** The Soft MoE layer with frozen weights, in turns with the plain one: the shapes that weight bytes bound. */
function frozen(base: CaseOptions): readonly BenchCase[] {
  const shapes = [
    ['S/16', 1],
    ['S/16', 8],
    ['B/16', 1],
    ['B/16', 4],
    ['B/16', 8],
  ] as const
  return shapes.flatMap(([backbone, batch]) => {
    const options = { ...base, batch }
    return [
      // The other batches are among the layers.
      ...(batch === 4 ? [softMoe('layers', backbone, ONE_SLOT, options)] : []),
      ...WEIGHT_FORMATS.map((format) => frozenSoftMoe('layers', backbone, ONE_SLOT, format, options)),
    ]
  })
}

/** Soft MoE and routing by index at equal slots. */
function routers(base: CaseOptions): readonly BenchCase[] {
  return BACKBONE_NAMES.flatMap((backbone) =>
    [1, 8, 64].flatMap((batch) => {
      const isStandard =
        batch === 8 && (backbone === 'S/16' || (backbone === 'B/16' && base.pass === 'forward'))
      const options = { ...base, batch, extent: isStandard ? 'standard' : 'all' } as const
      const experts = slotsLikeTokens(backbone)
      return [
        softMoe('routers', backbone, experts, options, 'routers'),
        sparseMoe(backbone, 'Tokens Choice k=1', experts.numExperts, options),
        sparseMoe(backbone, 'Tokens Choice k=2', experts.numExperts, options),
        sparseMoe(backbone, 'Experts Choice', experts.numExperts, options),
      ]
    }),
  )
}

/** Against the peers: the shapes that all of them can hold; Soft MoE forward also with frozen weights of its dtype. */
function peers(base: CaseOptions): readonly BenchCase[] {
  const shapes = [
    ['S/16', 1],
    ['S/16', 8],
    ['B/16', 1],
    ['B/16', 4],
  ] as const
  return shapes.flatMap(([backbone, batch]) => {
    if (base.pass !== 'forward' && batch === 1) return []
    const options = { ...base, batch, extent: 'standard' } as const
    return [
      denseMlp('peers', backbone, options),
      softMoe('peers', backbone, ONE_SLOT, options),
      ...(base.pass === 'forward' ? [frozenSoftMoe('peers', backbone, ONE_SLOT, base.dtype, options)] : []),
    ]
  })
}

/** Every row there is for these dtypes and threads. */
export function allCases(dtypes: readonly FloatDType[], threads: readonly number[]): readonly BenchCase[] {
  return threads.flatMap((count, place) =>
    dtypes.flatMap((dtype) => {
      // Rows for a second count of threads show how the layers scale.
      const alone = place > 0
      const extent: Extent = alone ? 'all' : 'standard'
      const forward: CaseOptions = { dtype, batch: 8, pass: 'forward', threads: count, extent }
      const sweep = Array.from({ length: 10 }, (_, i) => sweepCase(8 * 2 ** i, { ...forward, batch: 8 }))
      const models = PASSES.flatMap((pass) =>
        [8, 32].flatMap((batch) => {
          const options = {
            ...forward,
            pass,
            batch,
            extent: batch === 8 && pass === 'forward' ? extent : 'all',
          } as const
          return [modelCase('dense', options), modelCase('soft', options)]
        }),
      )
      const lists = PASSES.flatMap((pass) => {
        const base = { ...forward, pass }
        return [layers(base, alone), alone ? [] : routers(base)].flat()
      })
      const parts = [ONE_SLOT, slotsLikeTokens('S/16')].flatMap((experts) => softParts(experts, forward))
      parts.push(callCase(forward), ...sparseParts(slotsLikeTokens('S/16').numExperts, forward))
      const others = alone
        ? []
        : [
            ...(dtype === 'float32' ? frozen(forward) : []),
            ...sweep,
            ...models,
            ...parts,
            ...PASSES.flatMap((pass) => peers({ ...forward, pass })),
          ]
      return [...lists, ...others]
    }),
  )
}

const EXTENTS: readonly Extent[] = ['quick', 'standard', 'all']

/** The rows of a run. */
export function chooseCases({ dtypes, threads, only, extent }: Choice): readonly BenchCase[] {
  const cases = allCases(dtypes, threads).toSorted(
    (a, b) => GROUPS.indexOf(a.group) - GROUPS.indexOf(b.group),
  )
  if (only !== undefined) return cases.filter((benchCase) => only.test(idOf(benchCase)))
  return cases.filter((benchCase) => EXTENTS.indexOf(benchCase.extent) <= EXTENTS.indexOf(extent))
}

/** Cases that are timed in turns, in the order of the list. */
export function familiesOf(cases: readonly BenchCase[]): readonly (readonly BenchCase[])[] {
  const families = new Map<string, BenchCase[]>()
  for (const benchCase of cases) {
    const key = `${benchCase.group} ${benchCase.family}`
    const family = families.get(key)
    if (family === undefined) families.set(key, [benchCase])
    else family.push(benchCase)
  }
  return [...families.values()]
}
