// The optimiser steps are not differentiable and have no operation of their own in lib/ops; the optimisers call the
// addon, and so does this.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Tensor } from '../../lib/index.js'
import { native } from '../../lib/native.js'
import { copy, map, randomSource, type Ref, roundToBfloat16, zeros } from '../reference/array.js'
import * as reference from '../reference/optimizers.js'
import { checkProperty, extent, extentOrNone, seed } from '../support/arbitraries.js'
import { arrayOf, device, expectClose, expectNoTensorsLeftBehind, tensorOf } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const parameterCase = fc.record({
  counts: fc.array(extentOrNone(131), { minLength: 1, maxLength: 5 }),
  steps: extent(5),
  weightDecay: fc.constantFrom(0, 0.1),
  gradientScale: fc.constantFrom(null, 1, 0.25),
  seed,
})

interface Case {
  readonly values: Ref[]
  readonly gradients: Ref[][]
  readonly tensors: {
    readonly values: Tensor[]
    readonly first: Tensor[]
    readonly second: Tensor[]
    readonly copies: Tensor[]
  }
  readonly scale: Tensor | null
  dispose: () => void
}

function prepared(example: {
  counts: readonly number[]
  steps: number
  gradientScale: number | null
  seed: number
}): Case {
  const random = randomSource(example.seed)
  const values = example.counts.map((count) => random.array([count]))
  const gradients = Array.from({ length: example.steps }, () =>
    example.counts.map((count) => random.array([count])),
  )
  const tensors = {
    values: values.map((value) => tensorOf(value)),
    first: values.map((value) => device.zeros(value.shape)),
    second: values.map((value) => device.zeros(value.shape)),
    copies: values.map((value) => device.zeros(value.shape, { dtype: 'bfloat16' })),
  }
  const scale = example.gradientScale === null ? null : device.full([], example.gradientScale)
  return {
    values,
    gradients,
    tensors,
    scale,
    dispose: () => {
      for (const tensor of [...Object.values(tensors).flat(), scale]) tensor?.dispose()
    },
  }
}

const handles = (tensors: readonly Tensor[]) => tensors.map((tensor) => tensor.handle)

async function expectCopies(tensors: Case['tensors']): Promise<void> {
  for (const [i, value] of tensors.values.entries()) {
    const exact = map(await arrayOf(value), roundToBfloat16)
    expectClose(await arrayOf(tensors.copies[i]), exact, 0, 'the bfloat16 copy')
  }
}

describe('AdamW', () => {
  it('takes the steps of the oracle and writes the bfloat16 copies', async () => {
    await checkProperty(parameterCase, async (example) => {
      const { values, gradients, tensors, scale, dispose } = prepared(example)
      const moments = values.map((value) => reference.zeroMoments(value))
      const rates = example.counts.map((_, i) => 0.01 * (i + 1))
      for (let step = 1; step <= example.steps; step++) {
        const stepGradients = gradients[step - 1].map((gradient) => tensorOf(gradient))
        native.adamwStep(
          handles(tensors.values),
          handles(stepGradients),
          handles(tensors.first),
          handles(tensors.second),
          handles(tensors.copies),
          rates,
          rates.map(() => example.weightDecay),
          0.9,
          0.999,
          1e-8,
          step,
          scale?.handle ?? null,
        )
        for (const gradient of stepGradients) gradient.dispose()
        values.forEach((value, i) => {
          const gradient = map(gradients[step - 1][i], (g) => g * (example.gradientScale ?? 1))
          reference.adamWStep(value, moments[i], gradient, step, {
            learningRate: rates[i],
            weightDecay: example.weightDecay,
          })
        })
      }
      for (const [i, value] of values.entries()) {
        expectClose(await arrayOf(tensors.values[i]), value, 1e-6, 'values')
        expectClose(await arrayOf(tensors.first[i]), moments[i].first, 1e-6, 'first moments')
        expectClose(await arrayOf(tensors.second[i]), moments[i].second, 1e-6, 'second moments')
      }
      await expectCopies(tensors)
      dispose()
    })
  })

  it('leaves a value alone whose gradient has always been zero', async () => {
    const value = tensorOf(randomSource(1).array([9]))
    const nothing = [device.zeros([9]), device.zeros([9]), device.zeros([9])]
    const [gradient, first, second] = handles(nothing)
    native.adamwStep(
      [value.handle],
      [gradient],
      [first],
      [second],
      [null],
      [0.1],
      [0],
      0.9,
      0.999,
      1e-8,
      1,
      null,
    )
    expectClose(await arrayOf(value), randomSource(1).array([9]), 0, 'value')
    for (const tensor of [value, ...nothing]) tensor.dispose()
  })
})

