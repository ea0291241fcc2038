/** Peak and bandwidth of this machine, measured by the native benchmark. */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Limits } from './rows.js'

/** Reads the limits from the native benchmark's lines; null if the peak is not among them. */
export function readLimits(output: string): Limits | null {
  const numbers = (pattern: RegExp): number[] =>
    [...output.matchAll(pattern)].map((match) => Number(match[1]))
  const [float32] = numbers(/^peak float32 FMA\s+([\d.]+) GFLOP/gm)
  const bandwidth = Math.max(...numbers(/^read, .*?([\d.]+) GB\/s/gm))
  if (float32 === undefined || !Number.isFinite(bandwidth)) return null
  const pairs = numbers(/^peak bfloat16 dot pairs\s+([\d.]+) GFLOP/gm)
  const quads = numbers(/^peak int8 dot quads\s+([\d.]+) GFLOP/gm)
  const tiles = numbers(/^peak bfloat16 tiles loaded from L1\s+([\d.]+) GFLOP/gm)
  const bfloat16 = Math.max(float32, ...pairs, ...tiles)
  return { float32, bfloat16, int8: Math.max(float32, ...quads), bandwidth }
}

/** Measures with some threads; null, with the reason on stderr, where the native benchmark cannot be built. */
export function measureLimits(instructionSet: string, threads: number): Limits | null {
  const child = spawnSync(
    process.execPath,
    ['scripts/native-bench.cjs', instructionSet, String(threads), 'limits'],
    { cwd: fileURLToPath(new URL('..', import.meta.url)), encoding: 'utf8' },
  )
  const limits = readLimits(child.stdout ?? '')
  if (limits === null)
    console.error(`no limits: the native benchmark could not be built or run\n${child.stderr}`)
  return limits
}
