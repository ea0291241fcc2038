// What the tests of routers share: layers with given weights, their gradients, and the oracle's options for a router.
import {
  SparseMoE,
  type SparseMoELayerOptions,
  type RouteOptions,
  Tape,
  add,
  scale,
} from '../../lib/index.js'
import type { Tensor } from '../../lib/index.js'
import type { Ref } from '../reference/array.js'
import { reshape } from '../reference/array.js'
import type { SparseMoEGradients, SparseMoEWeights } from '../reference/sparse-moe.js'
import { arrayOf, device, lossWithGradient, tensorOf } from '../support/tensors.js'

const PATHS = {
  router: 'Router/dense/kernel',
  w1: 'Mlp/Dense_0/kernel',
  b1: 'Mlp/Dense_0/bias',
  w2: 'Mlp/Dense_1/kernel',
  b2: 'Mlp/Dense_1/bias',
} as const satisfies Record<keyof SparseMoEWeights, string>

type LayerOptions = Omit<SparseMoELayerOptions, 'dim' | 'hiddenDim' | 'numExperts'>

/** A float32 layer in evaluation mode with the given weights. */
export function layerWith(weights: SparseMoEWeights, options: LayerOptions): SparseMoE {
  const [numExperts, dim, hiddenDim] = weights.w1.shape
  const layer = new SparseMoE({ ...options, dim, hiddenDim, numExperts }, { device }).eval()
  for (const [name, path] of Object.entries(PATHS)) {
    layer
      .parameters()
      .get(path)!
      .set(weights[name as keyof SparseMoEWeights].data)
  }
  return layer
}

export interface LayerResult {
  readonly y: Ref
  readonly auxiliaryLoss: number
  readonly gradients: SparseMoEGradients
}

/** Output of a layer for `x` [batch, tokens, dim], and all gradients of Σ y·dy + auxiliaryLoss. Disposes of the layer. */
export async function differentiateLayer(
  layer: SparseMoE,
  x: Ref,
  dy: Ref,
  call?: RouteOptions,
): Promise<LayerResult> {
  const input = tensorOf(x, 'float32', { requiresGrad: true })
  const tape = new Tape()
  const results = tape.record(() => {
    const { output, auxiliaryLoss } = layer.forwardWithLoss(input, call)
    const task = lossWithGradient(output, dy)
    return { output, auxiliaryLoss, loss: auxiliaryLoss === null ? task : add(task, scale(auxiliaryLoss, 1)) }
  })
  tape.backward(results.loss)
  const gradient = async (tensor: Tensor | null): Promise<Ref> => {
    if (tensor === null) throw new Error('a gradient is missing')
    return arrayOf(tensor)
  }
  const ofParameter = async (path: string): Promise<Ref> => gradient(layer.parameters().get(path)!.grad)
  const result: LayerResult = {
    y: await arrayOf(results.output),
    auxiliaryLoss: (await results.auxiliaryLoss?.item()) ?? 0,
    gradients: {
      dx: await gradient(input.grad),
      dRouter: await ofParameter(PATHS.router),
      dw1: await ofParameter(PATHS.w1),
      db1: await ofParameter(PATHS.b1),
      dw2: await ofParameter(PATHS.w2),
      db2: await ofParameter(PATHS.b2),
    },
  }
  for (const tensor of [results.output, results.auxiliaryLoss, results.loss, input.grad, input])
    tensor?.dispose()
  layer.dispose()
  return result
}

/** Random weights that keep activations near 1 and gates apart. */
export function randomWeights(
  random: { readonly array: (shape: readonly number[], scale?: number) => Ref },
  experts: number,
  dim: number,
  hidden: number,
): SparseMoEWeights {
  return {
    router: random.array([dim, experts], 2 / Math.sqrt(dim)),
    w1: random.array([experts, dim, hidden], 1 / Math.sqrt(dim)),
    b1: random.array([experts, hidden]),
    w2: random.array([experts, hidden, dim], 1 / Math.sqrt(hidden)),
    b2: random.array([experts, dim]),
  }
}

/** `[batch, tokens, dim]` as groups of `groupSize` tokens. */
export function inGroups(x: Ref, groupSize: number): Ref {
  const [batch, tokens, dim] = x.shape
  return reshape(x, (batch * tokens) / groupSize, groupSize, dim)
}
