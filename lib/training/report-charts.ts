/** The numbers behind the report's charts: series over the steps, thinned and smoothed. uPlot draws them in the page. */
import type { EvalRecord, MetricsRecord, RouterRecord, TrainRecord } from './metrics.js'
import type { Evaluation } from './evaluation.js'

/** One line or one set of bars. */
export interface ChartSeries {
  readonly label: string
  /** Number of the colour: the position of the run, or of the layer where a single run is shown. */
  readonly run: number
  /** `faint`: the raw values behind a smoothed line; `points`: measured on the test set. */
  readonly style: 'line' | 'faint' | 'points' | 'bars'
  readonly x: readonly number[]
  readonly y: readonly (number | null)[]
}

/** One chart of the page. */
export interface Chart {
  readonly id: string
  readonly title: string
  readonly xLabel: string
  readonly format: 'number' | 'percent' | 'scientific'
  readonly series: readonly ChartSeries[]
}

/** A run as the report sees it. */
export interface ReportRun {
  readonly name: string
  readonly folder: string
  readonly metrics: readonly MetricsRecord[]
  readonly evaluation: Evaluation | undefined
  readonly configuration: Readonly<Record<string, unknown>>
}

/** Points a line keeps: more than a chart has pixels. */
const MAX_POINTS = 1000
/** A smoothed line averages over about this share of the run. */
const SMOOTHING_SHARE = 1 / 80

/** Averages neighbouring values until at most {@link MAX_POINTS} are left; what is not finite is left out. */
export function thin(x: readonly number[], y: readonly number[]): { x: number[]; y: (number | null)[] } {
  const width = Math.max(1, Math.ceil(x.length / MAX_POINTS))
  const thinned: { x: number[]; y: (number | null)[] } = { x: [], y: [] }
  for (let first = 0; first < x.length; first += width) {
    const values = y.slice(first, first + width).filter(Number.isFinite)
    const places = x.slice(first, first + width)
    thinned.x.push(places[Math.floor(places.length / 2)])
    thinned.y.push(values.length > 0 ? values.reduce((sum, value) => sum + value, 0) / values.length : null)
  }
  return thinned
}

/** Exponential average that starts without bias (Kingma and Ba, "Adam", 2015, section 3). */
export function smooth(y: readonly number[]): number[] {
  const keep = Math.max(0, 1 - 1 / Math.max(1, y.length * SMOOTHING_SHARE))
  let sum = 0
  let weight = 0
  return y.map((value) => {
    if (Number.isFinite(value)) {
      sum = keep * sum + (1 - keep) * value
      weight = keep * weight + (1 - keep)
    }
    return weight > 0 ? sum / weight : Number.NaN
  })
}

const isTrain = (record: MetricsRecord): record is TrainRecord => record.kind === 'train'
const isEval = (record: MetricsRecord): record is EvalRecord => record.kind === 'eval'
const isRouter = (record: MetricsRecord): record is RouterRecord => record.kind === 'router'

/** The line charts of training: loss, accuracy and rates. */
export function lineCharts(runs: readonly ReportRun[]): Chart[] {
  const learning = (id: 'loss' | 'accuracy', title: string, format: Chart['format']): Chart => ({
    id,
    title,
    format,
    xLabel: 'step',
    series: runs.flatMap((run, index) => [
      ...trainSeries(runs, run, index, id, runs.length === 1),
      ...evalSeries(runs, run, index, id),
    ]),
  })
  const rate = (id: keyof TrainRecord, title: string, format: Chart['format']): Chart => ({
    id,
    title,
    format,
    xLabel: 'step',
    series: runs.flatMap((run, index) => trainSeries(runs, run, index, id, false)),
  })
  const charts = [
    learning('loss', 'Loss', 'number'),
    learning('accuracy', 'Accuracy', 'percent'),
    rate('learningRate', 'Learning rate', 'scientific'),
    rate('gradNorm', 'Gradient norm', 'number'),
    rate('imagesPerSecond', 'Images per second', 'number'),
  ]
  return charts.filter(({ series }) => series.length > 0)
}

function label(runs: readonly ReportRun[], run: ReportRun, what: string): string {
  return runs.length === 1 ? what : `${run.name}, ${what}`
}

function trainSeries(
  runs: readonly ReportRun[],
  run: ReportRun,
  index: number,
  field: keyof TrainRecord,
  withRaw: boolean,
): ChartSeries[] {
  const records = run.metrics.filter(isTrain)
  if (records.length === 0) return []
  const x = records.map(({ step }) => step)
  const y = records.map((record) => Number(record[field]))
  const isNoisy = field !== 'learningRate'
  const smoothed: ChartSeries = {
    label: label(runs, run, isNoisy ? 'train (smoothed)' : 'learning rate'),
    run: index,
    style: 'line',
    ...thin(x, isNoisy ? smooth(y) : y),
  }
  return withRaw ? [{ label: 'train', run: index, style: 'faint', ...thin(x, y) }, smoothed] : [smoothed]
}

