/** A whole training run: data, model, optimiser, evaluations, checkpoints, metrics and report. */
import { requireObject } from '../core/arguments.js'
import { openDevice, setThreads, type Device } from '../core/device.js'
import { SoftMoEError } from '../core/errors.js'
import { RandomSource } from '../core/random-source.js'
import { setDetectAnomaly } from '../core/tape.js'
import type { DatasetSplit } from '../data/dataset.js'
import { loadImages } from '../data/loader.js'
import { VisionTransformer } from '../models/vision-transformer.js'
import { hasNonFinite } from '../ops/elementwise.js'
import { AdamW } from '../optim/adamw.js'
import { kernelDecay } from '../optim/rules.js'
import { warmupCosine } from '../optim/schedules.js'
import { writeTextAtomically } from './atomic-file.js'
import { loadCheckpoint, readCheckpointInfo, saveCheckpoint } from './checkpoint.js'
import {
  CONFIGURATION_KEY,
  configureRun,
  parseConfiguration,
  resumeConfiguration,
  type RunConfiguration,
  type TrainOptions,
} from './configuration.js'
import { openRunData } from './data-choice.js'
import { DEFAULTS } from './defaults.js'
import { evaluate, measureRouters, testModel, type TestResult } from './evaluate.js'
import { writeEvaluation, type Evaluation } from './evaluation.js'
import { MetricsWriter, type EvalRecord, type TrainRecord } from './metrics.js'
import { writeReport } from './report.js'
import { RunFolder } from './run-folder.js'
import { queueStep, type QueuedStep } from './train-step.js'

/** What a run starts with. */
export interface RunStart {
  readonly out: string
  readonly configuration: RunConfiguration
  readonly device: Device
  /** Trained scalars of the model. */
  readonly parameters: number
  readonly testImages: number
  /** Steps done before, by the run that goes on. */
  readonly steps: number
}

/** Called while a run lasts. */
export interface TrainHooks {
  readonly onStart?: (start: RunStart) => void
  readonly onStep?: (record: TrainRecord) => void
  readonly onEvaluation?: (record: EvalRecord) => void
  readonly onCheckpoint?: (path: string) => void
}

/** What a run leaves. */
export interface TrainResult {
  readonly out: string
  readonly configuration: RunConfiguration
  /** The trained model; dispose of it when you are done with it. */
  readonly model: VisionTransformer
  /** Steps done. */
  readonly steps: number
  /** False when the run was stopped by its signal: go on with `resume`. */
  readonly complete: boolean
  /** The newest checkpoint. */
  readonly checkpoint: string
  /** On the test set, at the end of a complete run. */
  readonly evaluation: Evaluation | null
  /** The page of pictures of a complete run. */
  readonly report: string | null
}

/** Images on which the routers' numbers are measured at each evaluation. */
const ROUTER_IMAGES = 32
const SECONDS_KEY = 'seconds'

/**
 * Trains a vision transformer on images and writes metrics, checkpoints, the model and a report into a folder.
 *
 * @example
 * const run = await train({ out: 'runs/a', router: 'soft' })
 * console.log(run.evaluation?.accuracy, run.report)
 *
 * @throws (rejects) `ERR_INVALID_ARGUMENT` for options; `ERR_FILE_…` for data sets and folders; `ERR_NON_FINITE` when
 * training diverges; `ERR_CHECKPOINT_MISMATCH`, `ERR_FILE_NOT_FOUND` for `resume`
 */
export async function train(options: TrainOptions = {}, hooks: TrainHooks = {}): Promise<TrainResult> {
  requireObject('the options of train', options)
  requireObject('the hooks of train', hooks)
  const folder = new RunFolder(options.out ?? DEFAULTS.out)
  const resumeFrom = await checkpointToResume(folder, options)
  const data = await openData(options.data, resumeFrom)
  const configuration =
    resumeFrom === undefined
      ? await configureRun(options, data)
      : await resumeConfiguration(resumeFrom.configuration, options, data)
  if (options.threads !== undefined) setThreads(options.threads)
  const device = typeof options.device === 'object' ? options.device : openDevice(options.device ?? 'auto')
  setDetectAnomaly(options.detectAnomaly ?? false)
  const run = new Run(configuration, data, device, folder)
  try {
    await folder.create()
    if (resumeFrom === undefined) await folder.clear()
    return await run.complete(options, hooks, resumeFrom)
  } catch (error) {
    run.model.dispose()
    throw error
  } finally {
    run.optimizer.dispose()
    setDetectAnomaly(false)
  }
}

