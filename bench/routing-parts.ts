/** The steps of routing one by one, at the shape of a ViT-S/16 block. */
import {
  combine,
  combineRows,
  type Device,
  dispatch,
  gatherGates,
  noGrad,
  reshape,
  rowsOfSelectedExperts,
  scope,
  selectExperts,
  selectTokens,
  SoftMoE,
  softmax,
  SparseMoE,
  tokensChoice,
} from '../lib/index.js'
import { softRoutingPlan } from '../lib/ops/soft-moe.js'
import { BACKBONES, type ExpertShape } from './backbones.js'
import { type BenchCase, bytesOf, type CaseOptions, type PreparedCase } from './cases.js'

type Options = Omit<CaseOptions, 'pass'>

/** Experts' width does not matter to routing. */
const HIDDEN = 8

function partCase(
  options: Options,
  part: {
    readonly name: string
    readonly shape: Readonly<Record<string, number>>
    readonly flops: number
    readonly bytes: number
    readonly prepare: (device: Device) => PreparedCase
  },
): BenchCase {
  const { dtype, batch, threads, extent } = options
  const { tokens, dim } = BACKBONES['S/16']
  return {
    ...part,
    group: 'parts',
    name: `${part.name} S/16 B=${batch}`,
    family: `parts ${part.name} B=${batch}, ${dtype}, ${threads}`,
    pass: 'forward',
    dtype,
    weights: null,
    threads,
    extent,
    shape: { batch, tokens, dim, ...part.shape },
    memoryBytes: 4 * part.bytes,
    problem: null,
  }
}

/** Logits with both softmax statistics, dispatch and combine. */
export function softParts(experts: ExpertShape, options: Options): readonly BenchCase[] {
  const { dtype, batch } = options
  const { tokens, dim } = BACKBONES['S/16']
  const { numExperts, slotsPerExpert } = experts
  const slots = numExperts * slotsPerExpert
  const flops = 2 * batch * tokens * slots * dim
  const logits = 4 * batch * tokens * slots
  const x = bytesOf(dtype) * batch * tokens * dim
  const slotRows = bytesOf(dtype) * batch * slots * dim
  const prepare =
    (step: 'logits' | 'dispatch' | 'combine') =>
    (device: Device): PreparedCase => {
      const layer = new SoftMoE({ dim, hiddenDim: HIDDEN, ...experts }, { device, dtype })
      const input = device.normal([batch, tokens, dim], { dtype, key: { seed: 1, stream: 0 } })
      const shape = [numExperts, batch * slotsPerExpert, dim]
      const filled = device.normal(shape, { dtype, key: { seed: 1, stream: 1 } })
      const { mu, scale, options: routerOptions } = layer.router
      const phi = mu.operand('float32', [dim, slots])
      const makePlan = (): ReturnType<typeof softRoutingPlan> =>
        softRoutingPlan(input, phi, scale.value, routerOptions)
      const { plan, logits } = noGrad(makePlan)
      const kept = [input, filled]
      if (logits !== null) {
        kept.push(logits.logits, logits.dispatchLse, logits.combineLse, logits.tokenNorm, logits.slotNorm)
      }
      const steps = {
        logits: () => void makePlan(),
        dispatch: () => void dispatch(plan, input),
        combine: () => void combine(plan, filled),
      }
      return {
        run: () => scope(() => noGrad(steps[step])),
        dispose: () => {
          layer.dispose()
          for (const tensor of kept) tensor.dispose()
        },
      }
    }
  const shape = { numExperts, slotsPerExpert }
  const part = (step: 'logits' | 'dispatch' | 'combine', bytes: number): BenchCase =>
    partCase(options, {
      name: `${step} of Soft MoE ${numExperts}x${slotsPerExpert}`,
      shape,
      flops,
      bytes,
      prepare: prepare(step),
    })
  return [
    part('logits', x + 4 * dim * slots + logits),
    part('dispatch', logits + x + slotRows),
    part('combine', logits + slotRows + x),
  ]
}

/** Gates, top-k, row lists and the weighted sum of routing by index. */
export function sparseParts(numExperts: number, options: Options): readonly BenchCase[] {
  const { dtype, batch } = options
  const { tokens, dim } = BACKBONES['S/16']
  const all = batch * tokens
  const capacity = Math.ceil(all / numExperts)
  const gateBytes = 4 * all * numExperts
  const rowBytes = bytesOf(dtype) * all * dim
  type Step = 'gates' | 'top-1' | 'top-2' | 'top tokens' | 'row lists' | 'weighted sum'
  const prepare =
    (step: Step) =>
    (device: Device): PreparedCase => {
      const router = tokensChoice({ k: 1, capacityFactor: 1 })
      const layer = new SparseMoE({ dim, hiddenDim: HIDDEN, numExperts, router }, { device, dtype }).eval()
      const input = device.normal([1, all, dim], { dtype, key: { seed: 1, stream: 0 } })
      const kept = noGrad(() =>
        scope(() => {
          const gates = softmax(layer.router.dense.forward(input))
          const selection = selectExperts(gates, 1)
          const lists = rowsOfSelectedExperts(selection, numExperts, capacity)
          return { gates, ...selection, ...lists, rowGate: gatherGates(gates, lists) }
        }),
      )
      const rows = reshape(input, [all, dim])
      const steps: Readonly<Record<Step, () => void>> = {
        gates: () => void softmax(layer.router.dense.forward(input)),
        'top-1': () => void selectExperts(kept.gates, 1),
        'top-2': () => void selectExperts(kept.gates, 2),
        'top tokens': () => void selectTokens(kept.gates, capacity),
        'row lists': () => void gatherGates(kept.gates, rowsOfSelectedExperts(kept, numExperts, capacity)),
        'weighted sum': () => void combineRows(rows, kept.rowGate, kept),
      }
      return {
        run: () => scope(() => noGrad(steps[step])),
        dispose: () => {
          layer.dispose()
          for (const tensor of [input, rows, ...Object.values(kept)]) tensor.dispose()
        },
      }
    }
  const part = (step: Step, flops: number, bytes: number): BenchCase =>
    partCase(options, {
      name: `${step} of ${numExperts} experts`,
      shape: { numExperts },
      flops,
      bytes,
      prepare: prepare(step),
    })
  return [
    part('gates', 2 * all * dim * numExperts, rowBytes + gateBytes),
    part('top-1', 0, gateBytes),
    part('top-2', 0, gateBytes),
    part('top tokens', 0, gateBytes),
    part('row lists', 0, 5 * 4 * all),
    part('weighted sum', 0, 2 * rowBytes),
  ]
}
