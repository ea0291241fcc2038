/**
 * Compares routers and layers with golden files made by the papers' own code in float64. What a file holds follows from
 * its name: `token_choice`, `expert_choice`, `sinkhorn`, `ksparse` (plans of sparsity-constrained transport),
 * `aux_losses`, `vmoe_layer`, `soft_…`, `capacity`. Indices, places and capacities must be equal.
 */
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import {
  type Device,
  type DeviceKind,
  expertCapacity,
  gatherGates,
  gshardLoss,
  importanceLoss,
  loadLoss,
  openDevice,
  multiply,
  type Parameter,
  rowsOfSelectedExperts,
  rowsOfSelectedTokens,
  selectExperts,
  selectTokens,
  sinkhornPlan,
  SoftMoE,
  SoftMoEError,
  SparseMoE,
  type SparseRouterConfig,
  sparsePlan,
  sum,
  Tape,
  type Tensor,
} from '../../lib/index.js'
import type { Deviation } from './golden-model.js'

interface Golden {
  readonly shape: readonly number[]
  readonly data: readonly number[]
}

interface Cases<T> {
  readonly cases: readonly T[]
}

type Check = (content: unknown, device: Device) => Promise<readonly Deviation[]>

/** Losses are compared with at least this: below it, they are what is left of terms that cancel. */
const LEAST_LOSS = 1e-2

/** Largest absolute difference relative to the largest element; NaN counts as infinitely far. */
function deviation(
  tensor: string,
  actual: ArrayLike<number>,
  expected: readonly number[],
  least = 0,
): Deviation {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), least)
  const worst = expected.reduce((most, value, i) => {
    const difference = Math.abs((actual[i] ?? NaN) - value)
    return Number.isNaN(difference) ? Infinity : Math.max(most, difference)
  }, 0)
  return { tensor, error: actual.length === expected.length ? worst / (largest || 1) : Infinity }
}

function exact(tensor: string, actual: ArrayLike<number>, expected: readonly number[]): Deviation {
  const isEqual = actual.length === expected.length && expected.every((value, i) => actual[i] === value)
  return { tensor, error: isEqual ? 0 : Infinity }
}

function only<T>(
  cases: readonly T[],
  check: (golden: T, i: number) => Promise<readonly Deviation[]>,
): Promise<readonly Deviation[]> {
  return Promise.all(cases.map(check)).then((found) => found.flat())
}

/** A group of its own. */
function group(
  device: Device,
  { data, shape }: Golden,
  options: { readonly requiresGrad?: boolean } = {},
): Tensor {
  return device.tensor(data, [1, ...shape], options)
}

/** Gates at the experts' places, `[tokens, experts, capacity]`. */
function combineTensor(
  [tokens = 0, experts = 0]: readonly number[],
  capacity: number,
  offsets: ArrayLike<number>,
  rowToken: ArrayLike<number>,
  rowGate: ArrayLike<number>,
): Float64Array {
  const combine = new Float64Array(tokens * experts * capacity)
  for (let e = 0; e < experts; e++) {
    for (let r = offsets[e]; r < offsets[e + 1]; r++) {
      combine[(rowToken[r] * experts + e) * capacity + r - offsets[e]] = rowGate[r]
    }
  }
  return combine
}

const tokenChoice: Check = (content, device) => {
  const { cases } = content as Cases<{
    readonly gates: Golden
    readonly K: number
    readonly capacity: number
    readonly bpr: boolean
    readonly expert: Golden
    readonly position: Golden
    readonly combine: Golden
  }>
  return only(cases, async ({ gates, K: k, capacity, bpr, ...golden }, i) => {
    const scores = group(device, gates)
    const selection = selectExperts(scores, k, bpr ? 'max' : 'none')
    const lists = rowsOfSelectedExperts(selection, gates.shape[1], capacity)
    const [offsets, rowToken] = [await lists.expertOffsets.data(), await lists.rowToken.data()]
    const rowGate = await gatherGates(scores, lists).data()
    const combine = combineTensor(gates.shape, capacity, offsets, rowToken, rowGate)
    return [
      exact(`case ${i}: expert`, await selection.expert.data(), golden.expert.data),
      exact(`case ${i}: position`, await selection.position.data(), golden.position.data),
      deviation(`case ${i}: combine`, combine, golden.combine.data),
    ]
  })
}

