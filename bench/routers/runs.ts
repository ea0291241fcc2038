/** One run of the study: a system trained with a seed, in a folder of its own from which it can go on. */
import { join } from 'node:path'
import { readEvaluation, readMetrics, SoftMoEError } from '../../lib/index.js'
import { train } from '../../lib/training/fit.js'
import { RunFolder } from '../../lib/training/run-folder.js'
import type { Result } from './results.js'
import { MODEL, NUM_EXPERTS, type System, TRAINING } from './systems.js'

/** What is the same for all runs of a study. */
export interface StudySettings {
  /** Folder of the data set; null: Fashion-MNIST, the full one where it is installed. */
  readonly data: string | null
  readonly steps: number
  readonly model: typeof MODEL
  readonly numExperts: number
  readonly training: typeof TRAINING
}

/** The settings of a study of the present systems. */
export function studySettings(data: string | null, steps: number): StudySettings {
  return { data, steps, model: MODEL, numExperts: NUM_EXPERTS, training: TRAINING }
}

export function runFolder(out: string, system: System, seed: number): RunFolder {
  return new RunFolder(join(out, system.name, `seed-${seed}`))
}

/** What a complete run left, or null. */
export async function readRun(out: string, system: System, seed: number): Promise<Result | null> {
  const folder = runFolder(out, system, seed)
  try {
    const { accuracy, loss } = await readEvaluation(folder.evaluation)
    const records = await readMetrics(folder.metrics)
    const layers = records.findLast((record) => record.kind === 'router')?.layers ?? []
    const dropped = layers.flatMap(({ metrics }) => metrics.droppedFraction ?? [])
    return {
      system: system.name,
      placesPerToken: system.placesPerToken,
      seed,
      accuracy,
      loss,
      droppedFraction: dropped.length === 0 ? null : dropped.reduce((a, b) => a + b) / dropped.length,
    }
  } catch (error) {
    if (SoftMoEError.is(error) && error.code === 'ERR_FILE_NOT_FOUND') return null
    throw error
  }
}

/** How a process runs what it is given. */
export interface RunOptions {
  readonly out: string
  readonly settings: StudySettings
  readonly threads?: number | undefined
  readonly checkpointEvery: number
}

/** Trains a system, from its last checkpoint if it has one. Returns false when the signal stopped it. */
export async function completeRun(
  system: System,
  seed: number,
  { out, settings, threads, checkpointEvery }: RunOptions,
  signal: AbortSignal,
): Promise<boolean> {
  const folder = runFolder(out, system, seed)
  const resume = (await folder.lastCheckpoint()) !== undefined
  const result = await train({
    ...settings.training,
    out: folder.path,
    model: settings.model,
    router: system.router,
    numExperts: system.router === 'dense' ? undefined : settings.numExperts,
    data: settings.data ?? undefined,
    steps: settings.steps,
    seed,
    threads,
    resume,
    overwrite: !resume,
    evalEvery: settings.steps,
    checkpointEvery,
    keep: 1,
    signal,
  })
  result.model.dispose()
  return result.complete
}
