/**
 * What a run's folder holds:
 *
 *     configuration.json             everything that the run depends on
 *     metrics.jsonl                  one object a step
 *     checkpoints/step-00001240.safetensors   the last few; the newest is what --resume goes on from
 *     model.safetensors              the trained model, when the run is complete
 *     evaluation.json, report.html   what it does on the test set
 */
import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { SoftMoEError } from '../core/errors.js'
import { fileError } from '../data/files.js'
import { writeError } from './atomic-file.js'
import { makeFolder } from './make-folder.js'

/** Paths in a run's folder. */
export class RunFolder {
  readonly path: string
  readonly configuration: string
  readonly metrics: string
  readonly model: string
  readonly evaluation: string
  readonly report: string
  readonly #checkpoints: string

  constructor(path: string) {
    this.path = path
    this.configuration = join(path, 'configuration.json')
    this.metrics = join(path, 'metrics.jsonl')
    this.model = join(path, 'model.safetensors')
    this.evaluation = join(path, 'evaluation.json')
    this.report = join(path, 'report.html')
    this.#checkpoints = join(path, 'checkpoints')
  }

  /** Makes the folders. @throws (rejects) `ERR_FILE_WRITE` */
  async create(): Promise<void> {
    await makeFolder(this.#checkpoints).catch((cause: unknown) =>
      Promise.reject(writeError(this.path, cause)),
    )
  }

  /** The file of a checkpoint. @param steps - steps done */
  checkpoint(steps: number): string {
    return join(this.#checkpoints, `step-${String(steps).padStart(8, '0')}.safetensors`)
  }

  /** The checkpoints that are there, oldest first. */
  async checkpoints(): Promise<readonly string[]> {
    const names = await readdir(this.#checkpoints).catch(() => [])
    const found = names.flatMap((name) => {
      const match = /^step-(\d+)\.safetensors$/.exec(name)
      return match === null ? [] : [{ name, steps: Number(match[1]) }]
    })
    return found.sort((a, b) => a.steps - b.steps).map(({ name }) => join(this.#checkpoints, name))
  }

  /** The newest checkpoint, or undefined. */
  async lastCheckpoint(): Promise<string | undefined> {
    return (await this.checkpoints()).at(-1)
  }

  /** Removes all but the last few checkpoints. */
  async prune(keep: number): Promise<void> {
    const all = await this.checkpoints()
    for (const path of all.slice(0, Math.max(0, all.length - keep))) await remove(path)
  }

  /** Removes what a run has left: checkpoints, model, evaluation and report. */
  async clear(): Promise<void> {
    await this.prune(0)
    for (const path of [this.model, this.evaluation, this.report]) await remove(path)
  }

  /** Whether a run has left a checkpoint or a model here. */
  async holdsRun(): Promise<boolean> {
    return (await this.lastCheckpoint()) !== undefined || (await exists(this.model))
  }
}

async function remove(path: string): Promise<void> {
  await rm(path, { force: true }).catch((cause: unknown) => Promise.reject(writeError(path, cause)))
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/**
 * The model file that a path stands for: itself, or of a run's folder the finished model, else the newest checkpoint.
 * @throws (rejects) `ERR_FILE_NOT_FOUND`
 */
export async function findModelFile(path: string): Promise<string> {
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    (cause: unknown) => Promise.reject(fileError(path, cause)),
  )
  if (!isFolder) return path
  const folder = new RunFolder(path)
  if (await exists(folder.model)) return folder.model
  const last = await folder.lastCheckpoint()
  if (last !== undefined) return last
  throw new SoftMoEError(
    'ERR_FILE_NOT_FOUND',
    `${path} holds no model and no checkpoint; give the folder of a run, or train one with softmoe train`,
  )
}
