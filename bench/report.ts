/** The table and what follows from comparing its rows, as text. */
import { type Row, timedPeers } from './rows.js'

export const TABLE_HEAD =
  'case'.padEnd(42) +
  'pass'.padEnd(18) +
  'dtype'.padEnd(9) +
  ' thr  median ms      10-90 %        GFLOP/s    GB/s  of floor'

const number = (value: number): string => value.toFixed(value < 10 ? 3 : value < 1000 ? 2 : 0)
const percent = (share: number): string => `${(100 * share).toFixed(0)} %`

/** One line of the table, and one for each peer. */
export function lineOf(row: Row): string {
  const { name, pass, dtype, threads, medianMs, p10Ms, p90Ms, gflops, gbPerS, shareOfFloor, peers } = row
  const line =
    name.padEnd(42) +
    pass.padEnd(18) +
    dtype.padEnd(9) +
    String(threads).padStart(4) +
    number(medianMs).padStart(11) +
    `  ${number(p10Ms)}-${number(p90Ms)}`.padEnd(19) +
    gflops.toFixed(1).padStart(8) +
    gbPerS.toFixed(1).padStart(8) +
    (shareOfFloor === null ? '' : percent(shareOfFloor).padStart(10))
  const lines = peers.map((peer) =>
    'skipped' in peer
      ? `    ${peer.name.padEnd(26)} skipped: ${peer.skipped}`
      : `    ${peer.name.padEnd(26)}${number(peer.medianMs).padStart(10)} ms, ours ${number(peer.oursMs)} ms: ` +
        `${peer.ratio.toFixed(2)}x${peer.part === 'experts' ? ' (it: the expert products alone)' : ''}`,
  )
  return [line, ...lines].join('\n')
}

/** Rows that were timed in turns: the same group, batch, pass, dtype and threads. */
function together(rows: readonly Row[], group: Row['group']): Row[][] {
  const sets = new Map<string, Row[]>()
  for (const row of rows) {
    if (row.group !== group) continue
    const { batch = 0, dim = 0 } = row.shape
    const key = [batch, dim, row.pass, row.dtype, row.threads].join(' ')
    const set = sets.get(key)
    if (set === undefined) sets.set(key, [row])
    else set.push(row)
  }
  return [...sets.values()]
}

const condition = ({ pass, dtype, threads }: Row): string => `${pass}, ${dtype}, ${threads} thr`

/** The most experts against the fewest at equal slots: time, and time over floor. */
export interface SweepComparison {
  readonly condition: string
  readonly fewest: number
  readonly most: number
  readonly ratio: number
  /** After what the floor grows by the weights' bytes. */
  readonly ratioAfterFloor: number | null
  /** With the time to read the weights' further bytes added to the fewest's. */
  readonly ratioAfterBytes: number | null
}

/** Milliseconds to read what a row must move beyond another; null where the bandwidth is not known. */
function readingTime(more: Row, less: Row): number | null {
  const bandwidth = more.limits?.bandwidth
  if (bandwidth === undefined) return null
  return (more.gbPerS * more.medianMs - less.gbPerS * less.medianMs) / bandwidth
}

export function compareSweep(rows: readonly Row[]): readonly SweepComparison[] {
  return together(rows, 'sweep').flatMap((set) => {
    const sorted = set.toSorted((a, b) => (a.shape.numExperts ?? 0) - (b.shape.numExperts ?? 0))
    const [first, last] = [sorted.at(0), sorted.at(-1)]
    if (first === undefined || last === undefined || first === last) return []
    const ratio = last.medianMs / first.medianMs
    const reading = readingTime(last, first)
    const floors = first.floorMs === null || last.floorMs === null ? null : last.floorMs / first.floorMs
    return {
      condition: condition(first),
      fewest: first.shape.numExperts ?? 0,
      most: last.shape.numExperts ?? 0,
      ratio,
      ratioAfterFloor: floors === null ? null : ratio / floors,
      ratioAfterBytes: reading === null ? null : last.medianMs / (first.medianMs + reading),
    }
  })
}

/** A row against the first of its set: routing by index against Soft MoE, or a Soft MoE model against the dense one. */
export interface PairComparison {
  readonly condition: string
  readonly name: string
  readonly base: string
  readonly ratio: number
  /** FLOPs over the base's. */
  readonly workRatio: number
}

export function comparePairs(rows: readonly Row[], group: 'routers' | 'models'): readonly PairComparison[] {
  const base = (row: Row): boolean => row.name.startsWith(group === 'routers' ? 'Soft MoE' : 'dense')
  return together(rows, group).flatMap((set) => {
    const first = set.find(base)
    if (first === undefined) return []
    return set
      .filter((row) => row !== first)
      .map((row) => ({
        condition: condition(row),
        name: row.name,
        base: first.name,
        ratio: row.medianMs / first.medianMs,
        workRatio: (row.gflops * row.medianMs) / (first.gflops * first.medianMs),
      }))
  })
}

/** Every comparison that the rows allow. */
export function comparisons(rows: readonly Row[]): string {
  const sweep = compareSweep(rows).map(
    ({ condition, fewest, most, ratio, ratioAfterFloor, ratioAfterBytes }) =>
      `${most} experts take ${ratio.toFixed(2)}x the time of ${fewest} at equal slots (${condition})` +
      (ratioAfterFloor === null ? '' : `; ${ratioAfterFloor.toFixed(2)}x after the floor`) +
      (ratioAfterBytes === null ? '' : `, ${ratioAfterBytes.toFixed(2)}x after reading their weights`),
  )
  const pairs = (['routers', 'models'] as const).flatMap((group) =>
    comparePairs(rows, group).map(
      ({ condition, name, base, ratio, workRatio }) =>
        `${name} takes ${ratio.toFixed(2)}x the time of ${base} (${condition}), with ${workRatio.toFixed(2)}x the FLOPs`,
    ),
  )
  const images = rows
    .filter(({ group }) => group === 'models')
    .map((row) => {
      const perImage = row.medianMs / (row.shape.batch ?? 1)
      return `${row.name}: ${perImage.toFixed(2)} ms/image (${condition(row)})`
    })
  const calls = rows
    .filter(({ shape }) => shape.calls !== undefined)
    .map((row) => {
      const microseconds = (1e3 * row.medianMs) / (row.shape.calls ?? 1)
      return `a call takes ${microseconds.toFixed(2)} µs beside its work (${condition(row)})`
    })
  return [...sweep, ...images, ...pairs, ...calls].join('\n')
}

/** The peers as a table in Markdown: their time over ours. */
export function peerTable(rows: readonly Row[]): string {
  const compared = rows.filter(({ peers }) => peers.length > 0)
  const names = [...new Set(compared.flatMap((row) => timedPeers(row).map(({ name }) => name)))]
  if (names.length === 0) return ''
  const cells = (row: Row): string[] =>
    names.map((name) => {
      const peer = timedPeers(row).find((candidate) => candidate.name === name)
      return peer === undefined ? '–' : `${number(peer.medianMs)} (${peer.ratio.toFixed(2)}x)`
    })
  const line = (parts: readonly string[]): string => `| ${parts.join(' | ')} |`
  return [
    line(['row', 'pass', 'dtype', 'ours, ms', 'of floor', ...names]),
    line(Array.from({ length: 5 + names.length }, () => '---')),
    ...compared.map((row) => {
      const share = row.shareOfFloor === null ? '–' : percent(row.shareOfFloor)
      return line([row.name, row.pass, row.dtype, number(row.medianMs), share, ...cells(row)])
    }),
  ].join('\n')
}
