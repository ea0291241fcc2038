// Awkward shapes and inputs for property tests: ones, primes, neighbours of the kernels' vector and tile lengths,
// and no tokens at all where that has a meaning. Shapes come from fast-check, so they shrink; elements come from a
// seed that is part of the case, so a failure message names everything that is needed to see it again.
import fc from 'fast-check'
import {
  generate,
  map,
  randomSource,
  type RandomSource,
  type Ref,
  roundToBfloat16,
  roundToFloat32,
} from '../reference/array.js'
import type { WeightsMode } from '../reference/soft-routing.js'
import type { Priority } from '../reference/tokens-choice.js'

const AWKWARD_EXTENTS = [
  1, 2, 3, 5, 7, 8, 11, 13, 15, 16, 17, 23, 29, 31, 32, 33, 37, 47, 61, 63, 64, 65, 67, 97, 127, 128, 129,
  131,
]

/** An extent from 1 to `max`: usually 1, a prime, a power of two or a neighbour of one. */
export function extent(max: number): fc.Arbitrary<number> {
  const awkward = AWKWARD_EXTENTS.filter((value) => value <= max)
  // An index, not fc.constantFrom, which would shrink to its first value alone.
  const listed = fc.nat({ max: awkward.length - 1 }).map((index) => awkward[index])
  return fc.oneof({ weight: 3, arbitrary: listed }, { weight: 1, arbitrary: fc.integer({ min: 1, max }) })
}

/** As `extent`, and sometimes 0. */
export function extentOrNone(max: number): fc.Arbitrary<number> {
  return fc.oneof({ weight: 1, arbitrary: fc.constant(0) }, { weight: 9, arbitrary: extent(max) })
}

/** Seed of a case's elements: `randomSource(seed)`. */
export const seed: fc.Arbitrary<number> = fc.nat({ max: 0x7fffffff })

export type Storage = 'float32' | 'bfloat16'

export const storage: fc.Arbitrary<Storage> = fc.constantFrom('float32', 'bfloat16')

/** The elements as a tensor of that dtype holds them. */
export function stored(array: Ref, dtype: Storage): Ref {
  return map(array, dtype === 'bfloat16' ? roundToBfloat16 : roundToFloat32)
}

export interface LinearCase {
  readonly rows: number
  readonly inputs: number
  readonly outputs: number
  readonly withBias: boolean
  readonly activation: 'none' | 'gelu_tanh' | 'gelu_erf'
  readonly storage: Storage
  readonly seed: number
}

/** x [rows, inputs] (rows may be 0) times a weight [inputs, outputs]. */
export const linearCase: fc.Arbitrary<LinearCase> = fc.record({
  rows: extentOrNone(97),
  inputs: extent(67),
  outputs: extent(67),
  withBias: fc.boolean(),
  activation: fc.constantFrom('none', 'gelu_tanh', 'gelu_erf'),
  storage,
  seed,
})

export interface RowsCase {
  readonly rows: number
  readonly width: number
  readonly storage: Storage
  readonly seed: number
}

/** Rows of any width, for layer norms, softmax losses, elementwise operations. */
export const rowsCase: fc.Arbitrary<RowsCase> = fc.record({
  rows: extentOrNone(67),
  width: extent(131),
  storage,
  seed,
})

export interface AttentionCase {
  readonly batch: number
  readonly queries: number
  readonly keys: number
  readonly heads: number
  readonly headDim: number
  readonly storage: Storage
  readonly seed: number
}

/** q [batch, queries, heads, headDim], k and v [batch, keys, heads, headDim]; batch and queries may be 0. */
export const attentionCase: fc.Arbitrary<AttentionCase> = fc.record({
  batch: extentOrNone(3),
  queries: extentOrNone(37),
  keys: extent(67),
  heads: extent(5),
  headDim: extent(33),
  storage,
  seed,
})

export interface ExpertsCase {
  /** Rows of each expert; may be 0 for some or for all. */
  readonly rowsPerExpert: readonly number[]
  readonly dim: number
  readonly hidden: number
  readonly outputs: number
  readonly activation: 'gelu_tanh' | 'gelu_erf'
  readonly storage: Storage
  readonly seed: number
}

/** Ragged rows of the batched expert MLP. */
export const expertsCase: fc.Arbitrary<ExpertsCase> = fc.record({
  rowsPerExpert: fc.array(extentOrNone(17), { minLength: 1, maxLength: 7 }),
  dim: extent(33),
  hidden: extent(37),
  outputs: extent(33),
  activation: fc.constantFrom('gelu_tanh', 'gelu_erf'),
  storage,
  seed,
})

