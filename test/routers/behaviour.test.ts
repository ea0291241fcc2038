import { describe, expect, it } from 'vitest'
import {
  add,
  expertsChoice,
  mean,
  Mlp,
  multiply,
  noGrad,
  RandomSource,
  type RouteOptions,
  sinkhornExpertsChoice,
  sinkhornTokensChoice,
  SoftMoE,
  sparsityConstrained,
  SPARSE_ROUTER_NAMES,
  SparseMoE,
  type SparseMoELayerOptions,
  type SparseRouterConfig,
  Tape,
  type Tensor,
  tokensChoice,
  vit,
  VisionTransformer,
} from '../../lib/index.js'
import { randomSource } from '../reference/array.js'
import { device, expectNoTensorsLeftBehind } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const DIM = 12
const SHAPE = { dim: DIM, hiddenDim: 16, numExperts: 4 } as const

function makeLayer(
  router: SparseMoELayerOptions['router'],
  options: Partial<SparseMoELayerOptions> = {},
): SparseMoE {
  return new SparseMoE({ ...SHAPE, ...options, router }, { device, random: new RandomSource(7) }).eval()
}

function tokens(batch: number, count: number, seed = 1): Tensor {
  return device.tensor(randomSource(seed).array([batch, count, DIM]).data, [batch, count, DIM], {
    dtype: 'float32',
  })
}

async function outputOf(
  layer: { forward(x: Tensor, options?: RouteOptions): Tensor },
  x: Tensor,
  options?: RouteOptions,
): Promise<number[]> {
  const y = layer.forward(x, options)
  const values = [...(await y.data())]
  y.dispose()
  return values
}

/** A batch of which `x` is the last sequence. */
function batchBefore(x: Tensor, seed: number): { readonly batch: Tensor; readonly single: Tensor } {
  const [, count] = x.shape
  const other = randomSource(seed).array([2, count, DIM]).data
  const values = [...other, ...x.dataSync()]
  return { batch: device.tensor(values, [3, count, DIM]), single: x }
}

describe('a sample alone and in a batch', () => {
  it('gets the same bits from Soft MoE', async () => {
    const layer = new SoftMoE({ ...SHAPE, slotsPerExpert: 2 }, { device, random: new RandomSource(7) }).eval()
    const { batch, single } = batchBefore(tokens(1, 10), 5)
    const alone = await outputOf(layer, single)
    expect((await outputOf(layer, batch)).slice(-alone.length)).toEqual(alone)
    for (const thing of [layer, batch, single]) thing.dispose()
  })

  it.each(SPARSE_ROUTER_NAMES)('gets other outputs from %s, whose groups span images', async (name) => {
    const layer = makeLayer(name)
    const { batch, single } = batchBefore(tokens(1, 10), 5)
    const alone = await outputOf(layer, single)
    expect((await outputOf(layer, batch)).slice(-alone.length)).not.toEqual(alone)
    for (const thing of [layer, batch, single]) thing.dispose()
  })

  it.each(SPARSE_ROUTER_NAMES)('gets the same bits from %s when a group is one image', async (name) => {
    const layer = makeLayer(name, { groupSize: 10 })
    const { batch, single } = batchBefore(tokens(1, 10), 5)
    const alone = await outputOf(layer, single)
    expect((await outputOf(layer, batch)).slice(-alone.length)).toEqual(alone)
    for (const thing of [layer, batch, single]) thing.dispose()
  })

  it.each(SPARSE_ROUTER_NAMES)('gives the same bits twice from %s', async (name) => {
    const layer = makeLayer(name)
    const x = tokens(2, 33)
    expect(await outputOf(layer, x)).toEqual(await outputOf(layer, x))
    for (const thing of [layer, x]) thing.dispose()
  })
})

