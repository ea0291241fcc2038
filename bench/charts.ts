/** The results as SVG charts: one for each question that has rows. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { FloatDType } from '../lib/index.js'
import { type Row, timedPeers } from './rows.js'
import { barChart, type BarChart, lineChart } from './svg.js'

const DTYPES: readonly FloatDType[] = ['float32', 'bfloat16']

const label = ({ name, pass }: Row): string => `${name}${pass === 'forward' ? '' : ', with backward'}`
const threadsOf = (rows: readonly Row[]): string =>
  `${[...new Set(rows.map(({ threads }) => threads))].join(' and ')} threads`

/** One bar for each dtype of a row. */
function byDtype(rows: readonly Row[], value: (row: Row) => number | null): BarChart['groups'] {
  return [...new Set(rows.map(label))].map((name) => ({
    name,
    values: DTYPES.map((dtype) => {
      const row = rows.find((candidate) => label(candidate) === name && candidate.dtype === dtype)
      return row === undefined ? null : value(row)
    }),
  }))
}

/** The rows of the largest count of threads. */
function withAllThreads(rows: readonly Row[]): Row[] {
  const most = Math.max(...rows.map(({ threads }) => threads))
  return rows.filter(({ threads }) => threads === most)
}

function floorChart(rows: readonly Row[]): string | null {
  const known = withAllThreads(rows.filter(({ group }) => group === 'layers')).filter(
    (row) => row.shareOfFloor !== null,
  )
  if (known.length === 0) return null
  return barChart({
    title: 'Share of the floor',
    subtitle: `floor = max(FLOPs / peak, weight bytes / bandwidth), ${threadsOf(known)}; longer is better`,
    series: DTYPES,
    groups: byDtype(known, ({ shareOfFloor }) => shareOfFloor),
    format: (value) => `${(100 * value).toFixed(0)} %`,
    mark: { value: 1, name: 'floor' },
  })
}

function timeChart(
  rows: readonly Row[],
  group: 'routers' | 'models' | 'parts',
  title: string,
): string | null {
  const own = withAllThreads(rows.filter((row) => row.group === group))
  if (own.length === 0) return null
  const perImage = group === 'models'
  return barChart({
    title,
    subtitle: `milliseconds${perImage ? ' an image' : ''}, ${threadsOf(own)}; shorter is better`,
    series: DTYPES,
    groups: byDtype(own, ({ medianMs, shape }) => (perImage ? medianMs / (shape.batch ?? 1) : medianMs)),
    format: (value) => String(Number(value.toPrecision(3))),
  })
}

function peerChart(rows: readonly Row[], dtype: FloatDType): string | null {
  const own = withAllThreads(rows.filter((row) => row.peers.length > 0 && row.dtype === dtype))
  const names = [...new Set(own.flatMap((row) => timedPeers(row).map(({ name }) => name)))]
    // Off the scale of the others by far; the table has it.
    .filter((name) => !name.startsWith('tfjs'))
  if (names.length === 0) return null
  return barChart({
    title: `Time of other libraries over softmoe's, ${dtype}`,
    subtitle: `same weights and inputs, in turns, ${threadsOf(own)}; oneDNN: only the experts' products; above 1 softmoe is faster`,
    series: names,
    groups: own.map((row) => ({
      name: label(row),
      values: names.map((name) => timedPeers(row).find((peer) => peer.name === name)?.ratio ?? null),
    })),
    format: (value) => Number(value.toPrecision(3)).toString(),
    mark: { value: 1, name: 'softmoe' },
  })
}

function sweepChart(rows: readonly Row[]): string | null {
  const own = rows.filter(({ group }) => group === 'sweep')
  if (own.length === 0) return null
  const byExperts = (a: Row, b: Row): number => (a.shape.numExperts ?? 0) - (b.shape.numExperts ?? 0)
  const series = DTYPES.flatMap((dtype, colour) => {
    const line = own.filter((row) => row.dtype === dtype).sort(byExperts)
    const points = (value: (row: Row) => number | null): [number, number][] =>
      line.flatMap((row) => {
        const y = value(row)
        return y === null ? [] : [[row.shape.numExperts ?? 0, y] as [number, number]]
      })
    return [
      { name: dtype, dashed: false, colour, points: points(({ medianMs }) => medianMs) },
      { name: `floor of ${dtype}`, dashed: true, colour, points: points(({ floorMs }) => floorMs) },
    ].filter((candidate) => candidate.points.length > 0)
  })
  const [{ name, shape }] = own as [Row]
  return lineChart({
    title: 'More experts, the same slots',
    subtitle: `Soft MoE layer forward, ${name.split(',')[0] ?? ''}, batch ${shape.batch ?? 0}, width ${shape.dim ?? 0}, ${threadsOf(own)}`,
    xLabel: 'experts',
    yLabel: 'milliseconds',
    series,
  })
}

/** Writes the charts into a folder. @returns their names */
export function writeCharts(folder: string, rows: readonly Row[]): string[] {
  const charts = {
    'floor.svg': floorChart(rows),
    'sweep.svg': sweepChart(rows),
    'routers.svg': timeChart(rows, 'routers', 'Soft MoE and routing by index at equal slots'),
    'models.svg': timeChart(rows, 'models', 'Whole models: dense and Soft MoE'),
    'parts.svg': timeChart(rows, 'parts', 'Steps of routing'),
    'peers-float32.svg': peerChart(rows, 'float32'),
    'peers-bfloat16.svg': peerChart(rows, 'bfloat16'),
  }
  mkdirSync(folder, { recursive: true })
  return Object.entries(charts).flatMap(([name, chart]) => {
    if (chart === null) return []
    writeFileSync(join(folder, name), chart)
    return name
  })
}