export interface SoftCase {
  readonly batch: number
  readonly tokens: number
  readonly dim: number
  readonly experts: number
  readonly slotsPerExpert: number
  readonly hidden: number
  readonly scale: number
  readonly dispatch: WeightsMode
  readonly combine: WeightsMode
  readonly epsilonMode: 'inside' | 'outside'
  readonly padding: 'none' | 'some' | 'whole-sequences'
  readonly storage: Storage
  readonly seed: number
}

const weightsMode: fc.Arbitrary<WeightsMode> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<WeightsMode>('soft') },
  { weight: 1, arbitrary: fc.constantFrom<WeightsMode[]>('uniform', 'identity') },
)

/** A Soft MoE layer on x [batch, tokens, dim]; batch may be 0. The mask comes from `paddingMask`. */
export const softCase: fc.Arbitrary<SoftCase> = fc.record({
  batch: extentOrNone(3),
  tokens: extent(37),
  dim: extent(33),
  experts: extent(13),
  slotsPerExpert: extent(5),
  hidden: extent(17),
  scale: fc.constantFrom(1, -1, 0, 0.25, 8, 60),
  dispatch: weightsMode,
  combine: weightsMode,
  epsilonMode: fc.constantFrom('inside', 'outside'),
  padding: fc.constantFrom('none', 'some', 'whole-sequences'),
  storage,
  seed,
})

/** The mask [batch·tokens] of a case, 0 = padding; undefined when it has none. */
export function paddingMask({ batch, tokens, padding, seed }: SoftCase): Int32Array | undefined {
  if (padding === 'none') return undefined
  const random = randomSource(seed ^ 0x3a5c)
  if (padding === 'some') return Int32Array.from({ length: batch * tokens }, () => random.integer(0, 1))
  const sequences = Array.from({ length: batch }, () => random.integer(0, 1))
  return Int32Array.from({ length: batch * tokens }, (_, i) => sequences[Math.floor(i / tokens)])
}

export type ScoreKind = 'distinct' | 'ties' | 'nan' | 'equal'

export interface SparseCase {
  readonly groups: number
  readonly tokens: number
  readonly experts: number
  /** At most `experts`. */
  readonly k: number
  /** At most `tokens`, for Experts Choice. */
  readonly capacity: number
  readonly priority: Priority
  readonly scores: ScoreKind
  readonly seed: number
}

/** A routing by index: one expert, more experts than tokens, capacity 1 and ties all occur. groups may be 0. */
export const sparseCase: fc.Arbitrary<SparseCase> = fc
  .record({ groups: extentOrNone(3), tokens: extent(67), experts: extent(33) })
  .chain((shape) =>
    fc.record({
      groups: fc.constant(shape.groups),
      tokens: fc.constant(shape.tokens),
      experts: fc.constant(shape.experts),
      k: extent(shape.experts),
      capacity: extent(shape.tokens),
      priority: fc.constantFrom<Priority[]>('token-order', 'max-gate', 'sum-of-gates'),
      scores: fc.constantFrom<ScoreKind[]>('distinct', 'ties', 'nan', 'equal'),
      seed,
    }),
  )

/** Scores of one kind in any shape, in [0, 1) and exact in float32; 'ties' has five levels, 'nan' 10 % NaN. */
export function scoresOf(kind: ScoreKind, shape: readonly number[], random: RandomSource): Ref {
  return generate(shape, () => {
    const draw = roundToFloat32(random.uniform())
    switch (kind) {
      case 'distinct':
        return draw
      case 'ties':
        return Math.floor(draw * 5) / 8
      case 'nan':
        return draw < 0.1 ? NaN : draw
      case 'equal':
        return 0.5
    }
  })
}

/**
 * Seed and number of cases of the property tests. SOFTMOE_TEST_SEED replaces the seed, SOFTMOE_TEST_RUNS is a share of
 * the number: 1 by default, and an eighth on the CUDA device, which may be emulated.
 */
function propertyParameters(runs: number): fc.Parameters<unknown> {
  const share = process.env.SOFTMOE_TEST_RUNS ?? (process.env.SOFTMOE_TEST_DEVICE === 'cuda' ? 1 / 8 : 1)
  return {
    seed: Number(process.env.SOFTMOE_TEST_SEED ?? 20230801),
    numRuns: Math.max(1, Math.round(runs * Number(share))),
  }
}

/**
 * Runs `statement` on `runs` cases. A failure shrinks the shapes and names the seed, the path and the smallest
 * failing case.
 */
export async function checkProperty<Case>(
  cases: fc.Arbitrary<Case>,
  statement: (example: Case) => void | Promise<void>,
  runs = 25,
): Promise<void> {
  const property = fc.asyncProperty(cases, async (example) => {
    await statement(example)
  })
  await fc.assert(property, propertyParameters(runs) as fc.Parameters<[Case]>)
}
