// The whole sparse MoE layer: gates, selection with buffers, experts on the rows that are there, weighted sum,
// auxiliary losses, and all gradients (V-MoE; Routers in Vision Mixture of Experts, table of routers).
import { add, map, type Ref, reshape, zeros } from './array.js'
import { gshardLoss, importanceLoss, loadLoss, zLoss } from './auxiliary-losses.js'
import { expertsChoice } from './experts-choice.js'
import { type ExpertOptions, type ExpertWeights, raggedExperts, raggedExpertsBackward } from './experts.js'
import { affine, linearBackward } from './linear.js'
import { sinkhornPlan, sinkhornPlanBackward } from './sinkhorn.js'
import { softmaxRows, softmaxRowsBackward } from './softmax.js'
import { sparsePlan, type SparsePlanOptions } from './sparse-transport.js'
import {
  type Assignment,
  type Priority,
  renormalisedGates,
  renormalisedGatesBackward,
  topExperts,
  tokensChoice,
} from './tokens-choice.js'

/** router [d, E] and the weights of the E experts. */
export interface SparseMoEWeights extends ExpertWeights {
  readonly router: Ref
}

/** Weight of each auxiliary loss; a loss without weight is not computed. */
export interface AuxiliaryWeights {
  readonly importance?: number
  /** Needs noise. */
  readonly load?: number
  readonly gshard?: number
  readonly z?: number
}

export interface SparseMoEOptions extends ExpertOptions {
  readonly choice: 'tokens' | 'experts'
  /** Experts per token (Tokens Choice). Default 1. */
  readonly k?: number
  /** Buffer length per expert and group; Infinity (Tokens Choice only) drops nothing. */
  readonly capacity: number
  readonly priority?: Priority
  /** Divide the selected gates by their sum (Tokens Choice, k > 1). Default false. */
  readonly renormalise?: boolean
  /** What the selection looks at: the softmax (default), a Sinkhorn plan or a sparsity-constrained plan. */
  readonly plan?: 'softmax' | 'sinkhorn' | SparsePlanOptions
  /** Default 20. */
  readonly sinkhornIterations?: number
  /** Combine with the Sinkhorn plan's values instead of the softmax's. Default false. */
  readonly gatesFromPlan?: boolean
  /** Added to the logits [G, S, E] in training. */
  readonly noise?: Ref
  /** Standard deviation of the noise, for the load loss. */
  readonly noiseSigma?: number
  readonly auxiliary?: AuxiliaryWeights
}

export interface GroupRouting {
  /** What the selection looked at, [S, E]. */
  readonly scores: Ref
  /** What the outputs are weighted with, [S, E]. */
  readonly gates: Ref
  readonly assignments: readonly Assignment[]
  /** Sum of the weighted auxiliary losses of this group. */
  readonly auxiliaryLoss: number
  /** dGates [S, E] and the share of the mean auxiliary loss → dLogits [S, E]. */
  backward(dGates: Ref, dAuxiliaryLoss: number): Ref
}

/** Routes one group by its logits [S, E] (noise [S, E] if given). */
export function routeGroup(logits: Ref, options: SparseMoEOptions, noise?: Ref): GroupRouting {
  const k = options.k ?? 1
  const noisyLogits = noise ? add(logits, noise) : logits
  const cleanGates = softmaxRows(logits)
  const noisyGates = softmaxRows(noisyLogits)
  // The papers' code takes clean gates for Sinkhorn Tokens Choice and noisy gates elsewhere.
  const softmaxGates = options.plan === 'sinkhorn' && options.choice === 'tokens' ? cleanGates : noisyGates
  const scores =
    options.plan === undefined || options.plan === 'softmax'
      ? noisyGates
      : options.plan === 'sinkhorn'
        ? sinkhornPlan(noisyLogits, options.sinkhornIterations)
        : sparsePlan(noisyGates, options.plan)
  const assignments =
    options.choice === 'experts'
      ? expertsChoice(scores, options.capacity)
      : tokensChoice(scores, { ...options, k }).assignments
  const rawGates = options.gatesFromPlan ? scores : softmaxGates
  const selected = options.renormalise ? topExperts(scores, k) : []
  const gates = options.renormalise ? renormalisedGates(rawGates, selected, k) : rawGates

  const { importance = 0, load = 0, gshard = 0, z = 0 } = options.auxiliary ?? {}
  let auxiliaryLoss = 0
  let dAuxiliaryLogits = zeros(...logits.shape)
  const include = (weight: number, loss: number, dLogits: Ref): void => {
    auxiliaryLoss += weight * loss
    dAuxiliaryLogits = add(
      dAuxiliaryLogits,
      map(dLogits, (d) => weight * d),
    )
  }
  if (importance > 0) {
    const { loss, gradient } = importanceLoss(cleanGates)
    include(importance, loss, softmaxRowsBackward(cleanGates, gradient))
  }
  if (load > 0 && noise && options.noiseSigma) {
    const { loss, gradient } = loadLoss(logits, noisyLogits, k, options.noiseSigma)
    include(load, loss, gradient)
  }
  if (gshard > 0) {
    const { loss, gradient } = gshardLoss(noisyGates)
    include(gshard, loss, softmaxRowsBackward(noisyGates, gradient))
  }
  if (z > 0) {
    const { loss, gradient } = zLoss(logits)
    include(z, loss, gradient)
  }

  const backward = (dGates: Ref, dAuxiliaryLoss: number): Ref => {
    const dRawGates = options.renormalise ? renormalisedGatesBackward(rawGates, selected, k, dGates) : dGates
    if (options.gatesFromPlan && options.plan !== 'sinkhorn') throw new Error('this plan has no gradient')
    const dLogits = options.gatesFromPlan
      ? sinkhornPlanBackward(scores, dRawGates)
      : softmaxRowsBackward(softmaxGates, dRawGates)
    return add(
      dLogits,
      map(dAuxiliaryLogits, (d) => dAuxiliaryLoss * d),
    )
  }
  return { scores, gates, assignments, auxiliaryLoss, backward }
}