interface ResumePoint {
  readonly path: string
  readonly steps: number
  readonly seconds: number
  readonly configuration: RunConfiguration
}

async function checkpointToResume(
  folder: RunFolder,
  options: TrainOptions,
): Promise<ResumePoint | undefined> {
  const path = await folder.lastCheckpoint()
  if (options.resume !== true) {
    if (options.overwrite !== true && (await folder.holdsRun())) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `${folder.path} holds a run already; go on with it by --resume, replace it by --overwrite, or choose another ` +
          'folder by --out (options of the same names in code)',
      )
    }
    return undefined
  }
  if (path === undefined) {
    throw new SoftMoEError(
      'ERR_FILE_NOT_FOUND',
      `${folder.path} holds no checkpoint to resume; start the run without --resume`,
    )
  }
  const { steps, metadata } = await readCheckpointInfo(path)
  return {
    path,
    steps,
    seconds: Number(metadata.get(SECONDS_KEY) ?? 0),
    configuration: parseConfiguration(path, metadata.get(CONFIGURATION_KEY)),
  }
}

async function openData(
  data: TrainOptions['data'],
  resumeFrom: ResumePoint | undefined,
): Promise<DatasetSplit> {
  if (typeof data === 'object') return data
  if (data !== undefined || resumeFrom === undefined) return openRunData(data)
  const { configuration } = resumeFrom
  return openRunData(configuration.data ?? undefined, configuration.dataset)
}

class Run {
  readonly model: VisionTransformer
  readonly optimizer: AdamW
  readonly #configuration: RunConfiguration
  readonly #data: DatasetSplit
  readonly #folder: RunFolder
  /** Seconds trained before this process, and when this one began, in milliseconds. */
  #secondsBefore = 0
  #startedAt = 0
  #lastSettled = 0

  constructor(configuration: RunConfiguration, data: DatasetSplit, device: Device, folder: RunFolder) {
    const { model, precision, seed, learningRate, warmupSteps, steps, weightDecay, clipNorm } = configuration
    this.#configuration = configuration
    this.#data = data
    this.#folder = folder
    this.model = new VisionTransformer(model, { device, dtype: precision, random: new RandomSource(seed) })
    this.optimizer = new AdamW(this.model.parameters(), {
      learningRate: warmupCosine(learningRate, warmupSteps, steps),
      weightDecay: kernelDecay(weightDecay),
      clipNorm,
    })
  }

  async complete(
    options: TrainOptions,
    hooks: TrainHooks,
    resumeFrom: ResumePoint | undefined,
  ): Promise<TrainResult> {
    const { model, optimizer } = this
    const configuration = this.#configuration
    if (resumeFrom !== undefined) {
      await loadCheckpoint(resumeFrom.path, this)
      this.#secondsBefore = resumeFrom.seconds
    }
    await writeTextAtomically(this.#folder.configuration, `${JSON.stringify(configuration, null, 2)}\n`)
    const metrics = await MetricsWriter.open(this.#folder.metrics, optimizer.steps)
    try {
      hooks.onStart?.({
        out: this.#folder.path,
        configuration,
        device: model.device,
        parameters: model.parameterCount(),
        testImages: this.#data.test.count,
        steps: optimizer.steps,
      })
      await this.#steps(options, hooks, metrics)
    } finally {
      await metrics.close()
    }
    const complete = optimizer.steps >= configuration.steps
    const { evaluation, report } = complete ? await this.#finish() : { evaluation: null, report: null }
    return {
      out: this.#folder.path,
      configuration,
      model,
      steps: optimizer.steps,
      complete,
      checkpoint: this.#folder.checkpoint(optimizer.steps),
      evaluation,
      report,
    }
  }

  async #steps(options: TrainOptions, hooks: TrainHooks, metrics: MetricsWriter): Promise<void> {
    const { batchSize, seed, augment, normalisation, steps, labelSmoothing } = this.#configuration
    const { model, optimizer } = this
    const start = optimizer.steps
    if (start >= steps) return
    const loader = loadImages(this.#data.train, {
      batchSize,
      seed,
      augment,
      normalisation,
      start,
      end: steps,
      dropLast: true,
    })
    const {
      evalEvery = loader.stepsPerEpoch,
      checkpointEvery = evalEvery,
      keep = DEFAULTS.keep,
      signal,
    } = options
    const parts = { model, optimizer, labelSmoothing }
    this.#startedAt = this.#lastSettled = performance.now()
    const settle = async (step: QueuedStep): Promise<void> => {
      const record = await this.#settle(step, loader.stepsPerEpoch)
      await metrics.write(record)
      hooks.onStep?.(record)
    }
    let queued: QueuedStep | null = null
    for await (const batch of loader) {
      const step = queueStep(parts, batch)
      if (queued !== null) await settle(queued)
      queued = step
      const done = optimizer.steps
      const last = done === steps || signal?.aborted === true
      const evaluating = done % evalEvery === 0 || done === steps
      const saving = last || done % checkpointEvery === 0
      if (!evaluating && !saving) continue
      await settle(queued)
      queued = null
      if (evaluating) {
        const record = await this.#test(metrics, done / loader.stepsPerEpoch)
        hooks.onEvaluation?.(record)
      }
      if (saving) {
        const path = await this.#save(keep)
        hooks.onCheckpoint?.(path)
      }
      this.#lastSettled = performance.now()
      if (last) return
    }
  }

