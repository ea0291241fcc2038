/** What is timed, and the layers of the papers at their shapes, built through the public API. */
import {
  type Device,
  expertsChoice,
  type FloatDType,
  mean,
  Mlp,
  mlpCost,
  type Module,
  multiply,
  noGrad,
  SoftMoE,
  softMoeCost,
  SparseMoE,
  sparseMoeCost,
  Tape,
  type Tensor,
  tokensChoice,
  type WeightFormat,
} from '../lib/index.js'
import { BACKBONES, type BackboneName, type ExpertShape, type Pass } from './backbones.js'
import type { Problem } from './peers/problem.js'

/** The parts of the benchmark. */
export const GROUPS = ['layers', 'routers', 'sweep', 'models', 'parts', 'peers'] as const
export type Group = (typeof GROUPS)[number]

/** When a case runs without being named: always, without `--quick`, or with `--all`. */
export type Extent = 'quick' | 'standard' | 'all'

/** A case that is ready to run. */
export interface PreparedCase {
  /** Queues one run. */
  readonly run: () => void
  readonly dispose: () => void
}

/** One row of the benchmark. */
export interface BenchCase {
  readonly group: Group
  readonly name: string
  /** Cases of one family are timed in turns and compared with each other. */
  readonly family: string
  readonly pass: Pass
  readonly dtype: FloatDType
  /** Format of frozen weights, or null: those that are trained. */
  readonly weights: WeightFormat | null
  readonly threads: number
  readonly extent: Extent
  readonly shape: Readonly<Record<string, number>>
  /** FLOPs of matrix products, a multiply-add counting 2. */
  readonly flops: number
  /** Bytes that one run must move at least once: weights, or the operands of a routing step. */
  readonly bytes: number
  /** About what it allocates. */
  readonly memoryBytes: number
  /** The same layer for the peers, or null. */
  readonly problem: Problem | null
  readonly prepare: (device: Device) => PreparedCase
}

/** What the makers of cases share. */
export interface CaseOptions {
  readonly dtype: FloatDType
  readonly batch: number
  readonly pass: Pass
  readonly threads: number
  readonly extent: Extent
}

/** What `--only` is matched with. */
export function idOf({ group, name, pass, dtype, threads }: BenchCase): string {
  return `${group}: ${name}, ${pass}, ${dtype}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`
}

export const bytesOf = (format: WeightFormat): number => ({ float32: 4, bfloat16: 2, int8: 1 })[format]

/**
 * Bytes of weights that a pass moves: the backward reads them once more and writes a float32 gradient for each.
 *
 * @param parameters - trained scalars
 */
export function weightTraffic(parameters: number, dtype: FloatDType, pass: Pass): number {
  return parameters * (pass === 'forward' ? bytesOf(dtype) : 2 * bytesOf(dtype) + 4)
}

/** Bytes that stay allocated for weights: float32 masters, bfloat16 copies and gradients. */
export function weightMemory(parameters: number, dtype: FloatDType, pass: Pass): number {
  return parameters * (4 + (dtype === 'bfloat16' ? 2 : 0) + (pass === 'forward' ? 0 : 4))
}

/** FLOPs of a pass: the backward has two products for each of the forward's. */
export const passFlops = (flops: number, pass: Pass): number => flops * (pass === 'forward' ? 1 : 3)

interface Layer extends Module {
  forward(x: Tensor): Tensor
}

/** A layer on random tokens. */
export function prepareLayer(
  device: Device,
  layer: Layer,
  shape: readonly number[],
  { dtype, pass }: Pick<CaseOptions, 'dtype' | 'pass'>,
): PreparedCase {
  const dispose = (x: Tensor): void => {
    layer.dispose()
    x.dispose()
  }
  if (pass === 'forward') {
    layer.eval()
    const x = device.normal(shape, { dtype, key: { seed: 1, stream: 0 } })
    return { run: () => noGrad(() => layer.forward(x)).dispose(), dispose: () => dispose(x) }
  }
  const random = device.normal(shape, { key: { seed: 1, stream: 0 } })
  const x = device.tensor(random.dataSync(), shape, { dtype, requiresGrad: true })
  random.dispose()
  const run = (): void => {
    const tape = new Tape()
    const loss = tape.record(() => {
      const y = layer.forward(x)
      return mean(multiply(y, y))
    })
    tape.backward(loss)
    loss.dispose()
    layer.zeroGrad()
    x.grad?.dispose()
    x.grad = null
  }
  return { run, dispose: () => dispose(x) }
}

interface LayerCase {
  readonly group: Group
  readonly name: string
  readonly family: string
  readonly cost: { readonly flops: number; readonly parameters: number }
  readonly sizes: { readonly dim: number; readonly hiddenDim: number; readonly tokens: number }
  /** Rows that the experts work on, for each image. */
  readonly rows: number
  readonly shape?: Readonly<Record<string, number>>
  readonly problem?: Problem
  readonly weights?: WeightFormat
  readonly make: (device: Device) => Layer
}

