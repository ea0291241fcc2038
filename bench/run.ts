/**
 * Times the layers of the papers and sets each against its floor, max(FLOPs / peak, bytes / bandwidth), with the peak and
 * bandwidth of this machine measured in turns with it, and against other libraries with the same weights and inputs.
 *
 *     npm run bench -- [--quick | --all] [--only PATTERN] [--list] [--threads N] [--dtype DTYPE] [--json FILE] [--charts FOLDER]
 *
 * Rows that are compared with each other run in turns; the table shows medians with their spread (10th to 90th percentile).
 */
import { appendFileSync, writeFileSync } from 'node:fs'
import { type Device, openDevice, setThreads } from '../lib/index.js'
import { chooseCases, familiesOf } from './case-list.js'
import { type BenchCase, idOf } from './cases.js'
import { writeCharts } from './charts.js'
import { LimitProbe, RoundLimits } from './limits.js'
import { type BenchOptions, parseOptions } from './options.js'
import { PEERS } from './peers/peer.js'
import { PeerRuns } from './peers/run.js'
import { comparisons, lineOf, peerTable, TABLE_HEAD } from './report.js'
import { type Row, rowOf } from './rows.js'
import { timeFamily } from './timing.js'

/** Share of the free memory that a row may take; a peer holds the weights as well. */
const MEMORY_SHARE = { alone: 0.8, withPeer: 0.35 } as const

function showProgress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r${text.slice(0, 100).padEnd(100)}\r`)
}

/** Runs families one after the other, and prints each row when it is there. */
class Benchmark {
  readonly rows: Row[] = []
  readonly #device: Device
  readonly #options: BenchOptions
  readonly #probes: ReadonlyMap<number, LimitProbe | null>
  readonly #peers: PeerRuns

  constructor(device: Device, options: BenchOptions, probes: ReadonlyMap<number, LimitProbe | null>) {
    this.#device = device
    this.#options = options
    this.#probes = probes
    this.#peers = new PeerRuns(PEERS.filter(({ name }) => options.peers?.includes(name) ?? true))
  }

  #limitsOf(family: readonly BenchCase[]): RoundLimits {
    return new RoundLimits(this.#probes.get(family[0]?.threads ?? 0) ?? null, family)
  }

  #finish(
    benchCase: BenchCase,
    times: readonly number[],
    limits: RoundLimits,
    peers: Row['peers'] = [],
  ): void {
    const row = rowOf(benchCase, times, limits.median(), peers)
    this.rows.push(row)
    showProgress('')
    console.log(lineOf(row))
    if (this.#options.json !== undefined) appendFileSync(this.#options.json, `${JSON.stringify(row)}\n`)
  }

  async #withPeers(first: BenchCase, family: readonly BenchCase[]): Promise<void> {
    const problems = family.flatMap(({ problem }) => problem ?? [])
    const onPeer = (name: string): void => showProgress(`${idOf(first)}: ${name}`)
    const limits = this.#limitsOf(family)
    const rows = await this.#peers.time(problems, this.#device, this.#options.seconds, limits, onPeer)
    for (const [i, { times, peers }] of rows.entries()) {
      if (times.length > 0) this.#finish(family[i], times, limits, peers)
      else
        for (const peer of peers) if ('skipped' in peer) console.log(`${peer.name} skipped: ${peer.skipped}`)
    }
  }

  async run(family: readonly BenchCase[]): Promise<void> {
    const [first] = family
    if (first === undefined) return
    const comparesPeers = first.group === 'peers'
    const needed = family.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0)
    const free = process.availableMemory() * MEMORY_SHARE[comparesPeers ? 'withPeer' : 'alone']
    if (needed > free) {
      if (family.length > 1) {
        for (const alone of family) await this.run([alone])
        return
      }
      const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(1)
      console.log(
        `${idOf(first)}: skipped, it needs ${gigabytes(needed)} GB and may take ${gigabytes(free)} GB`,
      )
      return
    }
    setThreads(first.threads)
    if (comparesPeers) {
      await this.#withPeers(first, family)
      return
    }
    const limits = this.#limitsOf(family)
    const times = await timeFamily(family, this.#device, this.#options.seconds, limits)
    for (const [i, benchCase] of family.entries()) this.#finish(benchCase, times[i], limits)
  }

  async close(): Promise<void> {
    this.#peers.close()
    for (const probe of this.#probes.values()) await probe?.stop()
  }
}

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2))
  const device = openDevice('cpu')
  const description = device.description as { name: string; instructionSet: string; threads: number }
  const all = description.threads
  const threads = options.threads ?? (all === 1 ? [1] : [all, 1])
  const cases = chooseCases({ ...options, threads })
  if (options.list) {
    for (const benchCase of cases)
      console.log(`${idOf(benchCase)}${benchCase.extent === 'all' ? ' (--all)' : ''}`)
    return
  }
  const probes = new Map<number, LimitProbe | null>()
  for (const count of new Set(cases.map((benchCase) => benchCase.threads))) {
    const probe = options.limits ? await LimitProbe.start(description.instructionSet, count) : null
    probes.set(count, probe)
    const measured = probe?.atStart
    const text =
      measured === undefined
        ? 'limits not measured'
        : `float32 ${measured.float32} GFLOP/s, bfloat16 ${measured.bfloat16} GFLOP/s, read ${measured.bandwidth} GB/s`
    console.log(
      `${description.name}, ${description.instructionSet}, ${count} ${count === 1 ? 'thread' : 'threads'}: ${text}`,
    )
  }
  // Rows are added as they are measured, so that a run which is cut off leaves them.
  if (options.json !== undefined) writeFileSync(options.json, '')
  const benchmark = new Benchmark(device, options, probes)
  console.log(TABLE_HEAD)
  try {
    const families = familiesOf(cases)
    for (const [i, family] of families.entries()) {
      showProgress(
        `${i + 1} of ${families.length}: ${family.length} rows from ${family[0] ? idOf(family[0]) : ''}`,
      )
      await benchmark.run(family)
    }
  } finally {
    await benchmark.close()
    if (options.charts !== undefined) writeCharts(options.charts, benchmark.rows)
  }
  for (const text of [comparisons(benchmark.rows), peerTable(benchmark.rows)])
    if (text !== '') console.log(`\n${text}`)
}

await main()
