import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { Mlp, openDevice, RandomSource, SoftMoE, sum, Tape, multiply, type Tensor } from '../../lib/index.js'

interface GoldenArray {
  readonly shape: readonly number[]
  readonly data: readonly number[]
}

interface GoldenLayer {
  readonly dims: { readonly B: number; M: number; d: number; N: number; P: number; h: number }
  readonly scale: number
  readonly X: GoldenArray
  readonly mu: GoldenArray
  readonly W1: GoldenArray
  readonly b1: GoldenArray
  readonly W2: GoldenArray
  readonly b2: GoldenArray
  readonly dY: GoldenArray
  readonly Y: GoldenArray
  readonly D: GoldenArray
  readonly C: GoldenArray
  readonly grads: Readonly<Record<'X' | 'mu' | 'W1' | 'b1' | 'W2' | 'b2', GoldenArray>> & {
    readonly scale: number
  }
}

const device = openDevice(process.env.SOFTMOE_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu')

function readGolden(name: string): GoldenLayer {
  return JSON.parse(
    readFileSync(new URL(`../golden/layers/${name}.json`, import.meta.url), 'utf8'),
  ) as GoldenLayer
}

function worstError(actual: ArrayLike<number>, expected: readonly number[]): number {
  const largest = Math.max(...expected.map(Math.abs))
  expect(actual.length).toBe(expected.length)
  return Math.max(...expected.map((value, i) => Math.abs((actual[i] ?? NaN) - value))) / largest
}

function layerOf(golden: GoldenLayer): SoftMoE {
  const { d: dim, h: hiddenDim, N: numExperts, P: slotsPerExpert } = golden.dims
  const layer = new SoftMoE({ dim, hiddenDim, numExperts, slotsPerExpert }, { device })
  layer.router.mu.set(golden.mu.data)
  layer.router.scale.set([golden.scale])
  layer.experts.first.kernel.set(golden.W1.data)
  layer.experts.first.bias.set(golden.b1.data)
  layer.experts.second.kernel.set(golden.W2.data)
  layer.experts.second.bias.set(golden.b2.data)
  return layer
}

describe.each([
  { name: 'soft_small', scaleTolerance: 1e-5 },
  { name: 'soft_p1', scaleTolerance: 1e-5 },
  // The scale's gradient is 1.5e-3 here, what is left of terms that cancel: float32 keeps three digits of it.
  { name: 'soft_bigscale', scaleTolerance: 1e-2 },
])("the papers' layer $name", ({ name, scaleTolerance }) => {
  const golden = readGolden(name)

  it('has the same output, weights and gradients', async () => {
    using layer = layerOf(golden)
    const x = device.tensor(golden.X.data, golden.X.shape, { requiresGrad: true })
    const dY = device.tensor(golden.dY.data, golden.dY.shape)
    const tape = new Tape()
    const { y, loss } = tape.record(() => {
      const output = layer.forward(x)
      return { y: output, loss: sum(multiply(output, dY)) }
    })
    tape.backward(loss)
    expect(worstError(await y.data(), golden.Y.data)).toBeLessThan(1e-5)
    const gradients: readonly (readonly [Tensor | null, GoldenArray])[] = [
      [x.grad, golden.grads.X],
      [layer.router.mu.grad, golden.grads.mu],
      [layer.experts.first.kernel.grad, golden.grads.W1],
      [layer.experts.first.bias.grad, golden.grads.b1],
      [layer.experts.second.kernel.grad, golden.grads.W2],
      [layer.experts.second.bias.grad, golden.grads.b2],
    ]
    for (const [actual, expected] of gradients) {
      expect(worstError(await actual!.data(), expected.data)).toBeLessThan(1e-5)
    }
    const dScale = await layer.router.scale.grad!.item()
    expect(Math.abs(dScale / golden.grads.scale - 1)).toBeLessThan(scaleTolerance)
  })

  it('shows its dispatch and combine weights', async () => {
    using layer = layerOf(golden)
    const { dispatch, combine } = layer.routing(device.tensor(golden.X.data, golden.X.shape))
    expect(worstError(await dispatch.data(), golden.D.data)).toBeLessThan(1e-5)
    expect(worstError(await combine.data(), golden.C.data)).toBeLessThan(1e-5)
  })
})

describe('initial values', () => {
  const options = { dim: 64, hiddenDim: 96, numExperts: 8, slotsPerExpert: 4 }

  function deviation(values: ArrayLike<number>): number {
    const all = Array.from(values)
    const mean = all.reduce((a, b) => a + b, 0) / all.length
    return Math.sqrt(all.reduce((a, b) => a + (b - mean) ** 2, 0) / all.length)
  }

  it('Phi has the variance 1 / (experts * dim) of the official code', () => {
    using layer = new SoftMoE(options, { device })
    const expected = Math.sqrt(1 / (options.numExperts * options.dim))
    // 2,048 draws: the standard error of a standard deviation is 1.6 %.
    expect(Math.abs(deviation(layer.router.mu.value.dataSync()) / expected - 1)).toBeLessThan(0.06)
    expect(layer.router.scale.value.itemSync()).toBe(1)
  })

  it('kernels are Glorot uniform for one expert, and independent unless they share', () => {
    const limit = Math.sqrt(6 / (options.dim + options.hiddenDim))
    const experts = (shareInit: boolean): readonly Float32Array[] => {
      using layer = new SoftMoE({ ...options, shareInit }, { device })
      const values = layer.experts.first.kernel.value.dataSync() as Float32Array
      const size = options.dim * options.hiddenDim
      return [values.subarray(0, size), values.subarray(size, 2 * size)]
    }
    const [first, second] = experts(false)
    expect(Math.max(...first.map(Math.abs))).toBeLessThanOrEqual(limit)
    expect(Math.max(...first.map(Math.abs))).toBeGreaterThan(0.99 * limit)
    expect(first).not.toEqual(second)
    const [sharedFirst, sharedSecond] = experts(true)
    expect(sharedFirst).toEqual(sharedSecond)
  })

  it('depend on the seed alone', () => {
    const mu = (seed: number): unknown => {
      using layer = new SoftMoE(options, { device, random: new RandomSource(seed) })
      return layer.router.mu.value.dataSync()
    }
    expect(mu(1)).toEqual(mu(1))
    expect(mu(1)).not.toEqual(mu(2))
  })
})

describe('fromDense', () => {
  it('gives every expert the dense weights, so that one expert with one slot a token is the dense MLP', async () => {
    using mlp = new Mlp({ dim: 12, hiddenDim: 20 }, { device })
    using layer = SoftMoE.fromDense(mlp, { numExperts: 3, slotsPerExpert: 1 })
    const [one, two] = [0, 1].map((e) =>
      layer.experts.first.kernel.value.dataSync().subarray(e * 240, (e + 1) * 240),
    )
    expect(one).toEqual(mlp.first.kernel.value.dataSync())
    expect(two).toEqual(one)
    using identity = SoftMoE.fromDense(mlp, {
      numExperts: 5,
      slotsPerExpert: 1,
      dispatch: 'identity',
      combine: 'identity',
    })
    const x = device.normal([2, 5, 12], { key: { seed: 3, stream: 0 } })
    const dense = await mlp.forward(x).data()
    const routed = await identity.forward(x).data()
    expect(worstError(routed, Array.from(dense))).toBeLessThan(1e-6)
  })

  it('refuses another width', () => {
    using mlp = new Mlp({ dim: 12, hiddenDim: 20 }, { device })
    using layer = new SoftMoE({ dim: 12, hiddenDim: 24, numExperts: 2, slotsPerExpert: 1 }, { device })
    expect(() => layer.upcycle(mlp)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }))
  })
})

describe('noise and dropout', () => {
  const options = { dim: 16, hiddenDim: 8, numExperts: 4, slotsPerExpert: 2, noiseStd: 1, dropoutRate: 0.5 }

  it('act in training only, and differ from call to call', () => {
    using layer = new SoftMoE(options, { device })
    const x = device.normal([2, 9, 16], { key: { seed: 5, stream: 0 } })
    const run = (): unknown => layer.forward(x).dataSync()
    expect(run()).not.toEqual(run())
    layer.eval()
    expect(run()).toEqual(run())
    layer.train()
    const { state } = layer.random
    const drawn = run()
    layer.random.state = state
    expect(run()).toEqual(drawn)
  })
})
