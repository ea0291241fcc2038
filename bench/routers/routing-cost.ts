/**
 * What routing by index costs beside the experts it feeds, at the shapes of a ViT-S/16 block: the gate network, the
 * selection with its row lists, and the weighted sum, each as a share of the experts' matrix products.
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
  SparseMoE,
  tokensChoice,
} from '../../lib/index.js'

const DIM = 384
const HIDDEN = 1536
/** 196 patches and the class token. */
const TOKENS_PER_IMAGE = 197

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
  const times = await median(device, runs, {
    'gate network and softmax': () => scope(() => void softmax(layer.router.dense.forward(flat))),
    'selection and places': () => scope(() => void selectExperts(gates, k, 'max')),
    'row lists and gates': () =>
      scope(() => void gatherGates(gates, rowsOfSelectedExperts(selection, numExperts, routing.capacity))),
    'weighted sum': () => scope(() => void combineRows(outputs, rowGate, lists)),
    experts: () => scope(() => void layer.experts.forward(flat, lists)),
    'whole layer': () => scope(() => void layer.forward(x)),
  })
  const experts = times.get('experts') ?? Number.NaN
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
      `${step.padEnd(28)} ${milliseconds.toFixed(3).padStart(9)} ms ${(100 * shareOfExperts).toFixed(1).padStart(6)} %`,
    )
  }
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(steps, null, 2)}\n`)
}

await main()
