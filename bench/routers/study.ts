/**
 * The comparison of "Routers in Vision Mixture of Experts" in small: every router with the same model, the same places
 * for each token, the same steps, several seeds.
 *
 *     npm run bench:routers -- [--out runs/routers] [--processes 2 --threads 1] [--seeds 3] [--only NAME …]
 *     npm run bench:routers -- --timing [--out runs/routers]
 *
 * Run it again to go on: complete runs are kept, one that was cut off goes on from its checkpoint and ends with the same
 * numbers. Time is measured apart, by --timing on an idle machine: all systems in turn, round after round. Both write
 * results.json, table.md and, once there are times, chart.svg into --out.
 */
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import { SoftMoEError } from '../../lib/index.js'
import { writeTextAtomically } from '../../lib/training/atomic-file.js'
import { chartOf } from './chart.js'
import { runAll } from './pool.js'
import { type Result, type StepTime, summarise, tableOf } from './results.js'
import { readRun, type StudySettings, studySettings } from './runs.js'
import { type System, SYSTEMS } from './systems.js'
import { measureTimes } from './timing.js'

interface Options {
  readonly data?: string
  readonly out: string
  readonly steps: string
  readonly seeds: string
  readonly processes: string
  readonly threads?: string
  readonly checkpointEvery: string
  readonly only?: readonly string[]
  readonly timing?: boolean
  readonly rounds: string
}

async function readJson<T>(path: string): Promise<T | null> {
  const text = await readFile(path, 'utf8').catch(() => null)
  return text === null ? null : (JSON.parse(text) as T)
}

/** Notes the settings in a new study's folder. @throws (rejects) if the folder holds a study with others */
async function claimFolder(out: string, settings: StudySettings): Promise<void> {
  await mkdir(out, { recursive: true })
  const path = join(out, 'study.json')
  const text = `${JSON.stringify(settings, null, 2)}\n`
  const found = await readFile(path, 'utf8').catch(() => null)
  if (found === null) return writeTextAtomically(path, text)
  if (found !== text) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${path} says that the runs there have other settings; give the same ones, or choose another --out`,
    )
  }
}

/** All complete runs, seed by seed. */
async function readResults(out: string, systems: readonly System[], seeds: number): Promise<Result[]> {
  const all: Result[] = []
  for (let seed = 0; seed < seeds; seed++) {
    for (const system of systems) {
      const result = await readRun(out, system, seed)
      if (result !== null) all.push(result)
    }
  }
  return all
}

/** Writes what is known by now. */
async function writeResults(out: string, seeds: number, steps: number): Promise<string> {
  const results = await readResults(out, SYSTEMS, seeds)
  const times = (await readJson<readonly StepTime[]>(join(out, 'timing.json'))) ?? []
  const summaries = summarise(results, times)
  const table = tableOf(summaries)
  await writeTextAtomically(join(out, 'results.json'), `${JSON.stringify(results, null, 2)}\n`)
  await writeTextAtomically(join(out, 'table.md'), table)
  if (summaries.some(({ time }) => time !== undefined)) {
    await writeTextAtomically(join(out, 'chart.svg'), chartOf(summaries, steps))
  }
  return table
}

async function main(): Promise<void> {
  const names = SYSTEMS.map(({ name }) => name)
  const program = new Command('bench:routers')
    .option('--data <folder>', 'folder of the data; default the full Fashion-MNIST where it is installed')
    .option('--out <folder>', 'where runs and results go', 'runs/routers')
    .option('--steps <n>', 'steps of each run', '937')
    .option('--seeds <n>', 'runs of each system', '3')
    .option('--processes <n>', 'runs at the same time', '1')
    .option('--threads <n>', 'threads of each process; default one a core')
    .option('--checkpoint-every <n>', 'steps between checkpoints', '200')
    .option('--only <names...>', `only these systems: ${names.join(', ')}`)
    .option('--timing', 'measure the time of a step and of an image instead; wants an idle machine')
    .option('--rounds <n>', 'rounds of --timing', '30')
    .parse()
  const options = program.opts<Options>()
  const unknown = options.only?.find((name) => !names.includes(name))
  if (unknown !== undefined) program.error(`--only names '${unknown}'; wanted ${names.join(', ')}`)
  const systems = SYSTEMS.filter(({ name }) => options.only?.includes(name) ?? true)
  const { out } = options
  const seeds = Number(options.seeds)
  const threads = options.threads === undefined ? undefined : Number(options.threads)
  const settings = studySettings(options.data ?? null, Number(options.steps))
  await claimFolder(out, settings)
  if (options.timing === true) {
    const times = await measureTimes(systems, out, settings, Number(options.rounds), threads)
    await writeTextAtomically(join(out, 'timing.json'), `${JSON.stringify(times, null, 2)}\n`)
    console.log(await writeResults(out, seeds, settings.steps))
    return
  }
  const done = await readResults(out, systems, seeds)
  // Seed by seed: an early look shows every system.
  const requests = Array.from({ length: seeds }, (_, seed) =>
    systems
      .filter(({ name }) => !done.some((result) => result.system === name && result.seed === seed))
      .map(({ name }) => ({
        system: name,
        seed,
        options: { out, settings, threads, checkpointEvery: Number(options.checkpointEvery) },
      })),
  ).flat()
  const complete = await runAll(requests, Number(options.processes), async () => {
    await writeResults(out, seeds, settings.steps)
  })
  const table = await writeResults(out, seeds, settings.steps)
  if (complete) {
    console.log(table)
  } else {
    console.error('stopped; run the same command again to go on')
    process.exitCode = 130
  }
}

main().catch((error: unknown) => {
  console.error(SoftMoEError.is(error) ? `${error.code}: ${error.message}` : error)
  process.exitCode = 1
})
