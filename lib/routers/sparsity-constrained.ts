/**
 * Routers whose selection looks at a quadratic transport plan of the softmax gates with a limited number of non-zeros
 * (Liu, Puigcerver and Blondel, "Sparsity-constrained optimal transport", section 6). Outputs are weighted with the
 * softmax gates; there is no noise. Twenty steps of Adam, the default of the papers' code, do not balance the rows where
 * the constraint binds; selection only needs the order of the plan's values.
 */
import { type LayerContext, requireCount } from '../layers/module.js'
import { sparsePlan } from '../ops/transport-plans.js'
import { EXPERTS_CHOICE_DEFAULTS, type ExpertsChoiceOptions, ExpertsChoiceRouter } from './experts-choice.js'
import type { RouterLogits, RouterScores } from './sparse.js'
import { TOKENS_CHOICE_DEFAULTS, type TokensChoiceOptions, TokensChoiceRouter } from './tokens-choice.js'

/** Options of `SparsityConstrainedRouter`. There is no noise. */
export interface SparsityConstrainedOptions extends Omit<ExpertsChoiceOptions, 'noiseStd'> {
  /** Steps of Adam on the semi-dual. Default 20. */
  readonly iterations?: number
  /** Whether a column holds at most `capacity` non-zeros (default), or any number: the plain quadratic plan. */
  readonly constrained?: boolean
}

/** Configuration of sparsity-constrained Experts Choice. */
export interface SparsityConstrainedConfig extends Omit<SparsityConstrainedOptions, 'dim' | 'numExperts'> {
  readonly name: 'sparsity-constrained'
}

/** Sparsity-constrained Experts Choice as a layer's or model's router. */
export function sparsityConstrained(
  options: Omit<SparsityConstrainedConfig, 'name'> = {},
): SparsityConstrainedConfig {
  return { ...options, name: 'sparsity-constrained' }
}

/** Sparsity-constrained Experts Choice: each expert takes its best tokens by a plan with `capacity` non-zeros a column. */
export class SparsityConstrainedRouter extends ExpertsChoiceRouter {
  override readonly method = 'sparsity-constrained'
  readonly #iterations: number
  readonly #constrained: boolean

  constructor(options: SparsityConstrainedOptions, context: LayerContext = {}) {
    super(options, context, { ...EXPERTS_CHOICE_DEFAULTS, noiseStd: 0 })
    const { iterations = 20, constrained = true } = options
    requireCount('iterations', iterations)
    this.#iterations = iterations
    this.#constrained = constrained
  }

  protected override score({
    logits,
    capacity,
  }: {
    readonly logits: RouterLogits
    readonly capacity: number
  }): RouterScores {
    const gates = logits.cleanGates()
    const k = this.#constrained ? capacity : 0
    return { scores: sparsePlan(gates, { k, iterations: this.#iterations }), gates }
  }
}

/** Options of `SparsityConstrainedTokensChoiceRouter`. There is no noise; all losses weigh 0 by default. */
export interface SparsityConstrainedTokensChoiceOptions extends Omit<TokensChoiceOptions, 'noiseStd'> {
  /** Steps of Adam on the semi-dual. Default 20. */
  readonly iterations?: number
}

/** Configuration of the row-sparse twin. */
export interface SparsityConstrainedTokensChoiceConfig extends Omit<
  SparsityConstrainedTokensChoiceOptions,
  'dim' | 'numExperts'
> {
  readonly name: 'sparsity-constrained-tokens-choice'
}

/** Sparsity-constrained Tokens Choice as a layer's or model's router. */
export function sparsityConstrainedTokensChoice(
  options: Omit<SparsityConstrainedTokensChoiceConfig, 'name'> = {},
): SparsityConstrainedTokensChoiceConfig {
  return { ...options, name: 'sparsity-constrained-tokens-choice' }
}

/** The row-sparse twin: each token selects its k best experts by a plan with k non-zeros a row. */
export class SparsityConstrainedTokensChoiceRouter extends TokensChoiceRouter {
  override readonly method = 'sparsity-constrained-tokens-choice'
  readonly #iterations: number

  constructor(options: SparsityConstrainedTokensChoiceOptions, context: LayerContext = {}) {
    super(options, context, {
      ...TOKENS_CHOICE_DEFAULTS,
      noiseStd: 0,
      importanceLossWeight: 0,
      loadLossWeight: 0,
    })
    const { iterations = 20 } = options
    requireCount('iterations', iterations)
    this.#iterations = iterations
  }

  protected override score({
    logits,
    k,
  }: {
    readonly logits: RouterLogits
    readonly k: number
  }): RouterScores {
    const gates = logits.cleanGates()
    return { scores: sparsePlan(gates, { k, byRows: true, iterations: this.#iterations }), gates }
  }
}
