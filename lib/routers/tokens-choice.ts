import { SoftMoEError } from '../core/errors.js'
import type { Tensor } from '../core/tensor.js'
import { type LayerContext, requireCount } from '../layers/module.js'
import type { RoutingPriority } from '../native.js'
import { add, mean, scale } from '../ops/elementwise.js'
import { gshardLoss, importanceLoss, loadLoss, zLoss } from '../ops/router-losses.js'
import { normalizeSelected, rowsOfSelectedExperts, selectExperts } from '../ops/sparse-routing.js'
import type { RouteOptions } from './router.js'
import {
  requireAtLeastZero,
  requireOneOf,
  type RouterLogits,
  type RouterScores,
  type Selection,
  type SparseDefaults,
  SparseRouter,
  type SparseRouterOptions,
} from './sparse.js'

/** Options of `TokensChoiceRouter`. Defaults are those of V-MoE. */
export interface TokensChoiceOptions extends SparseRouterOptions {
  /** Experts of each token. Default 2. */
  readonly k?: number
  /** Places in the buffers: `k * tokens * capacityFactor / numExperts`, at most all tokens. Default 1.05. */
  readonly capacityFactor?: number
  /** Default 1. */
  readonly noiseStd?: number
  /** Default `ceil`. */
  readonly rounding?: 'ceil' | 'round'
  /** Default 4. */
  readonly multipleOf?: number
  /**
   * Who gets places where there are too few: tokens in order (`none`, default), those with the largest gate (`max`,
   * Batch Priority Routing, V-MoE, section 4.1), or with the largest sum of selected gates (`sum`).
   */
  readonly priority?: RoutingPriority
  /** True is short for `priority: 'max'`. */
  readonly batchPriority?: boolean
  /**
   * Divides a token's selected gates by their sum, dropped ones included. Default false, as in V-MoE; with k = 1 every
   * gate would be 1 and the gate network would get no gradient, so that is refused.
   */
  readonly renormalise?: boolean
  /** Never drops: buffers as long as needed. Default false. */
  readonly dropless?: boolean
  /** Weight of the importance loss. Default 0.005. */
  readonly importanceLossWeight?: number
  /** Weight of the load loss, which is defined in training with noise only. Default 0.005. */
  readonly loadLossWeight?: number
  /** Weight of GShard's loss. Default 0. */
  readonly gshardLossWeight?: number
  /** Weight of the z-loss. Default 0. */
  readonly zLossWeight?: number
}

/** Configuration of Tokens Choice. */
export interface TokensChoiceConfig extends Omit<TokensChoiceOptions, 'dim' | 'numExperts'> {
  readonly name: 'tokens-choice'
}

/**
 * Tokens Choice as a layer's or model's router.
 *
 * @example tokensChoice({ k: 2, capacityFactor: 1.05, batchPriority: true })
 */
export function tokensChoice(options: Omit<TokensChoiceConfig, 'name'> = {}): TokensChoiceConfig {
  return { ...options, name: 'tokens-choice' }
}

/** Defaults of a router of this family. */
export interface TokensChoiceDefaults extends SparseDefaults {
  readonly importanceLossWeight: number
  readonly loadLossWeight: number
}

export const TOKENS_CHOICE_DEFAULTS: TokensChoiceDefaults = {
  capacityFactor: 1.05,
  noiseStd: 1,
  rounding: 'ceil',
  multipleOf: 4,
  importanceLossWeight: 0.005,
  loadLossWeight: 0.005,
}

const PRIORITIES = ['none', 'max', 'sum'] as const satisfies readonly RoutingPriority[]

/**
 * Tokens Choice (V-MoE, sections 2.2 to 2.4): each token selects its k best experts by softmax gates. Each expert has a
 * buffer for each group; what does not fit is dropped and lives on by the residual connection alone. Selected gates are
 * not renormalised.
 */
