/** Times the cases of a family in turns, so that a change of the machine's speed meets all of them. */
import type { Device } from '../lib/index.js'
import type { BenchCase, PreparedCase } from './cases.js'

/** Rounds of one turn for each case: at least the first number, then while there is time, at most the second. */
const ROUNDS = [3, 15] as const
/** About how long a turn of a short case takes. */
const TURN_MS = 40

/** How often a case of this time runs in one turn. */
export function runsOfTurn(ms: number, turnMs = TURN_MS): number {
  return Math.max(1, Math.min(50, Math.round(turnMs / ms)))
}

/** Times of some runs in milliseconds. */
export async function timeRuns(run: () => void, device: Device, runs: number): Promise<number[]> {
  const times: number[] = []
  for (let i = 0; i < runs; i++) {
    const start = performance.now()
    run()
    await device.synchronize()
    times.push(performance.now() - start)
  }
  return times
}

/**
 * @param seconds - about how long each case is timed, without what the least number of rounds takes longer
 * @returns the times of each case in milliseconds, in the order they were taken
 */
export async function timeFamily(
  family: readonly BenchCase[],
  device: Device,
  seconds: number,
): Promise<readonly (readonly number[])[]> {
  const prepared: PreparedCase[] = []
  try {
    const turns: number[] = []
    for (const benchCase of family) {
      const own = benchCase.prepare(device)
      prepared.push(own)
      // The first run allocates.
      const [, second = TURN_MS] = await timeRuns(own.run, device, 2)
      turns.push(runsOfTurn(second))
    }
    const times: number[][] = family.map(() => [])
    const end = performance.now() + 1e3 * seconds * family.length
    for (let round = 0; round < ROUNDS[1] && (round < ROUNDS[0] || performance.now() < end); round++) {
      for (const [i, { run }] of prepared.entries()) times[i].push(...(await timeRuns(run, device, turns[i])))
    }
    return times
  } finally {
    for (const { dispose } of prepared) dispose()
    device.emptyCache()
  }
}
