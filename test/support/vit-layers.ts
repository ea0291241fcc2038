// Layers of ViT-S/16 at 224 pixels (196 tokens of 384, six heads of 64, MLPs of 1536), forward and backward, against
// the float64 oracles: every output and every gradient, whole. The oracles take the operands as they are stored, and
// round nothing on the way.
import { expect } from 'vitest'
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
} from '../../lib/index.js'
import { fromArray, type Ref, reshape } from '../reference/array.js'
import { attention, attentionBackward } from '../reference/attention.js'
import { expertCapacity } from '../reference/capacity.js'
import { linear, linearBackward, type LinearGradients } from '../reference/linear.js'
import { softMoE, softMoEBackward } from '../reference/soft-moe.js'
import { sparseMoE, sparseMoEBackward, type SparseMoEOptions } from '../reference/sparse-moe.js'
import type { Storage } from './arbitraries.js'
import { lossWithGradient } from './tensors.js'

const TOKENS = 196
const DIM = 384
const HIDDEN = 1536
const HEADS = 6

/** What a layer must give: `y`, and gradients by the names of parameters; that of the input is `x`. */
interface Wanted {
  readonly values: ReadonlyMap<string, Ref>
  /** Norms that measure the errors of gradients whose terms cancel. */
  readonly sizes?: ReadonlyMap<string, number>
}

export interface VitLayer {
  readonly name: string
  readonly batch: number
  readonly make: (context: LayerContext) => Module & { forward(x: Tensor): Tensor }
  /** `parameter` gives a parameter's elements as the kernels read them, in another shape if wanted. */
  readonly oracle: (x: Ref, dy: Ref, parameter: (name: string, ...shape: number[]) => Ref) => Wanted
}

const expertGradients = ({ dw1, db1, dw2, db2 }: Record<'dw1' | 'db1' | 'dw2' | 'db2', Ref>) =>
  [
    ['Mlp/Dense_0/kernel', dw1],
    ['Mlp/Dense_0/bias', db1],
    ['Mlp/Dense_1/kernel', dw2],
    ['Mlp/Dense_1/bias', db2],
  ] as const

const expertWeights = (parameter: (name: string) => Ref) => ({
  w1: parameter('Mlp/Dense_0/kernel'),
  b1: parameter('Mlp/Dense_0/bias'),
  w2: parameter('Mlp/Dense_1/kernel'),
  b2: parameter('Mlp/Dense_1/bias'),
})

export function softMoELayer(numExperts: number, slotsPerExpert: number, batch: number): VitLayer {
  return {
    name: `Soft MoE, ${numExperts} experts of ${slotsPerExpert} slots`,
    batch,
    make: (context) =>
      new SoftMoE({ dim: DIM, hiddenDim: HIDDEN, numExperts, slotsPerExpert, shareInit: false }, context),
    oracle: (x, dy, parameter) => {
      const scale = parameter('Router/scale').data[0]
      const weights = { ...expertWeights(parameter), phi: parameter('Router/mu'), scale }
      const gradients = softMoEBackward(x, weights, dy)
      const { dx, dPhi, dScale } = gradients
      return {
        values: new Map([
          ['y', softMoE(x, weights).y],
          ['x', dx],
          ['Router/mu', dPhi],
          ['Router/scale', fromArray([dScale], [1])],
          ...expertGradients(gradients),
        ]),
        sizes: new Map([['Router/scale', gradients.dScaleMagnitude]]),
      }
    },
  }
}

export function tokensChoiceLayer(numExperts: number, batch: number): VitLayer {
  const k = 2
  const capacityFactor = 1.05
  return {
    name: `Tokens Choice, ${k} of ${numExperts} experts`,
    batch,
    make: (context) => {
      const router = tokensChoice({ k, capacityFactor, batchPriority: true, noiseStd: 0 })
      return new SparseMoE({ dim: DIM, hiddenDim: HIDDEN, numExperts, router }, context)
    },
    oracle: (x, dy, parameter) => {
      const tokens = batch * TOKENS
      const options: SparseMoEOptions = {
        choice: 'tokens',
        k,
        capacity: expertCapacity(k * tokens, numExperts, capacityFactor, 'ceil', 4),
        priority: 'max-gate',
      }
      const weights = { ...expertWeights(parameter), router: parameter('Router/dense/kernel') }
      const group = reshape(x, 1, tokens, DIM)
      const gradients = sparseMoEBackward(group, weights, reshape(dy, 1, tokens, DIM), options)
      return {
        values: new Map([
          ['y', sparseMoE(group, weights, options).y],
          ['x', gradients.dx],
          ['Router/dense/kernel', gradients.dRouter],
          ...expertGradients(gradients),
        ]),
      }
    },
  }
}

