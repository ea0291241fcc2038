// Layers and models with frozen weights: what they serve, what they refuse, and the memory they take.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  capture,
  Experts,
  expertsChoice,
  type Module,
  Mlp,
  multiply,
  noGrad,
  openDevice,
  saveCheckpoint,
  setThreads,
  SoftMoE,
  SoftMoEError,
  SparseMoE,
  sum,
  Tape,
  type Tensor,
  tokensChoice,
  VisionTransformer,
  type WeightFormat,
} from '../../lib/index.js'
import { temporaryFolder } from '../data/temporary-folder.js'
import { anything, expectRefusal } from '../support/refusal.js'

const device = openDevice('cpu')

const DIM = 48
const SHAPE = { dim: DIM, hiddenDim: 100, numExperts: 5 } as const
const TOKENS = [3, 20, DIM] as const

type Layer = Module & { forward(x: Tensor): Tensor }

const softLayer = (): SoftMoE => new SoftMoE({ ...SHAPE, slotsPerExpert: 2 }, { device })
const LAYERS: Readonly<Record<string, () => { readonly layer: Layer; readonly mlp: Experts | Mlp }>> = {
  'Soft MoE': () => {
    const layer = softLayer()
    return { layer, mlp: layer.experts }
  },
  'Tokens Choice': () => {
    const layer = new SparseMoE({ ...SHAPE, router: tokensChoice({ k: 2, capacityFactor: 0.6 }) }, { device })
    return { layer, mlp: layer.experts }
  },
  'Experts Choice': () => {
    const layer = new SparseMoE({ ...SHAPE, router: expertsChoice({ capacityFactor: 1 }) }, { device })
    return { layer, mlp: layer.experts }
  },
  'dense MLP': () => {
    const mlp = new Mlp({ dim: DIM, hiddenDim: 100 }, { device })
    return { layer: mlp, mlp }
  },
}

const tokens = (shape: readonly number[] = TOKENS): Tensor =>
  device.normal(shape, { key: { seed: 3, stream: 1 } })

function values(layer: Layer, x: Tensor): Float32Array {
  const y = noGrad(() => layer.forward(x))
  const read = y.dataSync() as Float32Array
  y.dispose()
  return read
}

/** Root of the mean squared difference, in relation to that of the values. */
function relativeError(actual: Float32Array, wanted: Float32Array): number {
  const square = (sum: number, value: number): number => sum + value * value
  return Math.sqrt(actual.map((value, i) => value - wanted[i]).reduce(square, 0) / wanted.reduce(square, 0))
}

describe.each(Object.entries(LAYERS))('%s with frozen weights', (_, make) => {
  it('gives the same bits in float32, and nearly the same values in bfloat16 and int8', () => {
    const { layer, mlp } = make()
    layer.eval()
    const x = tokens()
    const plain = values(layer, x)
    expect(mlp.frozen).toBeNull()
    const errors = (['float32', 'bfloat16', 'int8'] as const).map((format) => {
      mlp.freeze({ format })
      expect(mlp.frozen).toBe(format)
      return relativeError(values(layer, x), plain)
    })
    expect(errors[0]).toBe(0)
    expect(errors[1]).toBeLessThan(0.01)
    expect(errors[2]).toBeLessThan(0.02)
    expect(errors[2]).toBeGreaterThan(0)
    mlp.unfreeze()
    expect(values(layer, x)).toEqual(plain)
    layer.dispose()
    x.dispose()
  })

  it('refuses to record a gradient, and trains again when it is unfrozen', () => {
    const { layer, mlp } = make()
    const x = tokens()
    mlp.freeze({ format: 'int8' })
    const tape = new Tape()
    expectRefusal(
      () => tape.record(() => sum(layer.forward(x))),
      'ERR_FROZEN',
      /frozen as int8, have no gradient; call unfreeze\(\) to train/,
    )
    tape.dispose()
    mlp.unfreeze()
    const again = new Tape()
    const loss = again.record(() => {
      const y = layer.forward(x)
      return sum(multiply(y, y))
    })
    again.backward(loss)
    expect(mlp.first.kernel.grad).not.toBeNull()
    loss.dispose()
    layer.dispose()
    x.dispose()
  })
})