describe('capacity', () => {
  it('as large as needed drops nothing, as the dropless mode', async () => {
    const x = tokens(3, 17)
    const dropless = makeLayer(tokensChoice({ k: 2, dropless: true }))
    const large = makeLayer(tokensChoice({ k: 2, capacityFactor: 100 }))
    const small = makeLayer(tokensChoice({ k: 2, capacityFactor: 0.5 }))
    const expected = await outputOf(dropless, x)
    expect(await outputOf(large, x)).toEqual(expected)
    expect(await outputOf(small, x)).not.toEqual(expected)
    expect(await outputOf(small, x, { dropless: true })).toEqual(expected)
    expect(await outputOf(dropless, x, { capacityFactor: 0.5 })).toEqual(await outputOf(small, x))
    expect(await outputOf(large, x, { capacityFactor: 0.5, dropless: true })).toEqual(expected)
    for (const thing of [x, dropless, large, small]) thing.dispose()
  })

  it('is at most all tokens: experts that choose then take every token', () => {
    const x = tokens(1, 6)
    const layer = makeLayer(expertsChoice({ capacityFactor: 100 }))
    const routing = layer.routing(x)
    expect(routing.capacity).toBe(6)
    expect(routing.requested).toBe(24)
    dispose(routing)
    for (const thing of [x, layer]) thing.dispose()
  })

  it('leaves dropped tokens at 0', async () => {
    const x = tokens(1, 40)
    const layer = makeLayer(tokensChoice({ k: 1, capacityFactor: 0.2 }))
    const routing = layer.routing(x)
    const offsets = await routing.tokenOffsets.data()
    const y = await outputOf(layer, x)
    let dropped = 0
    for (let token = 0; token < 40; token++) {
      const isDropped = offsets[token] === offsets[token + 1]
      if (isDropped) dropped += 1
      expect(y.slice(token * DIM, (token + 1) * DIM).every((value) => value === 0)).toBe(isDropped)
    }
    expect(dropped).toBe(40 - offsets[40])
    expect(dropped).toBeGreaterThan(20)
    dispose(routing)
    for (const thing of [x, layer]) thing.dispose()
  })
})

function dispose(record: object): void {
  for (const value of Object.values(record) as unknown[]) {
    if (typeof value === 'object' && value !== null && 'isTensor' in value) (value as Tensor).dispose()
  }
}

describe('a trained layer', () => {
  it('changes its compute for a call: k, capacity factor, priority', async () => {
    const x = tokens(2, 25)
    const trained = makeLayer(tokensChoice({ k: 2, capacityFactor: 1 }))
    for (const [call, config] of [
      [{ k: 1 }, { k: 1, capacityFactor: 1 }],
      [{ k: 3 }, { k: 3, capacityFactor: 1 }],
      [
        { capacityFactor: 0.15, priority: 'max' },
        { k: 2, capacityFactor: 0.15, priority: 'max' },
      ],
      [
        { k: 1, capacityFactor: 0.5, priority: 'sum' },
        { k: 1, capacityFactor: 0.5, priority: 'sum' },
      ],
    ] as const) {
      // The same seed gives the same weights: no parameter depends on these options.
      const madeSo = makeLayer(tokensChoice(config))
      expect(await outputOf(trained, x, call)).toEqual(await outputOf(madeSo, x))
      madeSo.dispose()
    }
    const experts = makeLayer(expertsChoice())
    const twice = makeLayer(expertsChoice({ capacityFactor: 2 }))
    expect(await outputOf(experts, x, { capacityFactor: 2 })).toEqual(await outputOf(twice, x))
    for (const thing of [x, trained, experts, twice]) thing.dispose()
  })

  it('passes these options through a model', async () => {
    const config = {
      ...vit('Ti/4'),
      width: 16,
      numHeads: 2,
      mlpDim: 16,
      depth: 2,
      imageSize: 8,
      numClasses: 3,
    }
    const model = new VisionTransformer(
      { ...config, moe: { router: tokensChoice({ k: 2 }), numExperts: 4 } },
      { device, random: new RandomSource(3) },
    ).eval()
    // Heads start at zero, so look at the features.
    const images = device.tensor(randomSource(2).array([2, 8, 8, 3]).data, [2, 8, 8, 3])
    const features = async (options?: RouteOptions): Promise<number[]> => {
      const { tokens: encoded, auxiliaryLoss } = noGrad(() => model.encode(images, options))
      const values = [...(await encoded.data())]
      encoded.dispose()
      auxiliaryLoss?.dispose()
      return values
    }
    expect(await features({ k: 1 })).not.toEqual(await features())
    expect(await features({ k: 2 })).toEqual(await features())
    for (const thing of [model, images]) thing.dispose()
  })

  it('starts as the dense MLP when upcycled, with renormalised gates and nothing dropped', async () => {
    const mlp = new Mlp({ dim: DIM, hiddenDim: 16 }, { device, random: new RandomSource(9) })
    const router = tokensChoice({ k: 2, renormalise: true, dropless: true })
    const layer = SparseMoE.fromDense(mlp, { numExperts: 4, router }).eval()
    const x = tokens(2, 9)
    const dense = await outputOf(mlp, x)
    const sparse = await outputOf(layer, x)
    sparse.forEach((value, i) => expect(value).toBeCloseTo(dense[i], 5))
    for (const thing of [mlp, layer, x]) thing.dispose()
  })
})

