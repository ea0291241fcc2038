import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  argmax,
  contrastiveLoss,
  crossEntropy,
  pairLogits,
  sigmoidContrastiveLoss,
  sigmoidCrossEntropy,
} from '../../lib/index.js'
import { generate, map, randomSource, type Ref } from '../reference/array.js'
import * as reference from '../reference/cross-entropy.js'
import { matmul, transpose } from '../reference/elementwise.js'
import { numericGradient } from '../reference/finite-difference.js'
import { normaliseAlongRows } from '../reference/l2-normalize.js'
import { descendingOrder } from '../reference/tokens-choice.js'
import { checkProperty, extent, scoresOf, seed, storage } from '../support/arbitraries.js'
import {
  device,
  differentiate,
  evaluate,
  expectClose,
  expectNoTensorsLeftBehind,
  randomOperand,
  ROUNDED_ONCE,
} from '../support/tensors.js'

expectNoTensorsLeftBehind()

const scalar = (value: number): Ref => generate([], () => value)

describe('cross-entropies', () => {
  const cases = fc.record({
    rows: extent(67),
    classes: extent(131),
    smoothing: fc.constantFrom(0, 0.1, 0.9),
    sharpness: fc.constantFrom(0.1, 1, 10),
    storage,
    seed,
  })
  const kinds = [
    ['softmax', crossEntropy, reference.softmaxCrossEntropy],
    ['sigmoid', sigmoidCrossEntropy, reference.sigmoidCrossEntropy],
  ] as const

  it.each(kinds)('%s: the mean over rows, with the gradient', async (_, loss, oracle) => {
    await checkProperty(
      cases,
      async ({ rows, classes, smoothing, sharpness, storage, seed }) => {
        const random = randomSource(seed)
        const logits = randomOperand(random, [rows, classes], storage, sharpness)
        const labels = Int32Array.from({ length: rows }, () => random.integer(0, classes - 1))
        const { y, gradients } = await differentiate(
          { logits },
          ({ logits }) => loss(logits, labels, { labelSmoothing: smoothing }),
          scalar(2),
        )
        const wanted = oracle(logits[0], reference.smoothedTargets(labels, classes, smoothing))
        expect(y.shape).toEqual([])
        expectClose(y, scalar(wanted.loss), 1e-5, 'loss', sharpness)
        const dLogits = map(wanted.dLogits, (value) => 2 * value)
        // One class: the probability is the target, and nothing is left.
        expectClose(gradients.logits, dLogits, ROUNDED_ONCE[storage], 'dLogits', classes === 1 ? 1 / rows : 0)
      },
      40,
    )
  })

  it.each(kinds)('%s: finite where logits are far apart', async (_, loss, oracle) => {
    const logits = generate([4, 3], (i) => [1e4, -1e4, 0, -1e4, -1e4, -1e4, 1e4, 1e4, 1e4, 0, 88, -88][i])
    const labels = Int32Array.of(1, 0, 2, 2)
    const { y, gradients } = await differentiate(
      { logits: [logits, 'float32'] as const },
      ({ logits }) => loss(logits, labels),
      scalar(1),
    )
    const wanted = oracle(logits, reference.smoothedTargets(labels, 3))
    expectClose(y, scalar(wanted.loss), 1e-6, 'loss')
    expectClose(gradients.logits, wanted.dLogits, 1e-6, 'dLogits')
  })

  it.each(kinds)(
    '%s: a label tensor that holds no class gives NaN, not memory of others',
    async (_, loss) => {
      const logits = randomOperand(randomSource(1), [3, 4])
      for (const wrong of [-1, 4, 1_000_000, -2_147_483_648]) {
        const labels = device.tensor(Int32Array.of(1, wrong, 2))
        const { y, gradients } = await differentiate(
          { logits },
          ({ logits }) => loss(logits, labels),
          scalar(1),
        )
        expect(y.data[0]).toBeNaN()
        expect([...gradients.logits.data.subarray(4, 8)].every(Number.isNaN)).toBe(true)
        expect([...gradients.logits.data.subarray(0, 4)].every(Number.isFinite)).toBe(true)
        labels.dispose()
      }
    },
  )
})

