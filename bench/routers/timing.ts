/**
 * What a step of training and an image of inference cost: all systems in turn, round after round, so that whatever slows
 * the machine slows them alike. Medians are kept. Models that the study has trained are taken as they are at its end, for
 * what routing by index costs depends on how many tokens it drops.
 */
import {
  AdamW,
  noGrad,
  openDevice,
  RandomSource,
  scope,
  setThreads,
  VisionTransformer,
} from '../../lib/index.js'
import type { Batch } from '../../lib/data/batch.js'
import { channelStatistics, type ImageDataset } from '../../lib/data/dataset.js'
import { loadImages } from '../../lib/data/loader.js'
import { openDataset } from '../../lib/data/open-dataset.js'
import { loadCheckpoint } from '../../lib/training/checkpoint.js'
import { chooseModel } from '../../lib/training/model-choice.js'
import { queueStep } from '../../lib/training/train-step.js'
import type { StepTime } from './results.js'
import { readRun, runFolder, type StudySettings } from './runs.js'
import type { System } from './systems.js'

const WARM_UP_ROUNDS = 2
/** Too small to change what is measured from one round to the next. */
const LEARNING_RATE = 1e-6

async function firstBatch(dataset: ImageDataset, batchSize: number): Promise<Batch> {
  const plan = { batchSize, normalisation: channelStatistics(dataset), worker: false }
  for await (const batch of loadImages(dataset, plan)) return batch
  throw new Error('a data set without images')
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}

interface Subject {
  readonly system: string
  /** Forward pass, backward pass and update of one batch. */
  readonly step: () => Promise<void>
  /** Forward pass of one batch. */
  readonly infer: () => Promise<void>
  readonly stepTimes: number[]
  readonly inferTimes: number[]
}

async function prepare(
  system: System,
  batch: Batch,
  dataset: ImageDataset,
  out: string,
  { model: options, numExperts, training }: StudySettings,
): Promise<Subject> {
  const device = openDevice()
  const config = await chooseModel(
    {
      model: options,
      router: system.router,
      numExperts: system.router === 'dense' ? undefined : numExperts,
    },
    dataset,
  )
  const model = new VisionTransformer(config, {
    device,
    dtype: training.precision,
    random: new RandomSource(0),
  })
  if ((await readRun(out, system, 0)) !== null) {
    await loadCheckpoint(runFolder(out, system, 0).model, { model })
  }
  const optimizer = new AdamW(model.parameters(), {
    learningRate: LEARNING_RATE,
    clipNorm: training.clipNorm,
  })
  const { labelSmoothing } = training
  const { height, width, channels } = dataset
  const images = device.tensor(batch.images, [batch.count, height, width, channels])
  return {
    system: system.name,
    step: async () => {
      model.train()
      await queueStep({ model, optimizer, labelSmoothing }, batch).outcome()
    },
    infer: async () => {
      model.eval()
      noGrad(() => scope(() => void model.forward(images)))
      await device.synchronize()
    },
    stepTimes: [],
    inferTimes: [],
  }
}

/** Times of each system, in milliseconds. */
export async function measureTimes(
  systems: readonly System[],
  out: string,
  settings: StudySettings,
  rounds: number,
  threads: number | undefined,
): Promise<StepTime[]> {
  if (threads !== undefined) setThreads(threads)
  const { train: dataset } = await openDataset(settings.data ?? undefined)
  const batch = await firstBatch(dataset, settings.training.batchSize)
  const subjects: Subject[] = []
  for (const system of systems) subjects.push(await prepare(system, batch, dataset, out, settings))
  for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
    for (const { step, infer, stepTimes, inferTimes } of subjects) {
      const start = performance.now()
      await step()
      const between = performance.now()
      await infer()
      if (round < 0) continue
      stepTimes.push(between - start)
      inferTimes.push(performance.now() - between)
    }
  }
  return subjects.map(({ system, stepTimes, inferTimes }) => ({
    system,
    millisecondsPerStep: median(stepTimes),
    millisecondsPerImage: median(inferTimes) / batch.count,
  }))
}
