/** Ours, plain and frozen, a peer and the machine's limits in turns: the same layer, checked equal, then timed. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Device } from '../../lib/index.js'
import type { RoundLimits } from '../limits.js'
import { runsOfTurn, timeRuns } from '../timing.js'
import { type Peer, PeerProcess } from './peer.js'
import type { ProblemRun } from './problem.js'

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

/** What a comparison needs besides the peer and our layers. */
export interface ComparisonOptions {
  readonly device: Device
  /** The worker's arguments. */
  readonly files: readonly string[]
  /** For the peer's files. */
  readonly folder: string
  /** About how long the peer and each of ours are timed. */
  readonly seconds: number
  /** Measured in every round. */
  readonly limits: RoundLimits
}

/** One of ours, and whether the peer has the same results. */
interface Ours {
  readonly run: ProblemRun
  readonly difference: number
  readonly isEqual: boolean
  readonly times: number[]
}

/** Ours one after the other, then the peer, in each round. @returns the peer's times */
async function takeTurns(
  peer: PeerProcess,
  ours: readonly Ours[],
  { device, seconds, limits }: ComparisonOptions,
): Promise<readonly number[]> {
  const timeOurs = ({ run }: Ours, runs: number): Promise<number[]> => timeRuns(() => run.run(), device, runs)
  const turns: number[] = []
  for (const one of ours) turns.push(runsOfTurn((await timeOurs(one, 2))[1], TURN_MS))
  const theirTurn = runsOfTurn((await peer.time(2))[1], TURN_MS)
  const times: number[] = []
  const end = performance.now() + 1e3 * seconds * (ours.length + 1)
  for (let round = 0; round < ROUNDS.most; round++) {
    if (round >= ROUNDS.least && performance.now() > end) break
    await sleep(PAUSE_MS)
    await limits.measure()
    for (const [i, one] of ours.entries()) {
      await sleep(PAUSE_MS)
      one.times.push(...(await timeOurs(one, turns[i])))
    }
    await sleep(PAUSE_MS)
    times.push(...(await peer.time(theirTurn)))
  }
  return times
}

/**
 * @param runs - our layers, which compute the same
 * @returns for each of ours what both took, or why they were not timed
 */
export async function compareWith(
  peer: Peer,
  runs: readonly ProblemRun[],
  options: ComparisonOptions,
): Promise<readonly (PeerTimes | { readonly skipped: string })[]> {
  const { files, folder } = options
  const command = peer.command(folder)
  if (!Array.isArray(command)) return runs.map(() => command as { readonly skipped: string })
  const started = await PeerProcess.start(command as readonly string[], files)
  if (!(started instanceof PeerProcess)) return runs.map(() => started)
  try {
    const outputs = await started.outputs(folder)
    const ours: Ours[] = []
    for (const run of runs) {
      const wanted = peer.part === 'experts' ? await run.expertOutputs() : await run.outputs()
      const difference = largestDifference(wanted, outputs)
      ours.push({ run, difference, isEqual: difference <= TOLERANCE[run.dtype], times: [] })
    }
    const equal = ours.filter(({ isEqual }) => isEqual)
    const times = equal.length === 0 ? [] : await takeTurns(started, equal, options)
    return ours.map(({ difference, isEqual, times: own }) =>
      isEqual
        ? { name: started.name, part: peer.part, times, ours: own, difference }
        : { skipped: `its results are ${difference.toExponential(1)} of the largest element away from ours` },
    )
  } finally {
    await started.stop()
  }
}
