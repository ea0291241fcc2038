/**
 * Eight worker threads at a time that make models, train them and are terminated at random moments, while the main
 * thread trains, too. The process must live, models trained in such company must have the bits they have alone, and
 * neither threads nor memory may be left behind.
 */
import { Worker } from 'node:worker_threads'
import { ROUTER_NAMES } from '../../lib/routers/names.js'
import { packageUrl, processStatus, programPath } from './processes.js'
import { Xorshift } from './random.js'
import { slope } from './regression.js'
import { check, figure, quick, seed } from './tally.js'

const WORKERS = 8
const DURATION_MS = quick ? 6000 : 120_000
const STEPS = 6
/** A round is about this long; after each, with no worker left, memory is read. */
const ROUND_MS = quick ? 1500 : 4000
/** Rounds that are left out of the regression: the process still grows to its working size. */
const WARM_UP_ROUNDS = 5
/** The greatest growth that passes, in bytes a worker: one that leaves its device behind would be above it. */
const LIMIT = 64 * 1024

type Ending = 'terminate' | 'digest' | 'throw' | 'exit'

interface Run {
  readonly router: (typeof ROUTER_NAMES)[number]
  readonly dtype: 'float32' | 'bfloat16'
  readonly seed: number
}

interface Outcome {
  readonly status: number
  /** Whether it had been asked to end. */
  readonly terminated: boolean
  readonly digest: string | undefined
  readonly error: string | undefined
}

function start(ending: Ending, run: Run, terminateAfterMs?: number): Promise<Outcome> {
  const worker = new Worker(programPath('train-worker'), {
    workerData: { url: packageUrl, ending, steps: STEPS, run },
    execArgv: [],
  })
  let digest: string | undefined
  let error: string | undefined
  worker.on('message', (value: string) => (digest = value))
  worker.on('error', (cause) => (error = cause instanceof Error ? cause.message : String(cause)))
  let terminated = false
  const timer =
    terminateAfterMs &&
    setTimeout(() => {
      terminated = true
      void worker.terminate()
    }, terminateAfterMs)
  return new Promise((done) => {
    worker.once('exit', (status) => {
      clearTimeout(timer)
      done({ status, terminated, digest, error })
    })
  })
}

const RUNS: readonly Run[] = ROUTER_NAMES.flatMap((router, i) => [
  { router, dtype: i % 2 === 0 ? ('float32' as const) : ('bfloat16' as const), seed: i },
])

export async function terminateWorkers(): Promise<void> {
  const alone = new Map<Run, string | undefined>()
  for (const run of RUNS) alone.set(run, (await start('digest', run)).digest)
  check(
    [...alone.values()].every((digest) => digest !== undefined),
    'every model can be trained in a worker',
  )
  const threads = processStatus('Threads')

  const random = new Xorshift(seed)
  const wrong: string[] = []
  const count = { terminate: 0, digest: 0, throw: 0, exit: 0 }
  let started = 0
  const workers: number[] = []
  const resident: number[] = []
  const until = performance.now() + DURATION_MS
  const slot = async (roundEnd: number): Promise<void> => {
    while (performance.now() < roundEnd) {
      const ending = random.pick(['terminate', 'terminate', 'terminate', 'digest', 'throw', 'exit'] as const)
      const run = random.pick(RUNS)
      const moment = ending === 'terminate' ? 1 + random.below(900) : undefined
      count[ending] += 1
      started += 1
      const { status, terminated, digest, error } = await start(ending, run, moment)
      const right = {
        // Node.js gives 1 where JavaScript was running at that moment, else 0.
        terminate: terminated && (status === 0 || status === 1) && error === undefined,
        digest: status === 0 && digest !== undefined && digest === alone.get(run),
        throw: status === 1 && error === 'on purpose',
        exit: status === 17 && error === undefined,
      }[ending]
      if (!right)
        wrong.push(`${ending} of ${run.router}: status ${status}, ${error ?? digest ?? 'no answer'}`)
    }
  }
  while (performance.now() < until) {
    const roundEnd = performance.now() + ROUND_MS
    await Promise.all(Array.from({ length: WORKERS }, () => slot(roundEnd)))
    workers.push(started)
    resident.push(1024 * processStatus('VmRSS'))
  }
  const { terminate, digest, throw: threw, exit } = count
  figure(
    `  ${started} workers, ${WORKERS} at a time: ${terminate} terminated at random moments, ${exit} ended by ` +
      `process.exit, ${threw} by an error, ${digest} compared with their bits alone; ${wrong.length} wrong`,
  )
  check(wrong.length === 0, `every worker ends as it should: ${wrong.slice(0, 5).join('; ')}`)
  const left = processStatus('Threads') - threads
  figure(`  threads: ${threads} before, ${left} left behind`)
  check(left <= 0, `${left} threads are left behind`)
  const warm = Math.min(WARM_UP_ROUNDS, Math.floor(resident.length / 2))
  const growth = slope(workers.slice(warm), resident.slice(warm))
  const mebibytes = (bytes: number): string => (bytes / 2 ** 20).toFixed(1)
  figure(
    `  resident memory ${mebibytes(resident[warm])} MiB after ${workers[warm]} workers, ` +
      `${mebibytes(resident[resident.length - 1])} MiB at the end, slope ${(growth / 1024).toFixed(1)} KiB a worker`,
  )
  if (!quick)
    check(growth < LIMIT, `memory grows by ${growth.toFixed(0)} bytes a worker, wanted less than ${LIMIT}`)
}