function evalSeries(
  runs: readonly ReportRun[],
  run: ReportRun,
  index: number,
  field: 'loss' | 'accuracy',
): ChartSeries[] {
  const records = run.metrics.filter(isEval)
  if (records.length === 0) return []
  const x = records.map(({ step }) => step)
  const y = records.map((record) => record[field])
  // A single run has a second colour to spare for its test set.
  const colour = runs.length === 1 ? index + 1 : index
  return [{ label: label(runs, run, 'test'), run: colour, style: 'points', ...thin(x, y) }]
}

/** What the charts of the usual router metrics are called, those first that say most; others go by their names. */
const METRIC_TITLES: ReadonlyMap<string, string> = new Map([
  ['scale', 'Learned scale of the logits'],
  ['combineEntropy', 'Entropy of the combine weights (1: uniform)'],
  ['dispatchEntropy', 'Entropy of the dispatch weights (1: uniform)'],
  ['importanceVariation', 'Expert importance: coefficient of variation'],
  ['loadVariation', 'Expert load: coefficient of variation'],
  ['tokensOver2', 'Tokens of a total dispatch weight over 2'],
  ['tokensUnderQuarter', 'Tokens of a total dispatch weight under 1/4'],
  ['combineWeightsMaxMean', "A token's greatest combine weight (mean)"],
  ['combineWeightsMinMean', "A token's smallest combine weight (mean)"],
  ['dispatchWeightsMaxMean', "A slot's greatest dispatch weight (mean)"],
  ['dispatchWeightsMinMean', "A slot's smallest dispatch weight (mean)"],
  ['droppedFraction', 'Tokens that no expert processed'],
  ['droppedAssignments', 'Assignments without a place'],
  ['expertImbalance', 'Greatest load of an expert over the mean'],
])
const SHARES = /fraction|share|^dropped|^tokens/i

/** One line chart for each metric of the routers. */
export function routerLineCharts(runs: readonly ReportRun[]): Chart[] {
  const found = new Set(
    runs.flatMap(({ metrics }) =>
      metrics.filter(isRouter).flatMap(({ layers }) => layers.flatMap((layer) => Object.keys(layer.metrics))),
    ),
  )
  const known = [...METRIC_TITLES.keys()].filter((name) => found.delete(name))
  return [...known, ...found].map((name) => ({
    id: `router-${name}`,
    title: METRIC_TITLES.get(name) ?? spelledOut(name),
    xLabel: 'step',
    format: SHARES.test(name) ? 'percent' : 'number',
    series: runs.flatMap((run, index) => routerSeries(runs, run, index, name)),
  }))
}

/** One line a layer; the layers of a run differ in shade, which the page derives from their order. */
function routerSeries(
  runs: readonly ReportRun[],
  run: ReportRun,
  index: number,
  name: string,
): ChartSeries[] {
  const records = run.metrics.filter(isRouter)
  const layers = new Set(records.flatMap((record) => record.layers.map(({ layer }) => layer)))
  return [...layers].flatMap((layer, position) => {
    const points = records.flatMap(({ step, layers: measured }) =>
      measured
        .filter((one) => one.layer === layer && name in one.metrics)
        .map(({ metrics }) => [step, metrics[name]]),
    )
    if (points.length === 0) return []
    const series = thin(
      points.map(([step]) => step),
      points.map(([, value]) => value),
    )
    const colour = runs.length === 1 ? position : index
    return [{ label: label(runs, run, `layer ${layer}`), run: colour, style: 'line', ...series }]
  })
}

/** `dispatchEntropy` → `Dispatch entropy`. */
export function spelledOut(name: string): string {
  const words = name.replace(/([a-z])([A-Z])/g, '$1 $2').toLowerCase()
  return words.charAt(0).toUpperCase() + words.slice(1)
}

/** How often values fall into each of `bins` equal steps from 0 to the greatest, as shares of all values. */
export function histogram(values: readonly number[], bins: number): { x: number[]; y: number[] } {
  const most = values.reduce((greatest, value) => Math.max(greatest, value), 0)
  const width = most > 0 ? most / bins : 1
  const y = Array.from({ length: bins }, () => 0)
  for (const value of values) y[Math.min(bins - 1, Math.floor(value / width))] += 1 / values.length
  return { x: y.map((_, bin) => (bin + 0.5) * width), y }
}
