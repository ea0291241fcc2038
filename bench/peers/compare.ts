/** Ours, a peer and the machine's limits in turns: the same layer, checked equal, then timed in rounds. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Device } from '../../lib/index.js'
import type { RoundLimits } from '../limits.js'
import { runsOfTurn, timeRuns } from '../timing.js'
import { type Peer, PeerProcess } from './peer.js'
import type { Problem, ProblemRun } from './problem.js'

/** Rounds of one turn each; more while there is time. */
const ROUNDS = { least: 3, most: 20 }
/** About how long a turn takes. */
const TURN_MS = 60
/** Threads that spin after their work are asleep by then. */
const PAUSE_MS = 20

/** How far a result may be away from ours, in relation to the largest element. */
export const TOLERANCE = { float32: 2e-4, bfloat16: 4e-2 } as const

/** What one peer took. */
export interface PeerTimes {
  /** With its version. */
  readonly name: string
  readonly part: Peer['part']
  readonly times: readonly number[]
  /** Ours in the same rounds. */
  readonly ours: readonly number[]
  /** Largest difference of the results, in relation to the largest element. */
  readonly difference: number
}

/** Largest difference of two arrays in relation to the largest element of `wanted`; infinite unless both are finite. */
export function relativeDifference(wanted: Float32Array, given: Float32Array): number {
  if (wanted.length !== given.length) return Number.POSITIVE_INFINITY
  let largest = 0
  let difference = 0
  for (let i = 0; i < wanted.length; i++) {
    largest = Math.max(largest, Math.abs(wanted[i]))
    const apart = Math.abs(wanted[i] - given[i])
    if (!(apart <= difference)) difference = Number.isNaN(apart) ? Number.POSITIVE_INFINITY : apart
  }
  return largest === 0 ? difference : difference / largest
}

/** Compares the outputs one by one, as their sizes differ by orders of magnitude. */
function largestDifference(ours: readonly Float32Array[], theirs: Float32Array): number {
  const total = ours.reduce((sum, { length }) => sum + length, 0)
  if (total !== theirs.length) return Number.POSITIVE_INFINITY
  let at = 0
  return Math.max(
    ...ours.map((values) => relativeDifference(values, theirs.subarray(at, (at += values.length)))),
  )
}

/**
 * @param run - our layer
 * @param files - the worker's arguments
 * @param folder - for the peer's files
 * @param seconds - about how long each of the two is timed
 * @param limits - measured in every round
 */
export async function compareWith(
  peer: Peer,
  run: ProblemRun,
  problem: Problem,
  device: Device,
  files: readonly string[],
  folder: string,
  seconds: number,
  limits: RoundLimits,
): Promise<PeerTimes | { readonly skipped: string }> {
  const command = peer.command(folder)
  if (!Array.isArray(command)) return command as { readonly skipped: string }
  const started = await PeerProcess.start(command as readonly string[], files)
  if (!(started instanceof PeerProcess)) return started
  try {
    const wanted = peer.part === 'experts' ? await run.expertOutputs() : await run.outputs()
    const difference = largestDifference(wanted, await started.outputs(folder))
    if (!(difference <= TOLERANCE[problem.dtype])) {
      return {
        skipped: `its results are ${difference.toExponential(1)} of the largest element away from ours`,
      }
    }
    const timeOurs = (runs: number): Promise<number[]> => timeRuns(() => run.run(), device, runs)
    const [, oneOfOurs = TURN_MS] = await timeOurs(2)
    const [, oneOfTheirs = TURN_MS] = await started.time(2)
    const [ourRuns, theirRuns] = [oneOfOurs, oneOfTheirs].map((ms) => runsOfTurn(ms, TURN_MS))
    const ours: number[] = []
    const times: number[] = []
    const start = performance.now()
    for (let round = 0; round < ROUNDS.most; round++) {
      if (round >= ROUNDS.least && performance.now() - start > 2e3 * seconds) break
      await sleep(PAUSE_MS)
      await limits.measure()
      ours.push(...(await timeOurs(ourRuns)))
      await sleep(PAUSE_MS)
      times.push(...(await started.time(theirRuns)))
    }
    return { name: started.name, part: peer.part, times, ours, difference }
  } finally {
    await started.stop()
  }
}
