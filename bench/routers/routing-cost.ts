/**
 * What routing by index costs beside the experts it feeds, at the shapes of a ViT-S/16 block: the gate network, the
 * selection with its row lists, and the weighted sum, each as a share of what the experts take (gathering rows, both
 * matrix products, activation). Soft MoE with as many slots stands beside it.
 *
 *     npx tsx bench/routers/routing-cost.ts [--images 8] [--experts 32] [--k 2] [--runs 15] [--json FILE]
 *
 * Steps run in turn, round after round; medians are printed.
 */
import { writeFileSync } from 'node:fs'
import { Command } from 'commander'
import {
  combineRows,
  type Device,
  gatherGates,
  openDevice,
  RandomSource,
  reshape,
  rowsOfSelectedExperts,
  scope,
  selectExperts,
  softmax,
  SoftMoE,
  SparseMoE,
  tokensChoice,
} from '../../lib/index.js'

const DIM = 384
const HIDDEN = 1536
/** 196 patches and the class token. */
const TOKENS_PER_IMAGE = 197

/** All but the experts. */
const ROUTING_STEPS = [
  'gate network and softmax',
  'selection and places',
  'row lists and gates',
  'weighted sum',
] as const

interface StepTime {
  readonly step: string
  readonly milliseconds: number
  readonly shareOfExperts: number
}

async function median(
  device: Device,
  runs: number,
  steps: Readonly<Record<string, () => void>>,
): Promise<Map<string, number>> {
  const times = new Map<string, number[]>(Object.keys(steps).map((name) => [name, []]))
  for (let run = -1; run < runs; run++) {
    for (const [name, step] of Object.entries(steps)) {
      const start = performance.now()
      step()
      await device.synchronize()
      if (run >= 0) times.get(name)?.push(performance.now() - start)
    }
  }
  return new Map(
    [...times].map(([name, values]) => [
      name,
      values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0,
    ]),
  )
}

async function measure(
  images: number,
  numExperts: number,
  k: number,
  runs: number,
): Promise<readonly StepTime[]> {
  const device = openDevice('cpu')
  const layer = new SparseMoE(
    {
      dim: DIM,
      hiddenDim: HIDDEN,
      numExperts,
      router: tokensChoice({ k, capacityFactor: 1.05, priority: 'max' }),
    },
    { device, random: new RandomSource(1) },
  ).eval()
  const tokens = images * TOKENS_PER_IMAGE
  const x = device.normal([images, TOKENS_PER_IMAGE, DIM], { key: { seed: 1, stream: 1 } })
  const flat = reshape(x, [tokens, DIM])
  const { softmax: gates, ...routing } = layer.routing(x)
  const selection = selectExperts(gates, k, 'max')
  const lists = rowsOfSelectedExperts(selection, numExperts, routing.capacity)
  const outputs = layer.experts.forward(flat, lists)
  const rowGate = gatherGates(gates, lists)
  const rows = (await lists.expertOffsets.data())[numExperts]
  console.log(`${rows} rows in ${numExperts * routing.capacity} places for ${tokens} tokens`)
  const slotsPerExpert = Math.max(1, Math.round(routing.capacity / images))
  const soft = new SoftMoE(
    { dim: DIM, hiddenDim: HIDDEN, numExperts, slotsPerExpert },
    { device, random: new RandomSource(1) },
  ).eval()
  const times = await median(device, runs, {
    [ROUTING_STEPS[0]]: () => scope(() => void softmax(layer.router.dense.forward(flat))),
    [ROUTING_STEPS[1]]: () => scope(() => void selectExperts(gates, k, 'max')),
    [ROUTING_STEPS[2]]: () =>
      scope(() => void gatherGates(gates, rowsOfSelectedExperts(selection, numExperts, routing.capacity))),
    [ROUTING_STEPS[3]]: () => scope(() => void combineRows(outputs, rowGate, lists)),
    experts: () => scope(() => void layer.experts.forward(flat, lists)),
    'whole layer': () => scope(() => void layer.forward(x)),
    [`Soft MoE, ${numExperts * slotsPerExpert} slots an image`]: () => scope(() => void soft.forward(x)),
  })
  const experts = times.get('experts') ?? Number.NaN
  const routingSteps = ROUTING_STEPS.map((step) => times.get(step) ?? Number.NaN)
  times.set(
    'routing together',
    routingSteps.reduce((a, b) => a + b),
  )
  return [...times].map(([step, milliseconds]) => ({
    step,
    milliseconds,
    shareOfExperts: milliseconds / experts,
  }))
}

async function main(): Promise<void> {
  const options = new Command('routing-cost')
    .option('--images <n>', 'images of the batch, one group', '8')
    .option('--experts <n>', 'experts', '32')
    .option('--k <n>', 'experts of each token', '2')
    .option('--runs <n>', 'measured runs of each step', '15')
    .option('--json <file>', 'write the numbers there')
    .parse()
    .opts<{ images: string; experts: string; k: string; runs: string; json?: string }>()
  const steps = await measure(
    Number(options.images),
    Number(options.experts),
    Number(options.k),
    Number(options.runs),
  )
  for (const { step, milliseconds, shareOfExperts } of steps) {
    console.log(
      `${step.padEnd(32)} ${milliseconds.toFixed(3).padStart(9)} ms ${(100 * shareOfExperts).toFixed(1).padStart(6)} %`,
    )
  }
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(steps, null, 2)}\n`)
}

await main()
