/**
 * What all routers by index share: a linear gate network with noise in training, tokens in groups, buffers of limited
 * capacity, and experts that work on the rows that are really there. A router adds what selection looks at.
 */
import { given, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { visitTensors } from '../core/lifetime.js'
import { noGrad } from '../core/tape.js'
import type { Tensor } from '../core/tensor.js'
import type { Experts } from '../layers/experts.js'
import { lecunNormal } from '../layers/initializers.js'
import { Linear } from '../layers/linear.js'
import { type LayerContext, requireCount } from '../layers/module.js'
import { add, reshape } from '../ops/elementwise.js'
import { softmax } from '../ops/normalization.js'
import { combineRows, gatherGates, gatherGradient, type RowLists } from '../ops/sparse-routing.js'
import { type CapacityOptions, expertCapacity } from './capacity.js'
import { type MetricsOptions, Router, type RouteOptions, type Routing } from './router.js'
import { readSparseRouting, sparseMetrics } from './sparse-statistics.js'

/** Options of every router by index. */
export interface SparseRouterOptions extends CapacityOptions {
  readonly dim: number
  readonly numExperts: number
  /**
   * Tokens that are routed together. The tokens of a batch, image after image, are cut into groups of this size; an
   * output depends on all tokens of its group. Default: all tokens of the batch (V-MoE, section 2.3).
   */
  readonly groupSize?: number
  /** Places in the experts' buffers, in relation to the tokens; see `expertCapacity`. */
  readonly capacityFactor?: number
  /** In training, normal noise of standard deviation `noiseStd / numExperts` is added to the logits. */
  readonly noiseStd?: number
}

/** The defaults that a router fills in. */
export type SparseDefaults = Required<
  Pick<SparseRouterOptions, 'capacityFactor' | 'noiseStd' | 'rounding' | 'multipleOf'>
>

/** Logits of a batch, float32 `[groups, tokens, experts]`, without and with noise. */
export class RouterLogits {
  readonly clean: Tensor
  /** `clean` itself without noise. */
  readonly noisy: Tensor
  /** Standard deviation of the noise; 0 without. */
  readonly sigma: number
  #cleanGates: Tensor | null = null
  #noisyGates: Tensor | null = null

  constructor(clean: Tensor, noisy: Tensor, sigma: number) {
    this.clean = clean
    this.noisy = noisy
    this.sigma = sigma
  }

  /** Tokens of a group. */
  get tokens(): number {
    return this.clean.shape[1] ?? 0
  }

  /** Softmax of the clean logits over the experts. */
  cleanGates(): Tensor {
    this.#cleanGates ??= softmax(this.clean)
    return this.#cleanGates
  }

  /** Softmax of the noisy logits over the experts. */
  noisyGates(): Tensor {
    if (this.noisy === this.clean) return this.cleanGates()
    this.#noisyGates ??= softmax(this.noisy)
    return this.#noisyGates
  }
}

/** What selection looks at, and what the outputs are weighted with; float32 `[groups, tokens, experts]`. */
export interface RouterScores {
  readonly scores: Tensor
  readonly gates: Tensor
}

/** Who works on what. */
export interface Selection {
  readonly lists: RowLists
  /** float32 `[groups, tokens, experts]`. */
  readonly gates: Tensor
  /** Places in each expert's buffer, for each group. */
  readonly capacity: number
  /** Assignments before any was dropped. */
  readonly requested: number
  /** int32 `[groups, tokens, k]`, the experts of each token; null for Experts Choice. */
  readonly expert: Tensor | null
  /** int32 `[groups, tokens, k]`, its places; those of `capacity` and above are dropped. Null for Experts Choice. */
  readonly position: Tensor | null
  /** int32 `[groups, experts, capacity]`, the tokens of each expert; null for Tokens Choice. */
  readonly token: Tensor | null
  readonly auxiliaryLoss: Tensor | null
}

/** What `SparseMoE.routing` shows; `readSparseRouting` turns it into plain numbers. */
export interface SparseRouting extends Omit<Selection, 'lists'>, RowLists {
  readonly groups: number
  readonly tokensPerGroup: number
  readonly numExperts: number
  /** float32 `[groups, tokens, experts]`: softmax of the logits, whatever the outputs are weighted with. */
  readonly softmax: Tensor
  /** float32 `[maxRows]`: the gate of each row. */
  readonly rowGate: Tensor
}

/** A router that sends tokens to experts by index. */
export abstract class SparseRouter extends Router {
  readonly dense: Linear
  readonly #shape: SparseRouterOptions
  readonly #settings: SparseDefaults

  protected constructor(options: SparseRouterOptions, defaults: SparseDefaults, context: LayerContext) {
    super(context)
    requireObject('the options of a router', options)
    const { dim, numExperts, groupSize } = options
    requireCount('dim', dim)
    requireCount('numExperts', numExperts)
    if (groupSize !== undefined) requireCount('groupSize', groupSize)
    this.#shape = options
    const {
      capacityFactor = defaults.capacityFactor,
      noiseStd = defaults.noiseStd,
      rounding = defaults.rounding,
      multipleOf = defaults.multipleOf,
    } = options
    requirePositive('capacityFactor', capacityFactor)
    requireAtLeastZero('noiseStd', noiseStd)
    requireOneOf('rounding', rounding, ['ceil', 'round'])
    requireCount('multipleOf', multipleOf)
    this.#settings = { capacityFactor, noiseStd, rounding, multipleOf }
    this.dense = this.child(
      'dense',
      new Linear(
        { inDim: dim, outDim: numExperts, bias: false, outDType: 'float32', kernelInit: lecunNormal(dim) },
        this.context,
      ),
    )
  }

  /** Chooses who works on what. */
  protected abstract select(logits: RouterLogits, call: RouteOptions): Selection

  get numExperts(): number {
    return this.#shape.numExperts
  }

  /** Places for `requested` assignments of a group: at most its tokens, as an expert takes a token once. */
  protected capacity(requested: number, tokens: number, factor = this.#settings.capacityFactor): number {
    requirePositive('capacityFactor', factor)
    return Math.min(tokens, expertCapacity(requested, this.numExperts, factor, this.#settings))
  }

  #groups(x: Tensor): { readonly groups: number; readonly tokens: number } {
    const [batch = 0, sequence = 0] = x.shape
    const all = batch * sequence
    const { groupSize = all } = this.#shape
    if (all % groupSize !== 0) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `groupSize is ${groupSize}, which does not divide the ${all} tokens of this batch ` +
          `(${batch} x ${sequence}); choose a divisor of it, or batches that fill whole groups`,
      )
    }
    return { groups: all / groupSize, tokens: groupSize }
  }

  #logits(x: Tensor, withNoise: boolean): RouterLogits {
    const { groups, tokens } = this.#groups(x)
    const clean = this.dense.forward(reshape(x, [groups, tokens, x.shape[2] ?? 0]))
    const sigma = withNoise ? this.#settings.noiseStd / this.numExperts : 0
    const noisy =
      sigma === 0
        ? clean
        : add(clean, this.device.normal(clean.shape, { key: this.random.next(), scale: sigma }))
    return new RouterLogits(clean, noisy, sigma)
  }

  route(x: Tensor, call: RouteOptions = {}): Routing {
    this.requireCallOptions(call)
    if (x.size === 0) return { auxiliaryLoss: null, apply: () => reshape(x, x.shape) }
    const logits = this.#logits(x, this.training)
    const { lists, gates, auxiliaryLoss } = this.select(logits, call)
    return {
      auxiliaryLoss,
      apply: (experts: Experts) => {
        const dim = x.shape[2] ?? 0
        const rows = experts.forward(reshape(x, [x.size / dim, dim]), lists, gatherGradient(lists))
        return reshape(combineRows(rows, gatherGates(gates, lists), lists), x.shape)
      },
    }
  }

  /** How a batch is routed, without noise; nothing is recorded. @param x - `[batch, tokens, dim]`, not empty */
  routing(x: Tensor, call: RouteOptions = {}): SparseRouting {
    this.requireCallOptions(call)
    return noGrad(() =>
      this.run(() => {
        const logits = this.#logits(x, false)
        const { lists, ...selection } = this.select(logits, call)
        const [groups = 0, tokensPerGroup = 0, numExperts = 0] = logits.clean.shape
        const rowGate = gatherGates(selection.gates, lists)
        const softmax = logits.cleanGates()
        return { ...selection, ...lists, rowGate, softmax, groups, tokensPerGroup, numExperts }
      }),
    )
  }

  override async metrics(x: Tensor, options: MetricsOptions = {}): Promise<Record<string, number>> {
    const routing = this.routing(x, options.call)
    try {
      return sparseMetrics(await readSparseRouting(routing))
    } finally {
      visitTensors(routing, (tensor) => tensor.dispose())
    }
  }
}

function requirePositive(name: string, value: number): void {
  if (!(Number.isFinite(value) && value > 0)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${name} is ${given(value)}; wanted a finite number over 0`,
    )
  }
}

/** Throws `ERR_INVALID_ARGUMENT` unless `value` is finite and not negative. */
export function requireAtLeastZero(name: string, value: number): void {
  if (!(Number.isFinite(value) && value >= 0)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${name} is ${given(value)}; wanted a finite number of 0 or more`,
    )
  }
}

/** Throws `ERR_INVALID_ARGUMENT` unless `value` is among `allowed`. */
export function requireOneOf(name: string, value: string, allowed: readonly string[]): void {
  if (!allowed.includes(value)) {
    throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is '${value}'; wanted ${allowed.join(', ')}`)
  }
}