const expertChoice: Check = (content, device) => {
  const { cases } = content as Cases<{
    readonly gates: Golden
    readonly capacity: number
    readonly token: Golden
    readonly combine: Golden
  }>
  return only(cases, async ({ gates, capacity, ...golden }, i) => {
    const [tokens, experts] = gates.shape
    const scores = group(device, gates)
    const token = selectTokens(scores, capacity)
    const lists = rowsOfSelectedTokens(token, tokens)
    const rowGate = await gatherGates(scores, lists).data()
    const chosen = await token.data()
    const combine = new Float64Array(tokens * experts * capacity)
    chosen.forEach((s, row) => {
      combine[(s * experts + Math.floor(row / capacity)) * capacity + (row % capacity)] = rowGate[row]
    })
    return [
      exact(`case ${i}: token`, chosen, golden.token.data),
      exact(`case ${i}: rows`, await lists.rowToken.data(), golden.token.data),
      deviation(`case ${i}: combine`, combine, golden.combine.data),
    ]
  })
}

const sinkhorn: Check = (content, device) => {
  const { cases } = content as Cases<{
    readonly logits: Golden
    readonly iters: number
    readonly plan: Golden
  }>
  return only(cases, async ({ logits, iters, plan }, i) => [
    deviation(`case ${i}: plan`, await sinkhornPlan(group(device, logits), iters).data(), plan.data),
  ])
}

const sparseTransport: Check = (content, device) => {
  const { cases } = content as Cases<{
    readonly sim: Golden
    readonly k: number
    readonly iters: number
    readonly row_sparse: boolean
    readonly plan: Golden
  }>
  return only(cases, async ({ sim, k, iters, row_sparse: byRows, plan }, i) => {
    const actual = sparsePlan(group(device, sim), { k, byRows, iterations: iters })
    return [deviation(`case ${i}: plan`, await actual.data(), plan.data)]
  })
}

const auxiliaryLosses: Check = (content, device) => {
  const { cases } = content as Cases<{
    readonly logits: Golden
    readonly noise: Golden
    readonly noise_std: number
    readonly K: number
    readonly gates: Golden
    readonly load: number
    readonly dload_dlogits: Golden
    readonly importance: number
    readonly dimportance_dgates: Golden
    readonly gshard: number
    readonly dgshard_dgates: Golden
  }>
  return only(cases, async (golden, i) => {
    const { logits, noise, gates, K: k, noise_std: sigma } = golden
    const noisy = group(device, {
      shape: logits.shape,
      data: logits.data.map((value, j) => value + noise.data[j]),
    })
    const compare = async (
      name: string,
      operand: Golden,
      loss: (tensor: Tensor) => Tensor,
      expected: number,
      gradient: Golden,
    ): Promise<readonly Deviation[]> => {
      const leaf = group(device, operand, { requiresGrad: true })
      const tape = new Tape()
      const value = tape.record(() => sum(loss(leaf)))
      tape.backward(value)
      return [
        deviation(`case ${i}: ${name}`, [await value.item()], [expected], LEAST_LOSS),
        deviation(`case ${i}: gradient of ${name}`, (await leaf.grad?.data()) ?? [], gradient.data),
      ]
    }
    return [
      ...(await compare('importance', gates, importanceLoss, golden.importance, golden.dimportance_dgates)),
      ...(await compare('gshard', gates, gshardLoss, golden.gshard, golden.dgshard_dgates)),
      ...(await compare(
        'load',
        logits,
        (t) => loadLoss(t, noisy, k, sigma),
        golden.load,
        golden.dload_dlogits,
      )),
    ]
  })
}

/** Output and gradients of a layer in its golden file, by the names there. */
async function compareLayer(
  prefix: string,
  layer: SoftMoE | SparseMoE,
  x: Tensor,
  golden: {
    readonly Y: Golden
    readonly dY: Golden
    readonly grads: Readonly<Record<string, Golden | number>>
  },
  parameters: Readonly<Record<string, Parameter>>,
): Promise<readonly Deviation[]> {
  const dY = layer.device.tensor(golden.dY.data, x.shape)
  const tape = new Tape()
  const { y, loss } = tape.record(() => {
    const output = layer.forward(x)
    return { y: output, loss: sum(multiply(output, dY)) }
  })
  tape.backward(loss)
  const found = [deviation(`${prefix}Y`, await y.data(), golden.Y.data)]
  const gradients = Object.entries(golden.grads).map(([name, expected]) => ({
    name,
    expected: typeof expected === 'number' ? [expected] : expected.data,
  }))
  const largest = Math.max(...gradients.flatMap(({ expected }) => expected.map(Math.abs)))
  for (const { name, expected } of gradients) {
    const gradient = name === 'X' ? x.grad : parameters[name]?.grad
    // A scalar's gradient is what is left of terms that cancel.
    const least = expected.length === 1 ? largest : 0
    found.push(deviation(`${prefix}gradient of ${name}`, (await gradient?.data()) ?? [], expected, least))
  }
  return found
}