export function layerCase(layer: LayerCase, options: CaseOptions): BenchCase {
  const { dtype, batch, pass, threads, extent } = options
  const { dim, hiddenDim, tokens } = layer.sizes
  const { parameters, flops } = layer.cost
  const { weights = null } = layer
  const kept = pass === 'forward' ? 1 : 3
  const activations = 4 * batch * (kept * layer.rows * (hiddenDim + dim) + 4 * tokens * dim)
  return {
    group: layer.group,
    name: `${layer.name} B=${batch}`,
    family: `${layer.family} B=${batch}, ${pass}, ${dtype}, ${threads}`,
    pass,
    dtype,
    weights,
    threads,
    extent,
    shape: { batch, tokens, dim, hiddenDim, ...layer.shape },
    flops: passFlops(batch * flops, pass),
    bytes: weights === null ? weightTraffic(parameters, dtype, pass) : parameters * bytesOf(weights),
    memoryBytes:
      (weights === null
        ? weightMemory(parameters, dtype, pass)
        : weightMemory(parameters, 'float32', pass) + parameters * bytesOf(weights)) + activations,
    problem: layer.problem ?? null,
    prepare: (device) => prepareLayer(device, layer.make(device), [batch, tokens, dim], options),
  }
}

/** The dense MLP of a ViT block. */
export function denseMlp(group: Group, backbone: BackboneName, options: CaseOptions): BenchCase {
  const sizes = BACKBONES[backbone]
  const { dim, hiddenDim, tokens } = sizes
  const { dtype } = options
  return layerCase(
    {
      group,
      name: `dense MLP ${backbone}`,
      family: `dense ${backbone}`,
      cost: mlpCost(tokens, dim, hiddenDim),
      sizes,
      rows: tokens,
      problem: { backbone, experts: null, weights: null, ...options },
      make: (device) => new Mlp({ dim, hiddenDim }, { device, dtype }),
    },
    options,
  )
}

/** The Soft MoE layer. */
export function softMoe(
  group: Group,
  backbone: BackboneName,
  experts: ExpertShape,
  options: CaseOptions,
  family = 'soft',
): BenchCase {
  const sizes = BACKBONES[backbone]
  const { numExperts, slotsPerExpert } = experts
  const { dim, hiddenDim } = sizes
  const { dtype } = options
  return layerCase(
    {
      group,
      name: `Soft MoE ${numExperts}x${slotsPerExpert} ${backbone}`,
      family: `${family} ${backbone}`,
      cost: softMoeCost({ ...sizes, ...experts }),
      sizes,
      rows: numExperts * slotsPerExpert,
      shape: { numExperts, slotsPerExpert },
      problem: { backbone, experts, weights: null, ...options },
      make: (device) => new SoftMoE({ dim, hiddenDim, ...experts }, { device, dtype }),
    },
    options,
  )
}

/** The Soft MoE layer with frozen weights. */
export function frozenSoftMoe(
  group: Group,
  backbone: BackboneName,
  experts: ExpertShape,
  weights: WeightFormat,
  options: CaseOptions,
): BenchCase {
  const sizes = BACKBONES[backbone]
  const { dim, hiddenDim } = sizes
  const { dtype } = options
  return layerCase(
    {
      group,
      name: `Soft MoE ${experts.numExperts}x${experts.slotsPerExpert} ${backbone} ${weights} frozen`,
      family: `soft ${backbone}`,
      cost: softMoeCost({ ...sizes, ...experts }),
      sizes,
      rows: experts.numExperts * experts.slotsPerExpert,
      shape: { ...experts },
      weights,
      problem: { backbone, experts, weights, ...options },
      make: (device) => {
        const layer = new SoftMoE({ dim, hiddenDim, ...experts }, { device, dtype })
        layer.experts.freeze({ format: weights, keepMasters: false })
        return layer
      },
    },
    options,
  )
}

/** A layer with as many places in the experts' buffers as there are tokens. */
export function sparseMoe(
  backbone: BackboneName,
  router: 'Tokens Choice k=1' | 'Tokens Choice k=2' | 'Experts Choice',
  numExperts: number,
  options: CaseOptions,
): BenchCase {
  const sizes = BACKBONES[backbone]
  const { dim, hiddenDim, tokens } = sizes
  const { dtype } = options
  const exact = { rounding: 'round', multipleOf: 1 } as const
  const config = {
    'Tokens Choice k=1': tokensChoice({ ...exact, k: 1, capacityFactor: 1 }),
    'Tokens Choice k=2': tokensChoice({ ...exact, k: 2, capacityFactor: 0.5 }),
    'Experts Choice': expertsChoice({ capacityFactor: 1 }),
  }[router]
  return layerCase(
    {
      group: 'routers',
      name: `${router} ${numExperts} ${backbone}`,
      family: `routers ${backbone}`,
      cost: sparseMoeCost({ tokens, dim, hiddenDim, numExperts }, tokens),
      sizes,
      rows: tokens,
      shape: { numExperts },
      make: (device) => new SparseMoE({ dim, hiddenDim, numExperts, router: config }, { device, dtype }),
    },
    options,
  )
}

/** The layer of the sweep: small enough for 4096 experts in the memory of a usual machine. */
const SWEEP = { dim: 128, hiddenDim: 512, tokens: 196, slots: 4096 } as const

/** Soft MoE with the same slots among more or fewer experts. */
export function sweepCase(numExperts: number, options: CaseOptions): BenchCase {
  const { slots, ...sizes } = SWEEP
  const { dim, hiddenDim } = sizes
  const experts = { numExperts, slotsPerExpert: slots / numExperts }
  const { dtype } = options
  return layerCase(
    {
      group: 'sweep',
      name: `${slots} slots, ${numExperts} experts`,
      family: 'sweep',
      cost: softMoeCost({ ...sizes, ...experts }),
      sizes,
      rows: slots,
      shape: experts,
      make: (device) => new SoftMoE({ dim, hiddenDim, ...experts }, { device, dtype }),
    },
    options,
  )
}
