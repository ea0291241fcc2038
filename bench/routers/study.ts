/**
 * The comparison of "Routers in Vision Mixture of Experts" in small: every router with the same model, the same places
 * for each token, the same steps, several seeds.
 *
 *     npm run bench:routers -- [--data FOLDER] [--out runs/routers] [--steps 4000] [--seeds 3] [--only NAME …]
 *
 * FOLDER holds the four Fashion-MNIST files; without it the embedded part is used. Run it again to go on: complete runs
 * are kept, one that was cut off goes on from its checkpoint. Writes results.json, table.md and chart.svg into --out.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { readEvaluation, readMetrics, SoftMoEError } from '../../lib/index.js'
import { train } from '../../lib/training/fit.js'
import { RunFolder } from '../../lib/training/run-folder.js'
import { chartOf, type Result, tableOf } from './results.js'
import { type System, SYSTEMS } from './systems.js'

interface Options {
  readonly data?: string
  readonly out: string
  readonly steps: string
  readonly seeds: string
  readonly threads?: string
  readonly only?: readonly string[]
}

/** What a complete run left, or null. */
async function readRun(folder: RunFolder, system: System, seed: number): Promise<Result | null> {
  try {
    const { accuracy, loss, millisecondsPerImage } = await readEvaluation(folder.evaluation)
    const records = await readMetrics(folder.metrics)
    const seconds = records.findLast((record) => record.kind === 'train')?.seconds ?? Number.NaN
    const layers = records.findLast((record) => record.kind === 'router')?.layers ?? []
    const dropped = layers.flatMap(({ metrics }) => metrics.droppedFraction ?? [])
    const { name, placesPerToken } = system
    return {
      system: name,
      placesPerToken,
      seed,
      accuracy,
      loss,
      millisecondsPerImage,
      seconds,
      droppedFraction: dropped.length === 0 ? null : dropped.reduce((a, b) => a + b) / dropped.length,
    }
  } catch (error) {
    if (SoftMoEError.is(error) && error.code === 'ERR_FILE_NOT_FOUND') return null
    throw error
  }
}

async function runOne(
  system: System,
  seed: number,
  options: Options,
  signal: AbortSignal,
): Promise<Result | null> {
  const out = join(options.out, system.name, `seed-${seed}`)
  const folder = new RunFolder(out)
  const done = await readRun(folder, system, seed)
  if (done !== null) return done
  const resume = (await folder.lastCheckpoint()) !== undefined
  console.error(`${system.name}, seed ${seed}${resume ? ', going on' : ''}`)
  const result = await train({
    out,
    router: system.router,
    data: options.data,
    steps: Number(options.steps),
    seed,
    threads: options.threads === undefined ? undefined : Number(options.threads),
    resume,
    overwrite: !resume,
    checkpointEvery: 500,
    keep: 1,
    signal,
  })
  result.model.dispose()
  return result.complete ? readRun(folder, system, seed) : null
}

function writeResults(out: string, results: readonly Result[]): void {
  mkdirSync(out, { recursive: true })
  writeFileSync(join(out, 'results.json'), `${JSON.stringify(results, null, 2)}\n`)
  writeFileSync(join(out, 'table.md'), tableOf(results))
  writeFileSync(join(out, 'chart.svg'), chartOf(results))
}

async function main(): Promise<void> {
  const names = SYSTEMS.map(({ name }) => name)
  const program = new Command('bench:routers')
    .option('--data <folder>', 'folder of the full Fashion-MNIST; default the embedded part')
    .option('--out <folder>', 'where runs and results go', 'runs/routers')
    .option('--steps <n>', 'steps of each run', '4000')
    .option('--seeds <n>', 'runs of each system', '3')
    .option('--threads <n>', 'threads of the CPU backend; default one a core')
    .option('--only <names...>', `only these systems: ${names.join(', ')}`)
    .parse()
  const options = program.opts<Options>()
  const unknown = options.only?.find((name) => !names.includes(name))
  if (unknown !== undefined) program.error(`--only names '${unknown}'; wanted ${names.join(', ')}`)
  const systems = SYSTEMS.filter(({ name }) => options.only?.includes(name) ?? true)
  const interrupted = new AbortController()
  process.once('SIGINT', () => interrupted.abort())
  const results: Result[] = []
  // Seed by seed: an early look shows every system.
  for (let seed = 0; seed < Number(options.seeds); seed++) {
    for (const system of systems) {
      const result = await runOne(system, seed, options, interrupted.signal)
      if (result === null) {
        console.error('stopped; run the same command again to go on')
        process.exitCode = 130
        return
      }
      results.push(result)
      writeResults(options.out, results)
    }
  }
  console.log(tableOf(results))
}

main().catch((error: unknown) => {
  console.error(SoftMoEError.is(error) ? `${error.code}: ${error.message}` : error)
  process.exitCode = 1
})
