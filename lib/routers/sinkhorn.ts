/**
 * Routers whose selection looks at an entropic transport plan instead of softmax gates: the plan gives every expert the
 * same total, so that load is nearly balanced without auxiliary losses (Sinkhorn routers of "Routers in Vision Mixture
 * of Experts").
 */
import { type LayerContext, requireCount } from '../layers/module.js'
import { sinkhornPlan } from '../ops/transport-plans.js'
import { type ExpertsChoiceOptions, ExpertsChoiceRouter } from './experts-choice.js'
import { requireOneOf, type RouterLogits, type RouterScores } from './sparse.js'
import { TOKENS_CHOICE_DEFAULTS, type TokensChoiceOptions, TokensChoiceRouter } from './tokens-choice.js'

/** Options of the plan. */
export interface SinkhornOptions {
  /** Sinkhorn's iterations. Default 20. */
  readonly iterations?: number
  /**
   * What outputs are weighted with: the softmax of the logits (default), or the plan's values, whose gradient is that of
   * the converged plan, by implicit differentiation.
   */
  readonly gates?: 'softmax' | 'plan'
}

function checkedOptions({ iterations = 20, gates = 'softmax' }: SinkhornOptions): Required<SinkhornOptions> {
  requireCount('iterations', iterations)
  requireOneOf('gates', gates, ['softmax', 'plan'])
  return { iterations, gates }
}

/** Options of `SinkhornTokensChoiceRouter`: those of Tokens Choice, but all losses weigh 0 by default. */
export interface SinkhornTokensChoiceOptions extends TokensChoiceOptions, SinkhornOptions {}

/** Configuration of Sinkhorn Tokens Choice. */
export interface SinkhornTokensChoiceConfig extends Omit<SinkhornTokensChoiceOptions, 'dim' | 'numExperts'> {
  readonly name: 'sinkhorn-tokens-choice'
}

/** Sinkhorn Tokens Choice as a layer's or model's router. */
export function sinkhornTokensChoice(
  options: Omit<SinkhornTokensChoiceConfig, 'name'> = {},
): SinkhornTokensChoiceConfig {
  return { ...options, name: 'sinkhorn-tokens-choice' }
}

/**
 * Sinkhorn Tokens Choice: each token selects its k best experts by the plan of the noisy logits. As in the papers' code
 * the softmax gates are those of the logits without noise.
 */
export class SinkhornTokensChoiceRouter extends TokensChoiceRouter {
  override readonly method = 'sinkhorn-tokens-choice'
  readonly #plan: Required<SinkhornOptions>

  constructor(options: SinkhornTokensChoiceOptions, context: LayerContext = {}) {
    super(options, context, { ...TOKENS_CHOICE_DEFAULTS, importanceLossWeight: 0, loadLossWeight: 0 })
    this.#plan = checkedOptions(options)
  }

  protected override score({ logits }: { readonly logits: RouterLogits }): RouterScores {
    const scores = sinkhornPlan(logits.noisy, this.#plan.iterations)
    return { scores, gates: this.#plan.gates === 'plan' ? scores : logits.cleanGates() }
  }
}

/** Options of `SinkhornExpertsChoiceRouter`. */
export interface SinkhornExpertsChoiceOptions extends ExpertsChoiceOptions, SinkhornOptions {}

/** Configuration of Sinkhorn Experts Choice. */
export interface SinkhornExpertsChoiceConfig extends Omit<
  SinkhornExpertsChoiceOptions,
  'dim' | 'numExperts'
> {
  readonly name: 'sinkhorn-experts-choice'
}

/** Sinkhorn Experts Choice as a layer's or model's router. */
export function sinkhornExpertsChoice(
  options: Omit<SinkhornExpertsChoiceConfig, 'name'> = {},
): SinkhornExpertsChoiceConfig {
  return { ...options, name: 'sinkhorn-experts-choice' }
}

/** Sinkhorn Experts Choice: each expert takes its best tokens by the plan of the noisy logits. */
export class SinkhornExpertsChoiceRouter extends ExpertsChoiceRouter {
  override readonly method = 'sinkhorn-experts-choice'
  readonly #plan: Required<SinkhornOptions>

  constructor(options: SinkhornExpertsChoiceOptions, context: LayerContext = {}) {
    super(options, context)
    this.#plan = checkedOptions(options)
  }

  protected override score({ logits }: { readonly logits: RouterLogits }): RouterScores {
    const scores = sinkhornPlan(logits.noisy, this.#plan.iterations)
    return { scores, gates: this.#plan.gates === 'plan' ? scores : logits.noisyGates() }
  }
}
