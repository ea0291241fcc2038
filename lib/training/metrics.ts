/**
 * `metrics.jsonl`: one JSON object a line, in the order of the steps. The file only ever grows while a run lasts, so a
 * killed run loses at most its last line; a resumed run first drops the records from its first step on.
 *
 * | kind | when | fields beside `kind` and `step` |
 * | --- | --- | --- |
 * | `train` | every step | `epoch loss accuracy learningRate gradNorm imagesPerSecond seconds` |
 * | `eval` | after each evaluation | `epoch loss accuracy images seconds` |
 * | `router` | with each evaluation | `layers`: for each mixture layer its place, router, numbers and histograms |
 *
 * Numbers that are not finite are written as the strings "NaN", "Infinity" and "-Infinity".
 */
import { open, readFile, type FileHandle } from 'node:fs/promises'
import { SoftMoEError } from '../core/errors.js'
import { fileError } from '../data/files.js'
import type { SparseHistograms } from '../routers/sparse-statistics.js'
import { writeError, writeTextAtomically } from './atomic-file.js'

/** What one step of training did. */
export interface TrainRecord {
  readonly kind: 'train'
  /** Steps completed before this one. */
  readonly step: number
  /** Passes over the training set completed, with the fraction of the current one. */
  readonly epoch: number
  /** Mean loss of the batch, in nats. */
  readonly loss: number
  /** Share of the batch classified correctly, 0 to 1. */
  readonly accuracy: number
  readonly learningRate: number
  /** Euclidean norm of all gradients together, before clipping. */
  readonly gradNorm: number
  readonly imagesPerSecond: number
  /** Time trained since the start of the run, resumed parts included. */
  readonly seconds: number
}

/** What an evaluation on the test set found. */
export interface EvalRecord {
  readonly kind: 'eval'
  /** Steps completed. */
  readonly step: number
  readonly epoch: number
  readonly loss: number
  /** 0 to 1. */
  readonly accuracy: number
  /** Images evaluated. */
  readonly images: number
  /** Time trained, as in {@link TrainRecord}. */
  readonly seconds: number
}

/** What the routers did, measured during an evaluation. */
export interface RouterRecord {
  readonly kind: 'router'
  readonly step: number
  readonly layers: readonly LayerRouterMetrics[]
}

/** The numbers of one mixture layer. */
export interface LayerRouterMetrics {
  /** Index of the encoder block, from 0. */
  readonly layer: number
  /** `soft`, `tokens-choice`, … */
  readonly router: string
  /** By name, such as `dispatchEntropy`, `combineEntropy`, `maxLogit`, `droppedFraction`, `expertImbalance`. */
  readonly metrics: Readonly<Record<string, number>>
  /** Of routers by index, shares by name: `load`, `importance`, `expertsPerToken`, `gates`; see `SparseHistograms`. */
  readonly histograms?: SparseHistograms
}

/** A line of `metrics.jsonl`. */
export type MetricsRecord = TrainRecord | EvalRecord | RouterRecord

function toLine(record: MetricsRecord): string {
  return `${JSON.stringify(record, (_, value: unknown) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value,
  )}\n`
}

const NUMBERS = {
  train: ['epoch', 'loss', 'accuracy', 'learningRate', 'gradNorm', 'imagesPerSecond', 'seconds'],
  eval: ['epoch', 'loss', 'accuracy', 'images', 'seconds'],
  router: [],
} as const
const NOT_FINITE = new Set(['NaN', 'Infinity', '-Infinity'])

function parseLine(text: string): MetricsRecord | undefined {
  let value: unknown
  try {
    value = JSON.parse(text, (_, entry: unknown) =>
      typeof entry === 'string' && NOT_FINITE.has(entry) ? Number(entry) : entry,
    )
  } catch {
    return undefined
  }
  if (!isRecord(value) || !Number.isInteger(value.step)) return undefined
  const { kind } = value
  if (kind !== 'train' && kind !== 'eval' && kind !== 'router') return undefined
  if (!NUMBERS[kind].every((name) => typeof value[name] === 'number')) return undefined
  if (kind === 'router' && !(Array.isArray(value.layers) && value.layers.every(isLayer))) return undefined
  return value as unknown as MetricsRecord
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isLayer(value: unknown): boolean {
  return (
    isRecord(value) &&
    Number.isInteger(value.layer) &&
    typeof value.router === 'string' &&
    isRecord(value.metrics) &&
    Object.values(value.metrics).every((number) => typeof number === 'number') &&
    (value.histograms === undefined || areHistograms(value.histograms))
  )
}

const areNumbers = (value: unknown): boolean =>
  Array.isArray(value) && value.every((number) => typeof number === 'number')

/** Whether these are the shares of a routing by index. */
export function areHistograms(value: unknown): value is SparseHistograms {
  const names = ['load', 'importance', 'expertsPerToken', 'gates'] satisfies (keyof SparseHistograms)[]
  return isRecord(value) && names.every((name) => areNumbers(value[name]))
}

/**
 * Reads `metrics.jsonl`. A last line that was cut off is left out.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND`, `ERR_FILE_READ`; `ERR_FILE_FORMAT` names the first line that is no record
 */
export async function readMetrics(path: string): Promise<MetricsRecord[]> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => Promise.reject(fileError(path, cause)))
  const lines = text.split('\n')
  const unfinished = lines.pop() ?? ''
  const records = lines.map((line, index) => {
    const record = parseLine(line)
    if (record) return record
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${path}: line ${index + 1} is no metrics record; restore the file or remove the line`,
    )
  })
  const last = parseLine(unfinished)
  return last ? [...records, last] : records
}

/** Appends records to `metrics.jsonl`, each handed to the system at once. */
export class MetricsWriter {
  readonly path: string
  readonly #file: FileHandle

  private constructor(path: string, file: FileHandle) {
    this.path = path
    this.#file = file
  }

  /**
   * Opens the file of a new run, emptying it, or of a resumed one.
   * @param resumeAt step at which the run goes on: training records from it on are dropped, and evaluations after it
   * @throws SoftMoEError `ERR_FILE_WRITE`; `ERR_FILE_FORMAT` when a file to be resumed is damaged
   */
  static async open(path: string, resumeAt = 0): Promise<MetricsWriter> {
    const kept = resumeAt > 0 ? (await readMetrics(path)).filter((record) => isBefore(record, resumeAt)) : []
    await writeTextAtomically(path, kept.map(toLine).join(''))
    const file = await open(path, 'a').catch((cause: unknown) => Promise.reject(writeError(path, cause)))
    return new MetricsWriter(path, file)
  }

  /** Appends one record. Await it before the next. */
  async write(record: MetricsRecord): Promise<void> {
    try {
      await this.#file.appendFile(toLine(record))
    } catch (cause) {
      throw writeError(this.path, cause)
    }
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}

/** An evaluation at step k saw the model before step k was trained: it belongs to the part that is kept. */
function isBefore({ kind, step }: MetricsRecord, resumeAt: number): boolean {
  return kind === 'train' ? step < resumeAt : step <= resumeAt
}