export function attentionLayer(batch: number): VitLayer {
  return {
    name: `attention with ${HEADS} heads of ${DIM / HEADS}`,
    batch,
    make: (context) => new MultiHeadAttention({ dim: DIM, numHeads: HEADS }, context),
    oracle: (x, dy, parameter) => {
      const weight = (path: string): Ref => parameter(`${path}/kernel`, DIM, DIM)
      const bias = (path: string): Ref => parameter(`${path}/bias`, DIM)
      const heads = (array: Ref): Ref => reshape(array, batch, TOKENS, HEADS, DIM / HEADS)
      const project = (path: string): Ref => heads(linear(x, weight(path), bias(path)))
      const [q, k, v] = [project('query'), project('key'), project('value')]
      const o = reshape(attention(q, k, v), batch, TOKENS, DIM)
      const out = linearBackward(o, weight('out'), bias('out'), 'none', dy)
      const { dq, dk, dv } = attentionBackward(q, k, v, heads(out.dx))
      const back = (path: string, gradient: Ref): readonly [string, LinearGradients] => [
        path,
        linearBackward(x, weight(path), bias(path), 'none', reshape(gradient, batch, TOKENS, DIM)),
      ]
      const projections = [back('query', dq), back('key', dk), back('value', dv)]
      const dx = x.data.map((_, i) =>
        projections.reduce((sum, [, gradients]) => sum + gradients.dx.data[i], 0),
      )
      const all = [...projections, ['out', out] as const]
      // The gradient of a key's bias is zero: it moves all scores of a query alike.
      const queryBias = projections[0][1].dBias
      return {
        values: new Map([
          ['y', linear(o, weight('out'), bias('out'))],
          ['x', fromArray(dx, x.shape)],
          ...all.map(([path, { dWeight }]) => [`${path}/kernel`, dWeight] as const),
          ...all.map(([path, { dBias }]) => [`${path}/bias`, dBias] as const),
        ]),
        sizes: new Map([['key/bias', norm(queryBias.data)]]),
      }
    },
  }
}

export function mlpLayer(batch: number): VitLayer {
  return {
    name: 'the dense MLP',
    batch,
    make: (context) => new Mlp({ dim: DIM, hiddenDim: HIDDEN }, context),
    oracle: (x, dy, parameter) => {
      const [w1, b1] = [parameter('Dense_0/kernel'), parameter('Dense_0/bias')]
      const [w2, b2] = [parameter('Dense_1/kernel'), parameter('Dense_1/bias')]
      const hidden = linear(x, w1, b1, 'gelu_tanh')
      const second = linearBackward(hidden, w2, b2, 'none', dy)
      const first = linearBackward(x, w1, b1, 'gelu_tanh', second.dx)
      return {
        values: new Map([
          ['y', linear(hidden, w2, b2)],
          ['x', first.dx],
          ['Dense_0/kernel', first.dWeight],
          ['Dense_0/bias', first.dBias],
          ['Dense_1/kernel', second.dWeight],
          ['Dense_1/bias', second.dBias],
        ]),
      }
    },
  }
}

function norm(values: Float64Array): number {
  let squares = 0
  for (let i = 0; i < values.length; i++) squares += values[i] * values[i]
  return Math.sqrt(squares)
}

/** Rounds millions of finite elements to bfloat16 in place, ties to even. */
function roundAllToBfloat16(values: Float32Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < words.length; i++) {
    words[i] = (words[i] + 0x7fff + ((words[i] >>> 16) & 1)) & 0xffff0000
  }
}

/**
 * Largest error that is allowed, as a share of the Euclidean norm. bfloat16: activations between the products are
 * rounded to eight bits, and so are their gradients. Seen: 1.7e-6 and 5.0e-3.
 */
const TOLERANCE = { float32: 1e-5, bfloat16: 1e-2 } as const

/** Runs every layer at its full size (SOFTMOE_TEST_WHOLE=1), which takes minutes on the emulated driver. */
export const runsWhole = process.env.SOFTMOE_TEST_WHOLE === '1'

/** Runs a layer forward and backward on the device and compares all that comes out with the oracle. */
export async function expectOracle(device: Device, layer: VitLayer, dtype: Storage): Promise<void> {
  const module = layer.make({ device, dtype, random: new RandomSource(11) })
  const shape = [layer.batch, TOKENS, DIM]
  const random = (stream: number): Ref => {
    const numbers = openDevice('cpu').normal(shape, { dtype, key: { seed: 5, stream } })
    const values = fromArray(numbers.dataSync(), shape)
    numbers.dispose()
    return values
  }
  const [given, dy] = [random(1), random(2)]
  const x = device.tensor(given.data, shape, { dtype, requiresGrad: true })
  const tape = new Tape()
  const [loss, y] = tape.record(() => {
    const y = module.forward(x)
    return [lossWithGradient(y, dy), y]
  })
  tape.backward(loss)

  const parameters = new Map(module.namedParameters())
  const parameter = (name: string, ...extents: number[]): Ref => {
    const found = parameters.get(name)
    if (found === undefined) throw new Error(`the layer has no parameter ${name}`)
    const values = found.value.dataSync() as Float32Array
    if (dtype === 'bfloat16' && name.endsWith('/kernel')) roundAllToBfloat16(values)
    return fromArray(values, extents.length > 0 ? extents : found.shape)
  }
  const { values: wanted, sizes } = layer.oracle(given, dy, parameter)
  expect([...wanted.keys()].sort()).toEqual(['y', 'x', ...parameters.keys()].sort())
  const errors: (readonly [string, number])[] = []
  for (const [name, { data }] of wanted) {
    const tensor = name === 'y' ? y : name === 'x' ? x.grad : parameters.get(name)?.grad
    if (!tensor) throw new Error(`${name} got no gradient`)
    const actual = await tensor.data()
    expect(actual.length, name).toBe(data.length)
    let squares = 0
    for (let i = 0; i < data.length; i++) squares += (actual[i] - data[i]) ** 2
    errors.push([name, Math.sqrt(squares) / (sizes?.get(name) ?? norm(data))])
    if (name !== 'y') tensor.dispose()
  }
  expect(errors.filter(([, error]) => !(error < TOLERANCE[dtype]))).toEqual([])
  for (const tensor of [loss, x, y]) tensor.dispose()
  module.dispose()
}
