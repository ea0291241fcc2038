/**
 * Times the layers of the papers and sets each against its floor, max(FLOPs / peak, weight bytes / bandwidth), with the
 * peak and bandwidth of this machine measured in the same run.
 *
 *     npm run bench -- [--quick] [--threads N] [--dtype float32|bfloat16] [--runs N] [--json FILE]
 *
 * Cases run in turn, round after round, so that a change of the machine's speed meets all of them; medians and the
 * spread (10th to 90th percentile) are printed.
 */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { type FloatDType, openDevice, setThreads } from '../lib/index.js'
import { type BenchCase, expertSweep, standardCases } from './cases.js'

interface Row {
  readonly name: string
  readonly device: string
  readonly dtype: FloatDType
  readonly threads: number
  readonly shape: Readonly<Record<string, number>>
  readonly medianMs: number
  readonly p10Ms: number
  readonly p90Ms: number
  readonly gflops: number
  readonly gbPerS: number
  readonly floorMs: number | null
  readonly shareOfFloor: number | null
}

interface Peaks {
  readonly float32: number
  readonly bfloat16: number
  readonly bandwidth: number
}

const root = fileURLToPath(new URL('..', import.meta.url))

/** GFLOP/s and GB/s of this machine, from the native benchmark; null where it cannot be built. */
function measurePeaks(instructionSet: string, threads: number): Peaks | null {
  const child = spawnSync(
    process.execPath,
    ['scripts/native-bench.cjs', instructionSet, String(threads), 'limits'],
    {
      cwd: root,
      encoding: 'utf8',
    },
  )
  const numbers = (pattern: RegExp): number[] =>
    [...(child.stdout ?? '').matchAll(pattern)].map((match) => Number(match[1]))
  const [float32] = numbers(/^peak float32 FMA\s+([\d.]+) GFLOP/gm)
  if (float32 === undefined) {
    console.error('no peaks: the native benchmark could not be built or run\n' + child.stderr)
    return null
  }
  const [bfloat16 = float32] = numbers(/^peak bfloat16 dot pairs\s+([\d.]+) GFLOP/gm)
  return { float32, bfloat16, bandwidth: Math.max(...numbers(/^read, .*?([\d.]+) GB\/s/gm)) }
}

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

function showProgress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r${text.padEnd(78)}\r`)
}

async function time(cases: readonly BenchCase[], runs: number): Promise<readonly (readonly number[])[]> {
  const device = openDevice('cpu')
  const times: number[][] = cases.map(() => [])
  for (let round = 0; round < 2; round++) {
    for (const [i, benchCase] of cases.entries()) {
      showProgress(`${round * cases.length + i + 1}/${2 * cases.length} ${benchCase.name}`)
      const prepared = benchCase.prepare()
      prepared.run()
      await device.synchronize()
      for (let run = 0; run < runs; run++) {
        const start = process.hrtime.bigint()
        prepared.run()
        await device.synchronize()
        times[i].push(Number(process.hrtime.bigint() - start) / 1e6)
      }
      prepared.dispose()
      device.emptyCache()
    }
  }
  showProgress('')
  return times.map((list) => list.toSorted((a, b) => a - b))
}

async function main(): Promise<void> {
  const program = new Command('bench')
    .description('Times the layers of the papers against the limits of this machine.')
    .option('--quick', 'only the small shapes')
    .option('--threads <n>', 'threads of the CPU kernels')
    .option('--dtype <dtype>', 'float32 or bfloat16; default both')
    .option('--runs <n>', 'runs of each case in each of two rounds', '7')
    .option('--json <file>', 'also write one JSON object a line')
    .parse()
  const options = program.opts<{
    quick?: boolean
    threads?: string
    dtype?: FloatDType
    runs: string
    json?: string
  }>()
  if (options.threads !== undefined) setThreads(Number(options.threads))
  const device = openDevice('cpu')
  const { instructionSet } = device.description as { readonly instructionSet: string }
  const threads = options.threads === undefined ? Number(device.description.threads) : Number(options.threads)
  const peaks = measurePeaks(instructionSet, threads)
  if (peaks !== null) {
    console.log(
      `${String(device.description.name)}, ${instructionSet}, ${threads} threads: float32 peak ${peaks.float32} GFLOP/s, ` +
        `bfloat16 peak ${peaks.bfloat16} GFLOP/s, read ${peaks.bandwidth} GB/s`,
    )
  }
  const rows: Row[] = []
  for (const dtype of options.dtype === undefined ? (['float32', 'bfloat16'] as const) : [options.dtype]) {
    const cases = [...standardCases(device, dtype, options.quick ?? false), ...expertSweep(device, dtype)]
    const times = await time(cases, Number(options.runs))
    for (const [i, { name, shape, flops, weightBytes }] of cases.entries()) {
      const medianMs = percentile(times[i], 0.5)
      const floorMs =
        peaks === null ? null : 1e-6 * Math.max(flops / peaks[dtype], weightBytes / peaks.bandwidth)
      rows.push({
        name,
        device: 'cpu',
        dtype,
        threads,
        shape,
        medianMs,
        p10Ms: percentile(times[i], 0.1),
        p90Ms: percentile(times[i], 0.9),
        gflops: flops / medianMs / 1e6,
        gbPerS: weightBytes / medianMs / 1e6,
        floorMs,
        shareOfFloor: floorMs === null ? null : floorMs / medianMs,
      })
    }
  }
  console.log(
    `${'case'.padEnd(50)}${'dtype'.padEnd(10)}batch  median ms   10-90 %         GFLOP/s   GB/s  of floor`,
  )
  for (const row of rows) {
    console.log(
      row.name.padEnd(50) +
        row.dtype.padEnd(10) +
        String(row.shape.batch).padStart(5) +
        row.medianMs.toFixed(2).padStart(11) +
        `  ${row.p10Ms.toFixed(2)}-${row.p90Ms.toFixed(2)}`.padEnd(18) +
        row.gflops.toFixed(0).padStart(7) +
        row.gbPerS.toFixed(1).padStart(7) +
        (row.shareOfFloor === null ? '' : `${(100 * row.shareOfFloor).toFixed(0)} %`.padStart(8)),
    )
  }
  if (options.json !== undefined) {
    writeFileSync(options.json, rows.map((row) => JSON.stringify(row)).join('\n') + '\n')
  }
}

await main()
