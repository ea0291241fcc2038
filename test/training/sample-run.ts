import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Random } from '../../lib/core/random.js'
import type { ImageDataset } from '../../lib/data/dataset.js'
import { readEmbeddedFashionMnist } from '../../lib/data/open-dataset.js'
import { encodePng } from '../../lib/data/png.js'
import {
  writeEvaluation,
  type Evaluation,
  type IndexRouterPicture,
  type SamplePrediction,
  type SoftRouterPicture,
} from '../../lib/training/evaluation.js'
import { MetricsWriter } from '../../lib/training/metrics.js'

const GRID = 7
const TOKENS = GRID * GRID
const EXPERTS = 8
const SLOTS_PER_EXPERT = 2
const SLOTS = EXPERTS * SLOTS_PER_EXPERT

function normalised(values: readonly number[]): number[] {
  const sum = values.reduce((a, b) => a + b, 0)
  return values.map((value) => value / sum)
}

/** Slots that each look at a blob of patches. */
function softRouter(layer: number, samples: number, random: Random): SoftRouterPicture {
  let draw = layer * 100_000
  const logits = (): number[][] =>
    Array.from({ length: SLOTS }, () => {
      const [row, column, width] = [
        random.uniform(draw++) * GRID,
        random.uniform(draw++) * GRID,
        1 + random.uniform(draw++) * 3,
      ]
      return Array.from({ length: TOKENS }, (_, token) => {
        const distance = (Math.floor(token / GRID) - row) ** 2 + ((token % GRID) - column) ** 2
        return Math.exp(-distance / width) + 0.02
      })
    })
  const weights = Array.from({ length: samples }, logits)
  return {
    kind: 'soft',
    layer,
    router: 'soft',
    numExperts: EXPERTS,
    slotsPerExpert: SLOTS_PER_EXPERT,
    grid: [GRID, GRID],
    expertImportance: normalised(Array.from({ length: EXPERTS }, (_, expert) => 1 + random.uniform(expert))),
    tokenWeights: weights.flatMap((slots) => {
      const rows = slots.map(normalised)
      return Array.from({ length: TOKENS }, (_, token) => rows.reduce((sum, row) => sum + row[token], 0))
    }),
    samples: weights.map((slots, sample) => ({
      sample,
      dispatch: slots.map(normalised),
      combine: Array.from({ length: TOKENS }, (_, token) => normalised(slots.map((slot) => slot[token]))),
    })),
  }
}

function indexRouter(layer: number, samples: number, random: Random): IndexRouterPicture {
  return {
    kind: 'index',
    layer,
    router: 'tokens-choice',
    numExperts: EXPERTS,
    grid: [GRID, GRID],
    expertImportance: normalised(
      Array.from({ length: EXPERTS }, (_, expert) => 0.5 + random.uniform(expert)),
    ),
    droppedFraction: 0.082,
    histograms: {
      load: normalised(Array.from({ length: EXPERTS }, (_, expert) => 1 + random.uniform(expert))),
      importance: normalised(Array.from({ length: EXPERTS }, (_, expert) => 2 + random.uniform(expert))),
      expertsPerToken: [0.082, 0.3, 0.618],
      gates: normalised(Array.from({ length: 20 }, (_, bin) => random.uniform(40 + bin))),
    },
    samples: Array.from({ length: samples }, (_, sample) => ({
      sample,
      experts: Array.from({ length: TOKENS }, (__, token) => {
        const at = 7000 + sample * TOKENS + token
        return random.uniform(at) < 0.08 ? [] : [random.integer(at, EXPERTS), 0]
      }),
    })),
  }
}

