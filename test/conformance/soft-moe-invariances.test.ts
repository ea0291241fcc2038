// What Soft MoE does not depend on, its masks, and its behaviour at the edges.
import { describe, expect, it } from 'vitest'
import { softLogits } from '../../lib/index.js'
import { generate, map, randomSource, type Ref } from '../reference/array.js'
import { checkProperty, softCase, stored } from '../support/arbitraries.js'
import { fusedSoftMoELayer, layerOperands, type LayerOperands, maskTensor } from '../support/soft-routing.js'
import {
  arrayOf,
  differentiate,
  evaluate,
  expectClose,
  expectNoTensorsLeftBehind,
  type Operand,
  tensorOf,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

/** Soft on both sides, without padding, of float32, with a scale that leaves weights to more than one token. */
const cases = softCase.map((example) => ({
  ...example,
  batch: Math.max(1, example.batch),
  dim: example.dim + 3,
  scale: Math.min(example.scale, 4),
  dispatch: 'soft' as const,
  combine: 'soft' as const,
  padding: 'none' as const,
  storage: 'float32' as const,
}))

function run(operands: LayerOperands, shape: Parameters<typeof fusedSoftMoELayer>[1], dy: Ref) {
  return differentiate({ ...operands }, (tensors) => fusedSoftMoELayer(tensors, shape), dy)
}

/** Rearranges an array seen as [outer, count, inner]: entry i of the result is entry `order[i]`. */
function permuted(array: Ref, order: readonly number[], inner: number): Ref {
  const count = order.length
  return generate(array.shape, (i) => {
    const [outer, entry, rest] = [Math.floor(i / (count * inner)), Math.floor(i / inner) % count, i % inner]
    return array.data[(outer * count + order[entry]) * inner + rest]
  })
}

const permutation = (count: number, seed: number): number[] => {
  const random = randomSource(seed)
  return Array.from({ length: count }, (_, i) => [random.uniform(), i] as const)
    .sort((a, b) => a[0] - b[0])
    .map(([, i]) => i)
}

const change = ([array, dtype]: Operand, f: (array: Ref) => Ref): Operand => [f(array), dtype]

describe('Soft MoE', () => {
  it('permutes its outputs and their gradients as the tokens are permuted', async () => {
    await checkProperty(cases, async (example) => {
      const { batch, tokens, dim, seed } = example
      const random = randomSource(seed)
      const operands = layerOperands(example, random)
      const dy = random.array([batch, tokens, dim])
      const order = permutation(tokens, seed)
      const original = await run(operands, example, dy)
      const shuffled = await run(
        { ...operands, x: change(operands.x, (x) => permuted(x, order, dim)) },
        example,
        permuted(dy, order, dim),
      )
      expectClose(shuffled.y, permuted(original.y, order, dim), 2e-5, 'y', 1)
      expectClose(shuffled.gradients.x, permuted(original.gradients.x, order, dim), 2e-5, 'dx', 1)
      expectClose(shuffled.gradients.w1, original.gradients.w1, 2e-5, 'dw1', 1)
    })
  })

  it('does not depend on the order of the experts', async () => {
    await checkProperty(cases, async (example) => {
      const { batch, tokens, dim, experts, slotsPerExpert, hidden, seed } = example
      const random = randomSource(seed)
      const operands = layerOperands(example, random)
      const dy = random.array([batch, tokens, dim])
      const order = permutation(experts, seed)
      const byExpert = (inner: number) => (array: Ref) => permuted(array, order, inner)
      const original = await run(operands, example, dy)
      const shuffled = await run(
        {
          ...operands,
          phi: change(operands.phi, byExpert(slotsPerExpert)),
          w1: change(operands.w1, byExpert(dim * hidden)),
          b1: change(operands.b1, byExpert(hidden)),
          w2: change(operands.w2, byExpert(hidden * dim)),
          b2: change(operands.b2, byExpert(dim)),
        },
        example,
        dy,
      )
      expectClose(shuffled.y, original.y, 2e-5, 'y', 1)
      expectClose(shuffled.gradients.x, original.gradients.x, 2e-5, 'dx', 1)
      expectClose(shuffled.gradients.w2, byExpert(hidden * dim)(original.gradients.w2), 2e-5, 'dw2', 1)
      const phiSize = Math.sqrt(experts * dim)
      expectClose(
        shuffled.gradients.phi,
        byExpert(slotsPerExpert)(original.gradients.phi),
        2e-5,
        'dPhi',
        phiSize,
      )
    })
  })

  it('does not depend on the length of the columns of Phi', async () => {
    await checkProperty(cases, async (example) => {
      const operands = layerOperands(example, randomSource(example.seed))
      // Long columns, so that eps does not count.
      const long = { ...operands, phi: change(operands.phi, (phi) => map(phi, (value) => 1024 * value)) }
      const longer = { ...operands, phi: change(operands.phi, (phi) => map(phi, (value) => 2 ** 15 * value)) }
      const [a, b] = await Promise.all(
        [long, longer].map((changed) =>
          evaluate({ ...changed }, (tensors) => fusedSoftMoELayer(tensors, example)),
        ),
      )
      expectClose(b, a, 2e-5, 'y', 0.1)
    })
  })

  it('gives one token to every slot whole', async () => {
    await checkProperty(cases, async (generated) => {
      const example = { ...generated, tokens: 1 }
      const { batch, dim, experts, slotsPerExpert } = example
      const operands = layerOperands(example, randomSource(example.seed))
      // Experts that add their bias to x: the output is x plus the combine-weighted biases, which are all one.
      const identity = {
        ...operands,
        b2: change(operands.b2, (b2) => map(b2, () => 0.5)),
        w2: change(operands.w2, (w2) => map(w2, () => 0)),
      }
      const { y, gradients } = await run(
        identity,
        example,
        generate([batch, 1, dim], () => 1),
      )
      expectClose(
        y,
        generate([batch, 1, dim], () => 0.5),
        1e-6,
        'y',
      )
      // Every slot holds the token, whatever the logits: each expert's second bias collects its combine weights.
      const total = gradients.b2.data.reduce((sum, value) => sum + value, 0)
      expect(Math.abs(total / (batch * dim) - 1)).toBeLessThan(1e-5)
      expect(gradients.b2.shape).toEqual([experts, dim])
      expect(slotsPerExpert).toBeGreaterThan(0)
    })
  })

  it('gives every token the output of a single slot', async () => {
    await checkProperty(cases, async (generated) => {
      const example = { ...generated, experts: 1, slotsPerExpert: 1 }
      const { tokens, dim } = example
      const operands = layerOperands(example, randomSource(example.seed))
      const y = await evaluate({ ...operands }, (tensors) => fusedSoftMoELayer(tensors, example))
      const first = generate(
        y.shape,
        (i) => y.data[Math.floor(i / (tokens * dim)) * tokens * dim + (i % dim)],
      )
      expectClose(y, first, 1e-6, 'y')
    })
  })

  it('with equal linear experts is that map of a mean of tokens whose weights sum to one', async () => {
    await checkProperty(cases, async (example) => {
      const { batch, tokens, dim, experts, slotsPerExpert } = example
      const operands = layerOperands(example, randomSource(example.seed))
      // All tokens of a sequence equal: every mean of them is the token, and every expert maps it alike.
      const token = randomSource(example.seed + 1).array([batch, 1, dim])
      const x = generate(
        [batch, tokens, dim],
        (i) => token.data[Math.floor(i / (tokens * dim)) * dim + (i % dim)],
      )
      const alike = (array: Ref): Ref =>
        generate(array.shape, (i) => array.data[i % (array.data.length / experts)])
      const equal = {
        ...operands,
        x: [x, 'float32'] as const,
        w1: change(operands.w1, alike),
        b1: change(operands.b1, alike),
        w2: change(operands.w2, alike),
        b2: change(operands.b2, alike),
      }
      const y = await evaluate({ ...equal }, (tensors) => fusedSoftMoELayer(tensors, example))
      const single = { ...example, experts: 1, slotsPerExpert: 1, tokens: 1 }
      const firstOf = ([array, dtype]: Operand): Operand => [
        { shape: [1, ...array.shape.slice(1)], data: array.data.slice(0, array.data.length / experts) },
        dtype,
      ]
      const one = await evaluate(
        {
          ...equal,
          x: [token, 'float32'] as const,
          phi: change(operands.phi, (phi) => ({ shape: [dim, 1], data: phi.data.slice(0, dim) })),
          w1: firstOf(equal.w1),
          b1: firstOf(equal.b1),
          w2: firstOf(equal.w2),
          b2: firstOf(equal.b2),
        },
        (tensors) => fusedSoftMoELayer(tensors, single),
      )
      const wanted = generate(y.shape, (i) => one.data[Math.floor(i / (tokens * dim)) * dim + (i % dim)])
      expectClose(y, wanted, 2e-5, `y of ${experts * slotsPerExpert} slots`, 0.1)
    })
  })
})

describe('masks', () => {
  const masked = cases.map((example) => ({
    ...example,
    batch: example.batch + 1,
    tokens: example.tokens + 1,
  }))

  /** The layer under a mask, [batch * tokens]. */
  async function runMasked(
    operands: LayerOperands,
    example: { batch: number; tokens: number } & Parameters<typeof fusedSoftMoELayer>[1],
    mask: Int32Array,
    dy: Ref,
  ) {
    const tensor = maskTensor(mask, example.batch, example.tokens)
    const result = await differentiate(
      { ...operands },
      (tensors) => fusedSoftMoELayer(tensors, example, { mask: tensor }),
      dy,
    )
    tensor?.dispose()
    return result
  }

  it('give padding no output and no gradient, and its values do not matter', async () => {
    await checkProperty(masked, async (example) => {
      const { batch, tokens, dim, seed } = example
      const random = randomSource(seed)
      const operands = layerOperands(example, random)
      const dy = random.array([batch, tokens, dim])
      // The last token of every sequence and some others are padding; the first sequence is nothing else.
      const mask = Int32Array.from({ length: batch * tokens }, (_, row) =>
        row < tokens || row % tokens === tokens - 1 ? 0 : random.integer(0, 1),
      )
      const original = await runMasked(operands, example, mask, dy)
      const isPadding = (i: number): boolean => mask[Math.floor(i / dim)] === 0
      for (const array of [original.y, original.gradients.x]) {
        array.data.forEach((value, i) => {
          if (isPadding(i)) expect(value).toBe(0)
          else expect(value).toSatisfy(Number.isFinite)
        })
      }
      const other = await runMasked(
        {
          ...operands,
          x: change(operands.x, (x) =>
            map(x, (value, i) => (isPadding(i) ? Math.fround(-1000 * value + 7) : value)),
          ),
        },
        example,
        mask,
        map(dy, (value, i) => (isPadding(i) ? 1e6 : value)),
      )
      expect([...other.y.data]).toEqual([...original.y.data])
      const gradients = Object.entries(original.gradients)
      Object.values(other.gradients).forEach((gradient, i) => {
        const [name, expected] = gradients[i]
        expectClose(gradient, expected, 1e-6, name, 1e-3)
      })
    })
  })

  it('make a padded sequence equal to the shorter one', async () => {
    await checkProperty(masked, async (generated) => {
      const example = { ...generated, batch: 1 }
      const { tokens, dim, seed } = example
      const random = randomSource(seed)
      const operands = layerOperands(example, random)
      const dy = random.array([1, tokens, dim])
      const length = Math.max(1, Math.floor(tokens / 2))
      const shorter = (array: Ref): Ref => ({
        shape: [1, length, dim],
        data: array.data.slice(0, length * dim),
      })
      const mask = Int32Array.from({ length: tokens }, (_, m) => (m < length ? 1 : 0))
      const padded = await runMasked(operands, example, mask, dy)
      const alone = await run({ ...operands, x: change(operands.x, shorter) }, example, shorter(dy))
      expectClose(shorter(padded.y), alone.y, 1e-5, 'y', 0.1)
      expectClose(shorter(padded.gradients.x), alone.gradients.x, 2e-5, 'dx', 1)
      expectClose(padded.gradients.w1, alone.gradients.w1, 2e-5, 'dw1', 1)
      expectClose(padded.gradients.phi, alone.gradients.phi, 2e-5, 'dPhi', Math.sqrt(example.experts * dim))
    })
  })

  it('give a batch of nothing but padding zero outputs and gradients', async () => {
    const example = {
      batch: 2,
      tokens: 5,
      dim: 8,
      experts: 3,
      slotsPerExpert: 2,
      hidden: 4,
      scale: 1,
      dispatch: 'soft',
      combine: 'soft',
      epsilonMode: 'inside',
      padding: 'whole-sequences',
      storage: 'float32',
      seed: 3,
    } as const
    const random = randomSource(3)
    const operands = layerOperands(example, random)
    const { y, gradients } = await runMasked(operands, example, new Int32Array(10), random.array([2, 5, 8]))
    for (const array of [y, ...Object.values(gradients)]) {
      expect(array.data.every((value) => value === 0)).toBe(true)
    }
  })
})

describe('edges', () => {
  const shape = { experts: 4, slotsPerExpert: 2, dispatch: 'soft', combine: 'soft' } as const
  const example = {
    ...shape,
    batch: 2,
    tokens: 7,
    dim: 16,
    hidden: 8,
    scale: 1,
    epsilonMode: 'inside',
    padding: 'none',
    storage: 'float32',
    seed: 11,
  } as const

  it.each([1e4, -1e4])('a scale of %d stays finite and picks single tokens', async (scale) => {
    for (const storage of ['float32', 'bfloat16'] as const) {
      const random = randomSource(11)
      const operands = layerOperands({ ...example, scale, storage }, random)
      const dy = stored(random.array([2, 7, 16]), storage)
      const { y, gradients } = await run(operands, shape, dy)
      for (const array of [y, ...Object.values(gradients)]) {
        expect(array.data.every(Number.isFinite)).toBe(true)
      }
    }
  })

  it.each(['inside-root', 'outside-root'] as const)(
    'zero tokens and zero columns of Phi have finite outputs and gradients, eps %s',
    async (epsMode) => {
      const random = randomSource(12)
      const operands = layerOperands(example, random)
      const withZeros = {
        ...operands,
        x: change(operands.x, (x) => map(x, (value, i) => (Math.floor(i / 16) % 3 === 0 ? 0 : value))),
        phi: change(operands.phi, (phi) => map(phi, (value, i) => (i % 8 === 2 ? 0 : value))),
      }
      const { y, gradients } = await differentiate(
        { ...withZeros },
        (tensors) => fusedSoftMoELayer(tensors, shape, { epsMode }),
        random.array([2, 7, 16]),
      )
      for (const array of [y, ...Object.values(gradients)]) {
        expect(array.data.every(Number.isFinite)).toBe(true)
      }
    },
  )

  it('logits are bounded by the scale', async () => {
    const operands = layerOperands({ ...example, scale: 3 }, randomSource(13))
    const tensors = [tensorOf(operands.x[0]), tensorOf(operands.phi[0]), tensorOf(operands.scale[0])] as const
    const results = softLogits(...tensors, { numExperts: 4 })
    const logits = await arrayOf(results.logits)
    expect(logits.data.every((value) => Math.abs(value) <= 3.0001)).toBe(true)
    for (const tensor of [
      results.logits,
      results.dispatchLse,
      results.combineLse,
      results.tokenNorm,
      results.slotNorm,
      ...tensors,
    ]) {
      tensor.dispose()
    }
  })
})