describe('a frozen layer', () => {
  it.each(['float32', 'bfloat16', 'int8'] as const)(
    'gives a sample the same bits alone, in a batch and on any threads as %s',
    (format) => {
      const layer = softLayer().eval()
      layer.experts.freeze({ format })
      const x = tokens([9, 20, DIM])
      const together = values(layer, x)
      setThreads(5)
      expect(values(layer, x)).toEqual(together)
      setThreads(2)
      const one = device.tensor(x.dataSync().subarray(4 * 20 * DIM, 5 * 20 * DIM), [1, 20, DIM])
      expect(values(layer, one)).toEqual(together.subarray(4 * 20 * DIM, 5 * 20 * DIM))
      for (const owned of [layer, x, one]) owned.dispose()
    },
  )

  it('never serves weights that are not those of its parameters', () => {
    const layer = softLayer().eval()
    const x = tokens()
    const { kernel } = layer.experts.first
    const changes: Readonly<Record<string, () => unknown>> = {
      set: () => kernel.set(new Float32Array(kernel.size).fill(0.01)),
      'an optimiser': () => {
        layer.experts.unfreeze()
        const optimizer = new AdamW(layer.parameters(), { learningRate: 0.01 })
        const step = optimizer.accumulate(() => sum(layer.forward(x)))
        layer.experts.freeze({ format: 'int8' })
        optimizer.update().dispose()
        step.dispose()
        optimizer.dispose()
      },
      'a change announced by refreshCopy': () => kernel.refreshCopy(),
    }
    for (const [name, change] of Object.entries(changes)) {
      layer.experts.freeze({ format: 'float32' })
      change()
      expectRefusal(() => values(layer, x), 'ERR_FROZEN', /changed since; call freeze\(\) again/)
      layer.experts.freeze({ format: 'float32' })
      const served = values(layer, x)
      layer.experts.unfreeze()
      expect(values(layer, x), name).toEqual(served)
    }
    layer.dispose()
    x.dispose()
  })

  it('refuses dropout until eval() is called', () => {
    const mlp = new Mlp({ dim: DIM, hiddenDim: 100, dropoutRate: 0.1 }, { device }).freeze({ format: 'int8' })
    const x = tokens()
    expectRefusal(() => values(mlp, x), 'ERR_FROZEN', /have no dropout.*drops 0\.1.*eval\(\)/)
    expect(values(mlp.eval(), x).every(Number.isFinite)).toBe(true)
    mlp.dispose()
    x.dispose()
  })

  it.each([undefined, null, 'int4', 'Int8', 8])('refuses the format %j', (format) => {
    const mlp = new Mlp({ dim: 4, hiddenDim: 8 }, { device })
    expectRefusal(
      () => mlp.freeze({ format: anything(format) }),
      'ERR_INVALID_ARGUMENT',
      /wanted 'float32', 'bfloat16', 'int8'/,
    )
    expectRefusal(() => mlp.freeze(anything(format)), 'ERR_INVALID_ARGUMENT', /./)
    expect(mlp.frozen).toBeNull()
    mlp.dispose()
  })

  it('is counted, and freed by unfreeze and by the model', () => {
    const before = device.memoryUsage()
    const layer = new SoftMoE({ dim: 64, hiddenDim: 128, numExperts: 5, slotsPerExpert: 2 }, { device })
    const plain = device.memoryUsage()
    const masters = 4 * layer.experts.parameterCount()
    for (const [format, share] of [
      ['float32', 1],
      ['bfloat16', 0.5],
      ['int8', 0.25],
    ] as const) {
      layer.experts.freeze({ format })
      const frozen = device.memoryUsage()
      // Biases, and what int8 has for each column, stay 32 bits wide.
      expect(frozen.bytes - plain.bytes).toBeGreaterThanOrEqual(share * masters)
      expect(frozen.bytes - plain.bytes).toBeLessThan((share + 0.05) * masters)
      layer.experts.unfreeze()
      layer.experts.unfreeze()
      expect(device.memoryUsage().bytes).toBe(plain.bytes)
    }
    layer.experts.freeze({ format: 'int8' })
    layer.dispose()
    layer.dispose()
    expect(device.memoryUsage()).toMatchObject({ tensors: before.tensors, bytes: before.bytes })
  })

  it('serves without its float32 parameters, and says so to whoever asks for them', async () => {
    const before = device.memoryUsage().bytes
    const layer = softLayer().eval()
    const x = tokens()
    layer.experts.freeze({ format: 'int8' })
    const served = values(layer, x)
    const both = device.memoryUsage().bytes
    const masters = 4 * layer.experts.parameterCount()
    layer.experts.freeze({ format: 'int8', keepMasters: false })
    expect(both - device.memoryUsage().bytes).toBe(masters)
    expect(values(layer, x)).toEqual(served)
    expect(4 * layer.experts.parameterCount()).toBe(masters)
    const other = softLayer()
    const dropped = /was dropped when it was frozen with keepMasters: false; load the model again/
    const refused: Readonly<Record<string, () => unknown>> = {
      value: () => layer.experts.first.kernel.value,
      set: () => layer.experts.first.bias.set(new Float32Array(500)),
      freeze: () => layer.experts.freeze({ format: 'float32' }),
      'upcycle from it': () => other.upcycle(anything(layer.experts)),
    }
    for (const act of Object.values(refused)) expectRefusal(act, 'ERR_FROZEN', dropped)
    await expect(
      saveCheckpoint(join(temporaryFolder(), 'a.safetensors'), { model: layer }),
    ).rejects.toMatchObject({
      code: 'ERR_FROZEN',
    })
    // The refused calls have changed nothing.
    expect(values(layer, x)).toEqual(served)
    layer.experts.unfreeze()
    expectRefusal(() => values(layer, x), 'ERR_FROZEN', dropped)
    for (const owned of [layer, other, x]) owned.dispose()
    expect(device.memoryUsage().bytes).toBe(before)
  })

  it('is captured like any other function', async () => {
    const layer = softLayer().eval()
    layer.experts.freeze({ format: 'int8' })
    const x = tokens()
    const wanted = values(layer, x)
    const captured = await capture((input: Tensor) => layer.forward(input), x)
    const y = captured.run(x)
    expect(y.dataSync()).toEqual(wanted)
    for (const owned of [y, captured, layer, x]) owned.dispose()
  })
})