function predictions(test: ImageDataset, count: number, random: Random): SamplePrediction[] {
  const { height, width } = test
  const imageSize = height * width
  return Array.from({ length: count }, (_, index) => {
    const label = test.labels[index]
    const likely = random.uniform(900 + index) < 0.8 ? label : (label + 2) % 10
    const pixels = test.images.slice(index * imageSize, (index + 1) * imageSize)
    return {
      index,
      label,
      probabilities: normalised(
        test.classNames.map((__, guess) => (guess === likely ? 5 : random.uniform(index * 10 + guess))),
      ),
      png: encodePng({ pixels, height, width, channels: 1 }).toString('base64'),
    }
  })
}

/** What the made-up run is like. */
export interface SampleRun {
  readonly seed: number
  readonly steps?: number
  readonly router?: 'soft' | 'index' | 'dense'
  readonly finalAccuracy?: number
}

/** Writes a made-up but plausible run into a folder: metrics, evaluation and configuration. */
export async function writeSampleRun(folder: string, options: SampleRun): Promise<Evaluation> {
  const { seed, steps = 600, router = 'soft', finalAccuracy = 0.87 } = options
  const random = new Random(seed, 0)
  const metrics = await MetricsWriter.open(join(folder, 'metrics.jsonl'))
  for (let step = 0; step < steps; step++) {
    const progress = 1 - Math.exp((-5 * step) / steps)
    await metrics.write({
      kind: 'train',
      step,
      epoch: (step * 128) / 8000,
      loss: 2.3 - 1.95 * progress + 0.12 * random.normal(step),
      accuracy: Math.min(1, 0.1 + (finalAccuracy - 0.08) * progress + 0.03 * random.normal(step + steps)),
      learningRate: 1e-3 * Math.min(1, step / 50) * 0.5 * (1 + Math.cos((Math.PI * step) / steps)),
      gradNorm: step === 37 ? Number.NaN : 1 + Math.exp(0.4 * random.normal(step + 3 * steps)),
      imagesPerSecond: 2900 + 60 * random.normal(step + 5 * steps),
      seconds: step * 0.45,
    })
    if ((step + 1) % 100 === 0) {
      const accuracy = 0.1 + (finalAccuracy - 0.1) * progress
      await metrics.write({
        kind: 'eval',
        step: step + 1,
        epoch: step / 62,
        loss: 2.35 - 1.9 * progress,
        accuracy,
        images: 2000,
        seconds: step * 0.45,
      })
      if (router !== 'dense') {
        const layers = [2, 3].map((layer) => ({
          layer,
          router,
          metrics: {
            dispatchEntropy: 3.8 - progress * (0.4 + 0.2 * layer),
            expertImbalance: 0.2 * layer * progress,
          },
          ...(router === 'index' && {
            histograms: { load: [0.6, 0.4], importance: [0.5, 0.5], expertsPerToken: [0, 1], gates: [0, 1] },
          }),
        }))
        await metrics.write({ kind: 'router', step: step + 1, layers })
      }
    }
  }
  await metrics.close()
  const { test } = await readEmbeddedFashionMnist()
  const classes = test.classNames.length
  const evaluation: Evaluation = {
    dataset: test.name,
    classNames: test.classNames,
    images: 2000,
    loss: 0.41,
    accuracy: finalAccuracy,
    millisecondsPerImage: 0.318,
    confusion: Array.from({ length: classes }, (_, row) =>
      Array.from({ length: classes }, (__, column) =>
        row === column
          ? Math.round(200 * (finalAccuracy - 0.15 * random.uniform(50 + row)))
          : Math.floor(random.uniform(5000 + row * 10 + column) ** 5 * 40),
      ),
    ),
    samples: predictions(test, 14, random),
    routers:
      router === 'dense'
        ? []
        : [2, 3].map((layer) =>
            router === 'soft' ? softRouter(layer, 4, random) : indexRouter(layer, 4, random),
          ),
  }
  await writeEvaluation(join(folder, 'evaluation.json'), evaluation)
  const configuration = { model: { dim: 64, depth: 4 }, router, steps, batchSize: 128, seed }
  writeFileSync(join(folder, 'configuration.json'), JSON.stringify(configuration))
  return evaluation
}