  async #settle(step: QueuedStep, stepsPerEpoch: number): Promise<TrainRecord> {
    const outcome = await step.outcome()
    const now = performance.now()
    const seconds = (now - this.#lastSettled) / 1000
    this.#lastSettled = now
    return {
      kind: 'train',
      step: step.batch.step,
      epoch: step.batch.step / stepsPerEpoch,
      ...outcome,
      imagesPerSecond: step.batch.count / seconds,
      seconds: this.#seconds(),
    }
  }

  #seconds(): number {
    return this.#secondsBefore + (performance.now() - this.#startedAt) / 1000
  }

  async #test(metrics: MetricsWriter, epoch: number): Promise<EvalRecord> {
    const { test } = this.#data
    const { normalisation, batchSize } = this.#configuration
    const result: TestResult = await testModel(this.model, test, { normalisation, batchSize })
    const step = this.optimizer.steps
    const { loss, accuracy, images } = result
    const record: EvalRecord = { kind: 'eval', step, epoch, loss, accuracy, images, seconds: this.#seconds() }
    await metrics.write(record)
    if (this.model.moeLayers().length > 0) {
      const layers = await measureRouters(this.model, test, { normalisation, samples: ROUTER_IMAGES })
      await metrics.write({ kind: 'router', step, layers })
    }
    return record
  }

  /**
   * A step whose loss and gradients are finite may still leave parameters that are not; such a checkpoint would push
   * out those from which the run can go on.
   */
  async #requireFiniteParameters(): Promise<void> {
    for (const [path, { value }] of this.model.namedParameters()) {
      if (!(await hasNonFinite(value))) continue
      throw new SoftMoEError(
        'ERR_NON_FINITE',
        `step ${this.optimizer.steps} left NaN or infinity in the parameter ${path}; checkpoints of earlier steps are ` +
          'kept: lower the learning rate or the weight decay',
      )
    }
  }

  async #save(keep: number): Promise<string> {
    await this.#requireFiniteParameters()
    const path = this.#folder.checkpoint(this.optimizer.steps)
    await saveCheckpoint(path, this, {
      [CONFIGURATION_KEY]: JSON.stringify(this.#configuration),
      [SECONDS_KEY]: String(this.#seconds()),
    })
    await this.#folder.prune(keep)
    return path
  }

  async #finish(): Promise<{ readonly evaluation: Evaluation; readonly report: string }> {
    const { normalisation, batchSize } = this.#configuration
    await saveCheckpoint(
      this.#folder.model,
      { model: this.model },
      { [CONFIGURATION_KEY]: JSON.stringify(this.#configuration) },
    )
    const evaluation = await evaluate(this.model, this.#data.test, { normalisation, batchSize })
    await writeEvaluation(this.#folder.evaluation, evaluation)
    await writeReport([this.#folder.path], this.#folder.report)
    return { evaluation, report: this.#folder.report }
  }
}