describe('SGD', () => {
  const cases = fc.record({
    example: parameterCase,
    momentum: fc.constantFrom(0, 0.9),
    nesterov: fc.boolean(),
  })

  it('takes the steps of the oracle and writes the bfloat16 copies', async () => {
    await checkProperty(cases, async ({ example, momentum, nesterov }) => {
      const { values, gradients, tensors, scale, dispose } = prepared(example)
      const buffers = values.map((value) => zeros(...value.shape))
      const rates = example.counts.map((_, i) => 0.01 * (i + 1))
      for (let step = 0; step < example.steps; step++) {
        const stepGradients = gradients[step].map((gradient) => tensorOf(gradient))
        native.sgdStep(
          handles(tensors.values),
          handles(stepGradients),
          handles(tensors.first),
          handles(tensors.copies),
          rates,
          rates.map(() => example.weightDecay),
          momentum,
          nesterov,
          scale?.handle ?? null,
        )
        for (const gradient of stepGradients) gradient.dispose()
        values.forEach((value, i) => {
          const gradient = map(gradients[step][i], (g) => g * (example.gradientScale ?? 1))
          reference.sgdStep(value, buffers[i], gradient, {
            learningRate: rates[i],
            momentum,
            nesterov,
            weightDecay: example.weightDecay,
          })
        })
      }
      for (const [i, value] of values.entries()) {
        expectClose(await arrayOf(tensors.values[i]), value, 1e-6, 'values')
        expectClose(await arrayOf(tensors.first[i]), buffers[i], 1e-6, 'momenta')
      }
      await expectCopies(tensors)
      dispose()
    })
  })
})

describe('the global norm', () => {
  const cases = fc.record({
    counts: fc.array(extentOrNone(131), { minLength: 1, maxLength: 5 }),
    maxNorm: fc.constantFrom(0, 0.5, 1, 1e6),
    seed,
  })

  const norms = async (arrays: readonly Ref[], maxNorm: number): Promise<[number, number]> => {
    const tensors = arrays.map((array) => tensorOf(array))
    const [norm, scale] = native.globalNorm(handles(tensors), maxNorm)
    const values = [native.downloadSync(norm)[0], native.downloadSync(scale)[0]] as [number, number]
    native.dispose(norm)
    native.dispose(scale)
    for (const tensor of tensors) tensor.dispose()
    return Promise.resolve(values)
  }

  it('is the length of all gradients together; the factor clips it', async () => {
    await checkProperty(cases, async ({ counts, maxNorm, seed }) => {
      const random = randomSource(seed)
      const arrays = counts.map((count) => random.array([count]))
      const [norm, factor] = await norms(arrays, maxNorm)
      const wanted = reference.globalNorm(arrays)
      expect(Math.abs(norm - wanted)).toBeLessThanOrEqual(1e-6 * wanted)
      const clip = maxNorm === 0 || wanted === 0 ? 1 : reference.clipScale(arrays, maxNorm)
      expect(Math.abs(factor - clip)).toBeLessThanOrEqual(1e-6 * clip)
    })
  })

  it('is not a number, or infinite, where a gradient is; the factor is then NaN', async () => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const array = copy(randomSource(1).array([100]))
      array.data[57] = bad
      const [norm, factor] = await norms([randomSource(2).array([33]), array], 1)
      expect(Number.isFinite(norm)).toBe(false)
      expect(factor).toBeNaN()
    }
  })
})
