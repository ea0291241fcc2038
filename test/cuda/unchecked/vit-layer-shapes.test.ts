// Layers of ViT-S/16 at 224 pixels (196 tokens of 384, six heads of 64, MLPs of 1536, 128 experts), forward and
// backward, against the CPU backend, which is held to float64 oracles by tests of its own.
import { describe, expect, it } from 'vitest'
import {
  type Device,
  type LayerContext,
  Mlp,
  type Module,
  MultiHeadAttention,
  openDevice,
  RandomSource,
  SoftMoE,
  SparseMoE,
  Tape,
  type Tensor,
  tokensChoice,
} from '../../../lib/index.js'
import type { Storage } from '../../support/arbitraries.js'
import { lossWithGradient } from '../../support/tensors.js'

const TOKENS = 196
const DIM = 384
const HIDDEN = 1536
const EXPERTS = 128

interface LayerCase {
  readonly name: string
  readonly dtype: Storage
  readonly batch: number
  readonly make: (context: LayerContext) => Module & { forward(x: Tensor): Tensor }
}

const cases: readonly LayerCase[] = [
  {
    name: 'Soft MoE, 128 experts of one slot',
    dtype: 'bfloat16',
    batch: 1,
    make: (context) =>
      new SoftMoE(
        { dim: DIM, hiddenDim: HIDDEN, numExperts: EXPERTS, slotsPerExpert: 1, shareInit: false },
        context,
      ),
  },
  {
    name: 'Tokens Choice, 2 of 16 experts',
    dtype: 'bfloat16',
    batch: 1,
    make: (context) => {
      const router = tokensChoice({ k: 2, capacityFactor: 1.05, batchPriority: true, noiseStd: 0 })
      return new SparseMoE({ dim: DIM, hiddenDim: HIDDEN, numExperts: 16, router }, context)
    },
  },
  {
    name: 'attention with 6 heads of 64',
    dtype: 'float32',
    batch: 1,
    make: (context) => new MultiHeadAttention({ dim: DIM, numHeads: 6 }, context),
  },
  {
    name: 'attention with 6 heads of 64',
    dtype: 'bfloat16',
    batch: 2,
    make: (context) => new MultiHeadAttention({ dim: DIM, numHeads: 6 }, context),
  },
  {
    name: 'the dense MLP',
    dtype: 'bfloat16',
    batch: 2,
    make: (context) => new Mlp({ dim: DIM, hiddenDim: HIDDEN }, context),
  },
]

/** Pulls the gradient back into a layer that starts with the same bits on every device. */
async function resultsOn(
  device: Device,
  { make, dtype, batch }: LayerCase,
  visit: (name: string, values: Float32Array) => void,
): Promise<void> {
  const layer = make({ device, dtype, random: new RandomSource(11) })
  const shape = [batch, TOKENS, DIM]
  const random = (stream: number): Float32Array => {
    const numbers = openDevice('cpu').normal(shape, { dtype, key: { seed: 5, stream } })
    const values = numbers.dataSync() as Float32Array
    numbers.dispose()
    return values
  }
  const x = device.tensor(random(1), shape, { dtype, requiresGrad: true })
  const dy = { shape, data: Float64Array.from(random(2)) }
  const tape = new Tape()
  const [loss, y] = tape.record(() => {
    const y = layer.forward(x)
    return [lossWithGradient(y, dy), y]
  })
  tape.backward(loss)
  visit('y', (await y.data()) as Float32Array)
  for (const [name, leaf] of [['x', x] as const, ...layer.namedParameters()]) {
    const { grad } = leaf
    if (grad === null) throw new Error(`${name} got no gradient`)
    visit(`gradient of ${name}`, (await grad.data()) as Float32Array)
    grad.dispose()
  }
  for (const tensor of [loss, x, y]) tensor.dispose()
  layer.dispose()
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
}

/** Which gradient's size measures the error: that of a key's bias is zero in exact arithmetic. */
function scaleOf(name: string): string {
  return name.endsWith('key/bias') ? name.replace('key/bias', 'query/bias') : name
}

/** Largest error that is allowed, as a share of the Euclidean norm. Seen: 1.9e-6 and 2.7e-3. */
const TOLERANCE = { float32: 1e-5, bfloat16: 1e-2 } as const

describe('a layer of ViT-S/16', () => {
  it.each(cases)('agrees with the CPU: $name in $dtype, batch $batch', async (layer) => {
    const expected = new Map<string, Float32Array>()
    await resultsOn(openDevice('cpu'), layer, (name, values) => void expected.set(name, values))
    const errors = new Map<string, number>()
    await resultsOn(openDevice('cuda'), layer, (name, values) => {
      const wanted = expected.get(name) ?? new Float32Array()
      expect(values.length, name).toBe(wanted.length)
      const difference = values.map((value, i) => value - wanted[i])
      errors.set(name, norm(difference) / norm(expected.get(scaleOf(name)) ?? new Float32Array()))
    })
    expect([...errors.keys()]).toEqual([...expected.keys()])
    expect([...errors].filter(([, error]) => !(error < TOLERANCE[layer.dtype]))).toEqual([])
  })
})
