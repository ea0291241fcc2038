/** What a call costs beside its work: JavaScript, the checks of its arguments and the device's queue. */
import { add, noGrad } from '../lib/index.js'
import { type BenchCase, bytesOf, type CaseOptions } from './cases.js'

/** Calls of one run: its milliseconds are microseconds of a call. */
const CALLS = 1000
const NUMBERS = 16

/** Additions too small to matter. */
export function callCase({ dtype, threads, extent }: CaseOptions): BenchCase {
  return {
    group: 'parts',
    name: `${CALLS} calls, add of ${NUMBERS} numbers`,
    family: `parts calls, ${dtype}, ${threads}`,
    pass: 'forward',
    dtype,
    weights: null,
    threads,
    extent,
    shape: { calls: CALLS, numbers: NUMBERS },
    flops: CALLS * NUMBERS,
    bytes: CALLS * 3 * NUMBERS * bytesOf(dtype),
    memoryBytes: CALLS * NUMBERS * bytesOf(dtype),
    problem: null,
    prepare: (device) => {
      const x = device.ones([NUMBERS], { dtype })
      const calls = (): void => {
        for (let i = 0; i < CALLS; i++) add(x, x).dispose()
      }
      return { run: () => noGrad(calls), dispose: () => x.dispose() }
    },
  }
}