describe('losses of paired embeddings', () => {
  const cases = fc.record({ pairs: extent(17), dim: extent(17), seed })
  const similarities = (a: Ref, b: Ref): Ref =>
    matmul(normaliseAlongRows(a), transpose(normaliseAlongRows(b)))
  const diagonal = (n: number): Ref => generate([n, n], (i) => (i % (n + 1) === 0 ? 1 : 0))

  it('contrastive: rows and columns find their partners, with every gradient', async () => {
    await checkProperty(
      cases,
      async ({ pairs, dim, seed }) => {
        const random = randomSource(seed)
        const a = randomOperand(random, [pairs, dim + 1])
        const b = randomOperand(random, [pairs, dim + 1])
        const temperature = [generate([1], () => 5), 'float32'] as const
        const lossOf = (a: Ref, b: Ref, factor: number): number => {
          const logits = map(similarities(a, b), (value) => factor * value)
          const targets = diagonal(pairs)
          return (
            (reference.softmaxCrossEntropy(logits, targets).loss +
              reference.softmaxCrossEntropy(transpose(logits), targets).loss) /
            2
          )
        }
        const { y, gradients } = await differentiate(
          { a, b, temperature },
          ({ a, b, temperature }) => contrastiveLoss(pairLogits(a, b, temperature)),
          scalar(1),
        )
        const value = (): number => lossOf(a[0], b[0], temperature[0].data[0])
        expectClose(y, scalar(value()), 1e-5, 'loss', 0.1)
        for (const [name, [array]] of Object.entries({ a, b, temperature })) {
          const gradient = gradients[name as 'a' | 'b' | 'temperature']
          expectClose(gradient, numericGradient(value, array), 2e-5, name, 1 / pairs)
        }
      },
      10,
    )
  })

  it('sigmoid: every pair is judged alone, with every gradient', async () => {
    await checkProperty(
      cases,
      async ({ pairs, dim, seed }) => {
        const random = randomSource(seed)
        const a = randomOperand(random, [pairs, dim + 1])
        const b = randomOperand(random, [pairs, dim + 1])
        const temperature = [generate([1], () => 5), 'float32'] as const
        const bias = [generate([1], () => -2), 'float32'] as const
        const { y, gradients } = await differentiate(
          { a, b, temperature, bias },
          ({ a, b, temperature, bias }) => sigmoidContrastiveLoss(pairLogits(a, b, temperature, bias)),
          scalar(1),
        )
        const value = (): number => {
          const logits = map(
            similarities(a[0], b[0]),
            (cosine) => temperature[0].data[0] * cosine + bias[0].data[0],
          )
          return reference.sigmoidCrossEntropy(logits, diagonal(pairs)).loss
        }
        expectClose(y, scalar(value()), 1e-5, 'loss', 0.1)
        for (const [name, [array]] of Object.entries({ a, b, temperature, bias })) {
          const gradient = gradients[name as 'a' | 'b' | 'temperature' | 'bias']
          expectClose(gradient, numericGradient(value, array), 2e-5, name, 1)
        }
      },
      10,
    )
  })
})

describe('argmax', () => {
  it('is the first of the largest, and NaN is never largest', async () => {
    const cases = fc.record({
      rows: extent(17),
      columns: extent(131),
      kind: fc.constantFrom('distinct', 'ties', 'nan', 'equal'),
      seed,
    })
    await checkProperty(cases, async ({ rows, columns, kind, seed }) => {
      const x = scoresOf(kind, [rows, columns], randomSource(seed))
      const y = await evaluate({ x: [x, 'float32'] }, ({ x }) => argmax(x))
      const wanted = Array.from(
        { length: rows },
        (_, row) => descendingOrder(columns, (i) => x.data[row * columns + i])[0],
      )
      expect([...y.data]).toEqual(wanted)
    })
  })
})
