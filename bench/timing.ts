/** Times the cases of a family and its limits in turns, so that a change of the machine's speed meets all of them. */
import type { Device } from '../lib/index.js'
import type { BenchCase, PreparedCase } from './cases.js'
import type { RoundLimits } from './limits.js'

/** Rounds of one turn for each case: at least the first number, then while there is time, at most the second. */
const ROUNDS = [3, 15] as const
/** About how long a turn of a short case takes. */
const TURN_MS = 40

/** A run below this many milliseconds is noticeably slower when threads were asleep and caches were emptied before. */
const SHORT_MS = 400

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
 * @param limits - measured in every round
 * @returns the times of each case in milliseconds, in the order they were taken
 */
export async function timeFamily(
  family: readonly BenchCase[],
  device: Device,
  seconds: number,
  limits: RoundLimits,
): Promise<readonly (readonly number[])[]> {
  const prepared: PreparedCase[] = []
  try {
    const expected: number[] = []
    for (const benchCase of family) {
      const own = benchCase.prepare(device)
      prepared.push(own)
      // The first run allocates.
      const [, second = TURN_MS] = await timeRuns(own.run, device, 2)
      expected.push(second)
    }
    const times: number[][] = family.map(() => [])
    const end = performance.now() + 1e3 * seconds * family.length
    for (let round = 0; round < ROUNDS[1] && (round < ROUNDS[0] || performance.now() < end); round++) {
      await limits.measure()
      if (expected[0] < SHORT_MS) await timeRuns(prepared[0].run, device, 1)
      for (const [i, { run }] of prepared.entries()) {
        times[i].push(...(await timeRuns(run, device, runsOfTurn(expected[i]))))
      }
    }
    return times
  } finally {
    for (const { dispose } of prepared) dispose()
    device.emptyCache()
  }
}