describe('a model with frozen weights', () => {
  const config = {
    imageSize: 16,
    patchSize: 4,
    width: 32,
    depth: 4,
    numHeads: 2,
    mlpDim: 64,
    numClasses: 7,
    classifier: 'map',
    moe: { router: 'soft', numExperts: 4, blocks: 'last-half' },
  } as const

  it.each(['float32', 'bfloat16', 'int8'] as const)(
    'serves all of its MLPs as %s',
    (format: WeightFormat) => {
      const model = new VisionTransformer(config, { device }).eval()
      const head = model.head.kernel
      head.set(new Float32Array(head.size).map((_, i) => Math.sin(i)))
      const images = device.uniform([5, 16, 16, 3], { key: { seed: 1, stream: 0 } })
      const plain = values(model, images)
      model.freezeExperts({ format, keepMasters: true })
      const blocks = model.encoder.blocks.map(({ mlp }) => (mlp instanceof Mlp ? mlp : mlp.experts).frozen)
      expect(blocks).toEqual([format, format, format, format])
      expect(model.mapHead?.mlp.frozen).toBe(format)
      const error = relativeError(values(model, images), plain)
      expect(error).toBeLessThan({ float32: 1e-30, bfloat16: 0.01, int8: 0.03 }[format])
      model.unfreezeExperts()
      expect(values(model, images)).toEqual(plain)
      model.dispose()
      images.dispose()
    },
  )

  it('is refused by training', async () => {
    const model = new VisionTransformer(config, { device })
    const optimizer = new AdamW(model.parameters(), { learningRate: 0.01 })
    model.freezeExperts({ format: 'bfloat16' })
    const images = device.uniform([2, 16, 16, 3], { key: { seed: 1, stream: 0 } })
    const error: unknown = await optimizer
      .step(() => sum(model.forward(images)))
      .catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(SoftMoEError)
    expect(error).toMatchObject({ code: 'ERR_FROZEN' })
    for (const owned of [optimizer, model, images]) owned.dispose()
  })
})
