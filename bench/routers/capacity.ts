/**
 * What the study's trained models of Tokens Choice are worth when inference has less room: the capacity factor and the
 * priority are changed for the calls alone (V-MoE, section 4).
 *
 *     npx tsx bench/routers/capacity.ts [--out runs/routers] [--seeds 3] [--threads N]
 *
 * Prints a table: mean test accuracy over the seeds, with tokens in order and by Batch Priority Routing.
 */
import { Command } from 'commander'
import { argmax, noGrad, type RouteOptions, scope, setThreads } from '../../lib/index.js'
import { loadImages } from '../../lib/data/loader.js'
import { openRunData } from '../../lib/training/data-choice.js'
import { loadModel } from '../../lib/training/load-model.js'
import { runFolder } from './runs.js'
import { type System, SYSTEMS } from './systems.js'

const NAMES = ['tokens-choice-k1', 'tokens-choice-k1-bpr']
/** Places for each token, all experts together. */
const PLACES = [1, 0.5, 0.25, 0.125] as const
const PRIORITIES = ['none', 'max'] as const
const BATCH = 128

type Model = Awaited<ReturnType<typeof loadModel>>

async function accuracyOf({ model, configuration }: Model, call: RouteOptions): Promise<number> {
  const { test } = await openRunData(configuration.data ?? undefined, configuration.dataset)
  const { normalisation } = configuration
  let correct = 0
  for await (const batch of loadImages(test, { batchSize: BATCH, normalisation, shuffle: false })) {
    const predicted = noGrad(() =>
      scope(() => {
        const shape = [batch.count, test.height, test.width, test.channels]
        return argmax(model.forward(model.device.tensor(batch.images, shape), call))
      }),
    )
    const classes = await predicted.data()
    predicted.dispose()
    batch.labels.forEach((label, i) => (correct += Number(classes[i] === label)))
  }
  return correct / test.count
}

async function main(): Promise<void> {
  const options = new Command('capacity')
    .option('--out <folder>', 'where the study left its runs', 'runs/routers')
    .option('--seeds <n>', 'runs of each system', '3')
    .option('--threads <n>', 'threads of the CPU backend; default one a core')
    .parse()
    .opts<{ out: string; seeds: string; threads?: string }>()
  if (options.threads !== undefined) setThreads(Number(options.threads))
  const seeds = Number(options.seeds)
  console.log(
    `| trained as | priority of the calls | ${PLACES.map((places) => `${places} places`).join(' | ')} |`,
  )
  console.log(`| --- | --- |${' --- |'.repeat(PLACES.length)}`)
  for (const system of SYSTEMS.filter(({ name }) => NAMES.includes(name))) {
    const sums = await sumsOf(system, options.out, seeds)
    PRIORITIES.forEach((priority, p) => {
      const cells = sums[p].map((sum) => `${((100 * sum) / seeds).toFixed(2)} %`)
      console.log(`| ${system.name} | ${priority} | ${cells.join(' | ')} |`)
    })
  }
}

/** Accuracies summed over the seeds, `[priority][places]`. */
async function sumsOf(system: System, out: string, seeds: number): Promise<number[][]> {
  const sums = PRIORITIES.map(() => PLACES.map(() => 0))
  for (let seed = 0; seed < seeds; seed++) {
    const trained = await loadModel(runFolder(out, system, seed).path, { device: 'cpu' })
    for (const [p, priority] of PRIORITIES.entries()) {
      for (const [c, capacityFactor] of PLACES.entries()) {
        sums[p][c] += await accuracyOf(trained, { capacityFactor, priority })
      }
    }
    trained.model.dispose()
  }
  return sums
}

await main()
