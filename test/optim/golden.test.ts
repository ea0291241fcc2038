import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  add,
  multiply,
  openDevice,
  Parameter,
  reciprocalSquareRoot,
  type Schedule,
  sum,
  Tape,
  warmupCosine,
  warmupLinear,
} from '../../lib/index.js'
import { native } from '../../lib/native.js'

interface GoldenSchedule {
  readonly schedule: string
  readonly total_steps: number
  readonly peak_value: number
  readonly end_value: number
  readonly timescale: number
  readonly warmup_steps: number
  readonly cooldown_steps: number
  readonly steps: readonly number[]
  readonly values: readonly number[]
}

type Values = Readonly<Record<'a' | 'b', readonly (number | readonly number[])[]>>

interface GoldenAdamW {
  readonly clip_global_norm: number | null
  readonly weight_decay: number
  readonly learning_rate: number
  readonly b1: number
  readonly b2: number
  readonly eps: number
  readonly params: Values
  readonly grads: readonly Values[]
  readonly after_step: readonly Values[]
}

const golden = JSON.parse(
  readFileSync(new URL('../golden/layers/optimizer.json', import.meta.url), 'utf8'),
) as {
  readonly schedules: readonly GoldenSchedule[]
  readonly adamw: readonly GoldenAdamW[]
}

const device = openDevice(process.env.SOFTMOE_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu')

function scheduleOf(g: GoldenSchedule): Schedule {
  switch (g.schedule) {
    case 'big_vision_rsqrt':
      return reciprocalSquareRoot({
        peak: g.peak_value,
        totalSteps: g.total_steps,
        timescale: g.timescale,
        warmupSteps: g.warmup_steps,
        cooldownSteps: g.cooldown_steps,
      })
    case 'warmup_linear_decay':
      return warmupLinear(g.peak_value, g.warmup_steps, g.total_steps, g.end_value)
    case 'warmup_cosine_decay':
      return warmupCosine(g.peak_value, g.warmup_steps, g.total_steps, g.end_value)
    default:
      throw new Error(`unknown schedule ${g.schedule}`)
  }
}

describe('schedules of the official trainers', () => {
  it.each(golden.schedules.map((g, i) => ({ g, name: `${i}: ${g.schedule}` })))('$name', ({ g }) => {
    const schedule = scheduleOf(g)
    g.steps.forEach((step, i) => {
      expect(Math.abs(schedule(step) - g.values[i])).toBeLessThan(1e-12)
    })
  })
})

describe('AdamW as the official trainer chains it', () => {
  it.each(golden.adamw.map((g, i) => ({ g, i })))('case $i', async ({ g }) => {
    const make = (nested: Values['a']): Parameter => {
      const values = nested.flat()
      return new Parameter(
        native.uploadTensor(device, [values.length], 'float32', Float32Array.from(values)),
        device,
      )
    }
    const parameters = new Map([
      ['a', make(g.params.a)],
      ['b', make(g.params.b)],
    ])
    const optimizer = new AdamW(parameters, {
      learningRate: g.learning_rate,
      weightDecay: g.weight_decay,
      clipNorm: g.clip_global_norm ?? 0,
      beta1: g.b1,
      beta2: g.b2,
      eps: g.eps,
    })
    for (const [step, gradients] of g.grads.entries()) {
      // The gradient of sum(parameter * g) is g.
      const loss = optimizer.accumulate(() => {
        const terms = (['a', 'b'] as const).map((name) =>
          sum(multiply(parameters.get(name)!.value, device.tensor(gradients[name].flat()))),
        )
        return add(terms[0], terms[1])
      })
      loss.dispose()
      optimizer.update().dispose()
      for (const name of ['a', 'b'] as const) {
        const actual = await parameters.get(name)!.value.data()
        g.after_step[step][name].flat().forEach((value, i) => {
          expect(Math.abs(actual[i] - value)).toBeLessThan(2e-6 * Math.max(1, Math.abs(value)))
        })
      }
    }
    expect(optimizer.steps).toBe(g.grads.length)
  })
})

describe('an optimiser', () => {
  it('refuses to update without gradients and states of wrong options', () => {
    const parameter = new Parameter(native.full(device, [2], 'float32', 1), device)
    const parameters = new Map([['x', parameter]])
    const optimizer = new AdamW(parameters, { learningRate: 0.1 })
    expect(() => optimizer.update()).toThrow(expect.objectContaining({ code: 'ERR_NOT_RECORDED' }))
    const bad = { code: 'ERR_INVALID_ARGUMENT' }
    expect(() => new AdamW(parameters, { learningRate: NaN })).toThrow(expect.objectContaining(bad))
    expect(() => new AdamW(parameters, { learningRate: 1, weightDecay: -1 })).toThrow(
      expect.objectContaining(bad),
    )
    expect(() => new AdamW(parameters, { learningRate: 1, clipNorm: -1 })).toThrow(
      expect.objectContaining(bad),
    )
    expect(() => new AdamW(new Map(), { learningRate: 1 })).toThrow(expect.objectContaining(bad))
  })

  it('rejects a step whose loss is not finite', async () => {
    const parameter = new Parameter(native.full(device, [1], 'float32', 1), device)
    const optimizer = new AdamW(new Map([['x', parameter]]), { learningRate: 0.1 })
    const infinity = device.tensor([Infinity])
    await expect(optimizer.step(() => sum(multiply(parameter.value, infinity)))).rejects.toMatchObject({
      code: 'ERR_NON_FINITE',
    })
  })

  it('adds the gradients of micro-batches', async () => {
    const parameter = new Parameter(native.full(device, [1], 'float32', 2), device)
    const optimizer = new AdamW(new Map([['x', parameter]]), { learningRate: 0.1 })
    const tape = new Tape()
    const first = tape.record(() => sum(multiply(parameter.value, parameter.value)))
    tape.backward(first)
    optimizer.accumulate(() => sum(multiply(parameter.value, parameter.value)), 0.5).dispose()
    expect(await parameter.grad!.item()).toBe(6)
  })
})
