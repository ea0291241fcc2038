import type { LayerContext } from '../layers/module.js'
import { rowsOfSelectedTokens, selectTokens } from '../ops/sparse-routing.js'
import type { RouteOptions } from './router.js'
import {
  type RouterLogits,
  type RouterScores,
  type Selection,
  type SparseDefaults,
  SparseRouter,
  type SparseRouterOptions,
} from './sparse.js'

/** Options of `ExpertsChoiceRouter`. Defaults are those of the comparison in the Soft MoE paper. */
export interface ExpertsChoiceOptions extends SparseRouterOptions {
  /** Tokens of each expert: `tokens * capacityFactor / numExperts`, at most all. Default 1. */
  readonly capacityFactor?: number
  /** Default 1. */
  readonly noiseStd?: number
  /** Default `round`. */
  readonly rounding?: 'ceil' | 'round'
  /** Default 1. */
  readonly multipleOf?: number
}

/** Configuration of Experts Choice. */
export interface ExpertsChoiceConfig extends Omit<ExpertsChoiceOptions, 'dim' | 'numExperts'> {
  readonly name: 'experts-choice'
}

/** Experts Choice as a layer's or model's router. */
export function expertsChoice(options: Omit<ExpertsChoiceConfig, 'name'> = {}): ExpertsChoiceConfig {
  return { ...options, name: 'experts-choice' }
}

export const EXPERTS_CHOICE_DEFAULTS: SparseDefaults = {
  capacityFactor: 1,
  noiseStd: 1,
  rounding: 'round',
  multipleOf: 1,
}

/**
 * Experts Choice (Zhou et al., "Mixture-of-Experts with Expert Choice Routing"): each expert takes the tokens of a group
 * that have the largest softmax gates for it. Experts are always full; a token may be taken by many experts or by none.
 * An output depends on later tokens, so this is not for causal models.
 */
export class ExpertsChoiceRouter extends SparseRouter {
  readonly method: string = 'experts-choice'
  readonly callOptions = ['capacityFactor'] as const
  readonly options: ExpertsChoiceOptions

  constructor(
    options: ExpertsChoiceOptions,
    context: LayerContext = {},
    defaults: SparseDefaults = EXPERTS_CHOICE_DEFAULTS,
  ) {
    super(options, defaults, context)
    this.options = options
  }

  /** What selection looks at and what outputs are weighted with, of `capacity` tokens for each expert. */
  protected score({ logits }: { readonly logits: RouterLogits; readonly capacity: number }): RouterScores {
    return { scores: logits.noisyGates(), gates: logits.noisyGates() }
  }

  protected select(logits: RouterLogits, call: RouteOptions): Selection {
    const { tokens } = logits
    const capacity = this.capacity(tokens, tokens, call.capacityFactor)
    const { scores, gates } = this.score({ logits, capacity })
    const token = selectTokens(scores, capacity)
    return {
      lists: rowsOfSelectedTokens(token, tokens),
      gates,
      capacity,
      requested: token.size,
      expert: null,
      position: null,
      token,
      auxiliaryLoss: null,
    }
  }
}