function expertsOf({ experts }: SoftMoE | SparseMoE): Readonly<Record<'W1' | 'b1' | 'W2' | 'b2', Parameter>> {
  const { first, second } = experts
  return { W1: first.kernel, b1: first.bias, W2: second.kernel, b2: second.bias }
}

function load(parameters: Readonly<Record<string, Parameter>>, golden: object): void {
  for (const [name, parameter] of Object.entries(parameters)) {
    const value = (golden as Readonly<Record<string, Golden | number>>)[name]
    parameter.set(typeof value === 'number' ? [value] : value.data)
  }
}

const sparseLayer: Check = (content, device) => {
  const { cases } = content as Cases<{
    readonly kind: 'token' | 'expert'
    readonly bpr: boolean | null
    readonly K: number | null
    readonly capacity: number
    readonly X: Golden
    readonly router: Golden
    readonly W1: Golden
    readonly Y: Golden
    readonly dY: Golden
    readonly grads: Readonly<Record<string, Golden>>
  }>
  return only(cases, async (golden, i) => {
    const { kind, bpr, K, capacity, X, W1 } = golden
    const [tokens] = X.shape
    const [numExperts, dim, hiddenDim] = W1.shape
    const rounded = { rounding: 'round', multipleOf: 1 } as const
    const router: SparseRouterConfig =
      kind === 'token'
        ? {
            name: 'tokens-choice',
            ...rounded,
            k: K ?? 1,
            batchPriority: bpr === true,
            capacityFactor: (capacity * numExperts) / (tokens * (K ?? 1)),
            importanceLossWeight: 0,
            loadLossWeight: 0,
          }
        : { name: 'experts-choice', ...rounded, capacityFactor: (capacity * numExperts) / tokens }
    const layer = new SparseMoE({ dim, hiddenDim, numExperts, router }, { device }).eval()
    const parameters = { router: layer.router.dense.kernel, ...expertsOf(layer) }
    load(parameters, golden)
    const x = group(device, X, { requiresGrad: true })
    return compareLayer(`case ${i}: `, layer, x, golden, parameters)
  })
}

const softLayer: Check = async (content, device) => {
  const golden = content as {
    readonly dims: Readonly<Record<'d' | 'h' | 'N' | 'P', number>>
    readonly X: Golden
    readonly Y: Golden
    readonly D: Golden
    readonly C: Golden
    readonly dY: Golden
    readonly grads: Readonly<Record<string, Golden | number>>
  }
  const { d: dim, h: hiddenDim, N: numExperts, P: slotsPerExpert } = golden.dims
  const layer = new SoftMoE({ dim, hiddenDim, numExperts, slotsPerExpert }, { device })
  const { mu, scale } = layer.router
  const parameters = { mu, scale, ...expertsOf(layer) }
  load(parameters, golden)
  const x = device.tensor(golden.X.data, golden.X.shape, { requiresGrad: true })
  const { dispatch, combine } = layer.routing(x)
  return [
    deviation('dispatch', await dispatch.data(), golden.D.data),
    deviation('combine', await combine.data(), golden.C.data),
    ...(await compareLayer('', layer, x, golden, parameters)),
  ]
}

const capacities: Check = (content) => {
  const { cases } = content as Cases<{
    readonly num_tokens: number
    readonly num_experts: number
    readonly factor: number
    readonly how: 'ceil' | 'round'
    readonly multiple_of: number
    readonly capacity: number
  }>
  const actual = cases.map(({ num_tokens, num_experts, factor, how, multiple_of }) =>
    expertCapacity(num_tokens, num_experts, factor, { rounding: how, multipleOf: multiple_of }),
  )
  return Promise.resolve([
    exact(
      'capacity',
      actual,
      cases.map(({ capacity }) => capacity),
    ),
  ])
}

const CHECKS: Readonly<Record<string, Check>> = {
  token_choice: tokenChoice,
  expert_choice: expertChoice,
  sinkhorn,
  ksparse: sparseTransport,
  aux_losses: auxiliaryLosses,
  vmoe_layer: sparseLayer,
  soft_small: softLayer,
  soft_p1: softLayer,
  soft_bigscale: softLayer,
  capacity: capacities,
}

/** Names of the files that can be compared, without `.json`. */
export const GOLDEN_LAYERS: readonly string[] = Object.keys(CHECKS)

/** Everything that a golden file of a router or layer holds. */
export async function deviationsOfGoldenLayer(path: string, kind: DeviceKind): Promise<readonly Deviation[]> {
  const name = basename(path, '.json')
  if (!Object.hasOwn(CHECKS, name)) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${path} is no golden file of a router or layer; wanted ${GOLDEN_LAYERS.join(', ')} with .json`,
    )
  }
  return CHECKS[name](JSON.parse(readFileSync(path, 'utf8')), openDevice(kind))
}