export class TokensChoiceRouter extends SparseRouter {
  readonly method: string = 'tokens-choice'
  readonly callOptions = ['k', 'capacityFactor', 'priority', 'dropless'] as const
  readonly options: TokensChoiceOptions
  readonly #lossWeights: Readonly<Record<'importance' | 'load' | 'gshard' | 'z', number>>
  readonly #priority: RoutingPriority

  constructor(
    options: TokensChoiceOptions,
    context: LayerContext = {},
    defaults: TokensChoiceDefaults = TOKENS_CHOICE_DEFAULTS,
  ) {
    super(options, defaults, context)
    this.options = options
    const { k = 2, batchPriority, priority } = options
    this.#requireSelected(k)
    if (batchPriority !== undefined && priority !== undefined) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `batchPriority is ${batchPriority} and priority is '${priority}'; give one of them`,
      )
    }
    this.#priority = priority ?? (batchPriority === true ? 'max' : 'none')
    requireOneOf('priority', this.#priority, PRIORITIES)
    const {
      importanceLossWeight: importance = defaults.importanceLossWeight,
      loadLossWeight: load = defaults.loadLossWeight,
      gshardLossWeight: gshard = 0,
      zLossWeight: z = 0,
    } = options
    this.#lossWeights = { importance, load, gshard, z }
    for (const [name, weight] of Object.entries(this.#lossWeights)) {
      requireAtLeastZero(`${name}LossWeight`, weight)
    }
  }

  #requireSelected(k: number): void {
    requireCount('k', k)
    if (k > this.numExperts) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `k is ${k} for ${this.numExperts} experts; a token selects at most all of them`,
      )
    }
    if (k === 1 && this.options.renormalise === true && this.training) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        'renormalise with k = 1 makes every gate 1, so the gate network would never learn; ' +
          'choose k of 2 or more, or leave renormalise out',
      )
    }
  }

  /** What selection looks at and what outputs are weighted with, of `k` experts for each token. */
  protected score({ logits }: { readonly logits: RouterLogits; readonly k: number }): RouterScores {
    return { scores: logits.noisyGates(), gates: logits.noisyGates() }
  }

  protected select(logits: RouterLogits, call: RouteOptions): Selection {
    const { tokens } = logits
    const { renormalise = false } = this.options
    const { k = this.options.k ?? 2, priority = this.#priority, capacityFactor } = call
    // A capacity factor given for the call asks for buffers, even of a router that has none.
    const dropless = call.dropless ?? (capacityFactor === undefined && this.options.dropless === true)
    this.#requireSelected(k)
    requireOneOf('priority', priority, PRIORITIES)
    const capacity = dropless ? tokens : this.capacity(k * tokens, tokens, capacityFactor)
    const { scores, gates } = this.score({ logits, k })
    const { expert, position } = selectExperts(scores, k, priority)
    return {
      lists: rowsOfSelectedExperts({ expert, position }, this.numExperts, capacity),
      gates: renormalise ? normalizeSelected(gates, expert) : gates,
      capacity,
      requested: expert.size,
      expert,
      position,
      token: null,
      auxiliaryLoss: this.#auxiliaryLoss(logits, k),
    }
  }

  /** Weighted sum of the losses' means over the groups; losses without weight are not computed. */
  #auxiliaryLoss(logits: RouterLogits, k: number): Tensor | null {
    const { importance, load, gshard, z } = this.#lossWeights
    const losses: Tensor[] = []
    if (importance > 0) losses.push(scale(mean(importanceLoss(logits.cleanGates())), importance))
    if (load > 0 && logits.sigma > 0) {
      losses.push(scale(mean(loadLoss(logits.clean, logits.noisy, k, logits.sigma)), load))
    }
    if (gshard > 0) losses.push(scale(mean(gshardLoss(logits.noisyGates())), gshard))
    if (z > 0) losses.push(scale(mean(zLoss(logits.clean)), z))
    return losses.length === 0 ? null : losses.reduce((total, loss) => add(total, loss))
  }
}