/** One row of the experts' input. */
interface ExpertRow extends Assignment {
  readonly group: number
}

function expertMajorRows(groups: readonly GroupRouting[]): ExpertRow[] {
  return groups
    .flatMap(({ assignments }, group) => assignments.map((assignment) => ({ ...assignment, group })))
    .sort((a, b) => a.expert - b.expert || a.group - b.group || a.position - b.position)
}

function forwardParts(x: Ref, weights: SparseMoEWeights, options: SparseMoEOptions) {
  const [groupCount, tokens, dim] = x.shape
  const experts = weights.router.shape[1]
  const logits = affine(x, weights.router)
  const group = (array: Ref, g: number): Ref => ({
    shape: [tokens, experts],
    data: array.data.slice(g * tokens * experts, (g + 1) * tokens * experts),
  })
  const groups = Array.from({ length: groupCount }, (_, g) =>
    routeGroup(group(logits, g), options, options.noise && group(options.noise, g)),
  )
  const rows = expertMajorRows(groups)
  const rowsPerExpert = Array.from(
    { length: experts },
    (_, e) => rows.filter((row) => row.expert === e).length,
  )
  const inputs = zeros(rows.length, dim)
  rows.forEach((row, r) => {
    for (let i = 0; i < dim; i++)
      inputs.data[r * dim + i] = x.data[(row.group * tokens + row.token) * dim + i]
  })
  const outputs = raggedExperts(inputs, rowsPerExpert, weights, options)
  return { groups, rows, rowsPerExpert, inputs, outputs }
}

export interface SparseMoEResult {
  /** [G, S, o] */
  readonly y: Ref
  /** Mean over the groups of the weighted auxiliary losses; 0 without groups. */
  readonly auxiliaryLoss: number
  readonly groups: readonly GroupRouting[]
}

/** x [G, S, d] → y [G, S, o]; tokens without a kept assignment get 0. */
export function sparseMoE(x: Ref, weights: SparseMoEWeights, options: SparseMoEOptions): SparseMoEResult {
  const [groupCount, tokens] = x.shape
  const experts = weights.router.shape[1]
  const { groups, rows, outputs } = forwardParts(x, weights, options)
  const width = weights.w2.shape[2]
  const y = zeros(groupCount, tokens, width)
  rows.forEach(({ group, token, expert }, r) => {
    const gate = groups[group].gates.data[token * experts + expert]
    for (let o = 0; o < width; o++)
      y.data[(group * tokens + token) * width + o] += gate * outputs.data[r * width + o]
  })
  const auxiliaryLoss = groups.reduce((sum, group) => sum + group.auxiliaryLoss / groupCount, 0)
  return { y, auxiliaryLoss, groups }
}

export interface SparseMoEGradients {
  readonly dx: Ref
  readonly dRouter: Ref
  readonly dw1: Ref
  readonly db1: Ref
  readonly dw2: Ref
  readonly db2: Ref
}

/** All gradients of Σ y·dy + dAuxiliaryLoss · auxiliaryLoss; selection, order and positions are constants. */
export function sparseMoEBackward(
  x: Ref,
  weights: SparseMoEWeights,
  dy: Ref,
  options: SparseMoEOptions,
  dAuxiliaryLoss = 0,
): SparseMoEGradients {
  const [groupCount, tokens, dim] = x.shape
  const experts = weights.router.shape[1]
  const width = weights.w2.shape[2]
  const { groups, rows, rowsPerExpert, inputs, outputs } = forwardParts(x, weights, options)
  const dOutputs = zeros(rows.length, width)
  const dGates = groups.map(() => zeros(tokens, experts))
  rows.forEach(({ group, token, expert }, r) => {
    const at = token * experts + expert
    for (let o = 0; o < width; o++) {
      const d = dy.data[(group * tokens + token) * width + o]
      dOutputs.data[r * width + o] = groups[group].gates.data[at] * d
      dGates[group].data[at] += d * outputs.data[r * width + o]
    }
  })
  const { dx: dInputs, ...dExperts } = raggedExpertsBackward(
    inputs,
    rowsPerExpert,
    weights,
    dOutputs,
    options,
  )
  const dLogits = zeros(groupCount, tokens, experts)
  groups.forEach((group, g) => {
    dLogits.data.set(group.backward(dGates[g], dAuxiliaryLoss / groupCount).data, g * tokens * experts)
  })
  const router = linearBackward(
    reshape(x, groupCount * tokens, dim),
    weights.router,
    undefined,
    'none',
    dLogits,
  )
  const dx = reshape(router.dx, groupCount, tokens, dim)
  rows.forEach(({ group, token }, r) => {
    for (let i = 0; i < dim; i++) dx.data[(group * tokens + token) * dim + i] += dInputs.data[r * dim + i]
  })
  return { dx, dRouter: router.dWeight, ...dExperts }
}