describe('noise', () => {
  it('is drawn in training only, anew for each call, as 1 / experts', async () => {
    const x = tokens(2, 40)
    const layer = makeLayer(tokensChoice({ k: 1, noiseStd: 8, capacityFactor: 4 })).train()
    const noisy = await outputOf(layer, x)
    expect(await outputOf(layer, x)).not.toEqual(noisy)
    const again = makeLayer(tokensChoice({ k: 1, noiseStd: 8, capacityFactor: 4 })).train()
    expect(await outputOf(again, x)).toEqual(noisy)
    layer.eval()
    expect(await outputOf(layer, x)).toEqual(await outputOf(layer, x))
    const quiet = makeLayer(tokensChoice({ k: 1, noiseStd: 0, capacityFactor: 4 })).train()
    expect(await outputOf(quiet, x)).toEqual(await outputOf(layer, x))
    const sparse = makeLayer(sparsityConstrained()).train()
    expect(await outputOf(sparse, x)).toEqual(await outputOf(sparse, x))
    for (const thing of [x, layer, again, quiet, sparse]) thing.dispose()
  })

  it('brings the load loss in; all losses train the gate network', async () => {
    const x = tokens(1, 32)
    const only = { importanceLossWeight: 0, loadLossWeight: 0 }
    for (const losses of [
      { ...only, importanceLossWeight: 1 },
      { ...only, loadLossWeight: 1 },
      { ...only, gshardLossWeight: 1 },
      { ...only, zLossWeight: 1 },
    ]) {
      const layer = makeLayer(tokensChoice(losses)).train()
      const tape = new Tape()
      const loss = tape.record(() => layer.forwardWithLoss(x).auxiliaryLoss)
      expect(loss, JSON.stringify(losses)).not.toBeNull()
      tape.backward(loss!)
      const { grad } = layer.router.dense.kernel
      expect((await grad!.data()).some((d) => d !== 0)).toBe(true)
      expect([...(await grad!.data())].every(Number.isFinite)).toBe(true)
      loss!.dispose()
      layer.zeroGrad()
      layer.eval()
      const inEvaluation = layer.forwardWithLoss(x)
      expect(inEvaluation.auxiliaryLoss === null).toBe(
        'loadLossWeight' in losses && losses.loadLossWeight === 1,
      )
      dispose(inEvaluation)
      layer.dispose()
    }
    const none = makeLayer(tokensChoice(only)).train()
    const result = none.forwardWithLoss(x)
    expect(result.auxiliaryLoss).toBeNull()
    dispose(result)
    for (const thing of [x, none]) thing.dispose()
  })
})

describe('gates', () => {
  it('of the Sinkhorn routers can be the plan’s, whose gradient trains the gate network', async () => {
    const x = tokens(1, 24)
    for (const router of [
      sinkhornTokensChoice({ gates: 'plan' }),
      sinkhornExpertsChoice({ gates: 'plan' }),
    ] satisfies SparseRouterConfig[]) {
      const layer = makeLayer(router)
      const tape = new Tape()
      const loss = tape.record(() => {
        const y = layer.forward(x)
        return mean(multiply(y, y))
      })
      tape.backward(loss)
      const gradient = await layer.router.dense.kernel.grad!.data()
      expect(gradient.some((d) => d !== 0)).toBe(true)
      loss.dispose()
      layer.dispose()
    }
    x.dispose()
  })
})

describe('an empty batch', () => {
  it('comes back empty', () => {
    const layer = makeLayer('tokens-choice')
    const x = device.zeros([0, 5, DIM])
    const y = layer.forward(x)
    expect(y.shape).toEqual([0, 5, DIM])
    for (const thing of [layer, x, y]) thing.dispose()
  })
})

describe('a training step', () => {
  it.each(SPARSE_ROUTER_NAMES)('with %s leaves no tensors but gradients', async (name) => {
    const before = device.memoryUsage().tensors
    const layer = makeLayer(name).train()
    const x = tokens(2, 12)
    const own = device.memoryUsage().tensors
    const tape = new Tape()
    const loss = tape.record(() => {
      const { output, auxiliaryLoss } = layer.forwardWithLoss(x)
      const task = mean(multiply(output, output))
      return auxiliaryLoss === null ? task : add(task, auxiliaryLoss)
    })
    tape.backward(loss)
    expect(Number.isFinite(await loss.item())).toBe(true)
    for (const [path, parameter] of layer.namedParameters()) expect(parameter.grad, path).not.toBeNull()
    loss.dispose()
    layer.zeroGrad()
    // Views of parameters under other shapes are kept from call to call; they share their storage.
    expect(device.memoryUsage().tensors).toBe(own)
    layer.dispose()
    x.dispose()
    expect(device.memoryUsage().tensors).toBe(before)
  })
})
