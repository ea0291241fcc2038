import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { TrainOptions } from '../../lib/training/configuration.js'
import { fewShotAccuracy } from '../../lib/training/few-shot.js'
import { train, type TrainResult } from '../../lib/training/fit.js'
import { loadModel } from '../../lib/training/load-model.js'
import { readMetrics, type MetricsRecord } from '../../lib/training/metrics.js'
import { classifyPictures } from '../../lib/training/predict.js'
import { temporaryFolder } from '../data/temporary-folder.js'
import { TINY_MODEL, tinyData } from './tiny-run.js'

const OPTIONS = {
  data: tinyData(),
  model: TINY_MODEL,
  batchSize: 8,
  steps: 10,
  evalEvery: 4,
  device: 'cpu',
  augment: { cropPadding: 1, flip: true, randAugment: {} },
} as const satisfies TrainOptions

async function parameters({ model }: TrainResult): Promise<number[][]> {
  const values = await Promise.all([...model.namedParameters()].map(([, { value }]) => value.data()))
  return values.map((one) => Array.from(one))
}

/** Records without what depends on the clock. */
function timeless(records: readonly MetricsRecord[]): object[] {
  return records.map((record) => ({ ...record, seconds: 0, imagesPerSecond: 0 }))
}

const refusal = (code: string, message: RegExp): unknown =>
  expect.objectContaining({ name: 'SoftMoEError', code, message: expect.stringMatching(message) as string })

describe('train', () => {
  it.each(['float32', 'bfloat16'] as const)(
    'in %s, stopped and resumed, equals the uninterrupted run bit for bit',
    async (precision) => {
      const [whole, parts] = [temporaryFolder(), temporaryFolder()]
      const uninterrupted = await train({ ...OPTIONS, precision, out: whole })
      const controller = new AbortController()
      const stopped = await train(
        { ...OPTIONS, precision, out: parts, signal: controller.signal },
        { onStep: ({ step }) => step === 4 && controller.abort() },
      )
      expect(stopped).toMatchObject({ complete: false, evaluation: null })
      expect(stopped.steps).toBeLessThan(10)
      const resumed = await train({
        data: OPTIONS.data,
        out: parts,
        resume: true,
        evalEvery: 4,
        device: 'cpu',
      })
      expect(resumed).toMatchObject({ complete: true, steps: 10 })
      expect(await parameters(resumed)).toEqual(await parameters(uninterrupted))
      expect(timeless(await readMetrics(join(parts, 'metrics.jsonl')))).toEqual(
        timeless(await readMetrics(join(whole, 'metrics.jsonl'))),
      )
    },
  )

  it('leaves configuration, metrics, the last checkpoints, model, evaluation and report', async () => {
    const out = temporaryFolder()
    const run = await train({ ...OPTIONS, out, checkpointEvery: 2, keep: 3 })
    expect(readdirSync(out).sort()).toEqual(
      [
        'checkpoints',
        'configuration.json',
        'evaluation.json',
        'metrics.jsonl',
        'model.safetensors',
        'report.html',
      ].sort(),
    )
    expect(readdirSync(join(out, 'checkpoints')).sort()).toEqual([
      'step-00000006.safetensors',
      'step-00000008.safetensors',
      'step-00000010.safetensors',
    ])
    expect(JSON.parse(readFileSync(join(out, 'configuration.json'), 'utf8'))).toMatchObject({
      dataset: 'bands',
      steps: 10,
      model: { numClasses: 3, imageSize: [8, 8], moe: { numExperts: 2 } },
    })
    const kinds = (await readMetrics(join(out, 'metrics.jsonl'))).map(({ kind, step }) => `${kind} ${step}`)
    expect(kinds.filter((kind) => kind.startsWith('train'))).toHaveLength(10)
    expect(kinds.filter((kind) => kind.startsWith('eval'))).toEqual(['eval 4', 'eval 8', 'eval 10'])
    expect(kinds.filter((kind) => kind.startsWith('router'))).toHaveLength(3)
    const { model, configuration } = await loadModel(out, { device: 'cpu' })
    const trained = await parameters(run)
    expect(await parameters({ ...run, model })).toEqual(trained)
    expect(configuration.classNames).toEqual(['top', 'middle', 'bottom'])
  })

  it.each(['dense', 'soft', 'identity', 'tokens-choice', 'experts-choice'] as const)(
    'learns the bands with the router %s, and predicts and few-shots with it',
    async (router) => {
      const { patchSize, width, depth, numHeads, mlpDim } = TINY_MODEL
      const run = await train({
        data: OPTIONS.data,
        model: { patchSize, width, depth, numHeads, mlpDim },
        router,
        ...(router === 'dense' ? {} : { numExperts: 2 }),
        batchSize: 16,
        steps: 60,
        learningRate: 5e-3,
        augment: {},
        evalEvery: 60,
        device: 'cpu',
        out: temporaryFolder(),
      })
      expect(run.evaluation?.accuracy).toBeGreaterThan(0.9)
      expect(run.evaluation?.routers).toHaveLength(router === 'dense' ? 0 : 1)
      const { normalisation } = run.configuration
      expect(await fewShotAccuracy(run.model, OPTIONS.data, { shots: 5, normalisation })).toBeGreaterThan(0.9)
      const pixels = OPTIONS.data.test.images.slice(0, 64)
      const [classes] = await classifyPictures(run, [{ pixels, height: 8, width: 8, channels: 1 }])
      expect(classes.map(({ className }) => className).sort()).toEqual(['bottom', 'middle', 'top'])
      expect(classes.reduce((sum, { probability }) => sum + probability, 0)).toBeCloseTo(1, 5)
    },
  )

  it.each([
    [false, /step \d+ gave the loss .* earlier steps are kept/],
    [true, /^the (output|gradient) of \w+ .*has \d+ NaN or infinite elements/],
  ])(
    'stops when training diverges, keeping checkpoints (detectAnomaly: %s)',
    async (detectAnomaly, message) => {
      const out = temporaryFolder()
      // Rate times decay over 2 makes the kernels grow without end.
      const run = train({
        ...OPTIONS,
        out,
        learningRate: 10,
        weightDecay: 10,
        steps: 60,
        evalEvery: 60,
        checkpointEvery: 2,
        detectAnomaly,
      })
      await expect(run).rejects.toEqual(refusal('ERR_NON_FINITE', message))
      expect(readdirSync(join(out, 'checkpoints'))).toHaveLength(2)
      expect(readdirSync(out)).not.toContain('model.safetensors')
    },
  )

  it.each([
    [{ steps: 5, epochs: 1 }, /5 steps and 1 epochs were given/],
    [{ batchSize: 49 }, /batchSize is 49, but bands has only 48/],
    [{ learningRate: Number.NaN }, /learningRate is NaN/],
    [{ model: 'S/99' }, /the model is 'S\/99'; give tiny/],
    [
      { model: { ...TINY_MODEL, numClasses: 7 } },
      /states 7 classes, but bands has images of 8 × 8 .* 3 classes/,
    ],
    [{ model: { ...TINY_MODEL, widht: 3 } as never }, /no field widht; did you mean width/],
    [{ model: { ...TINY_MODEL, patchSize: 3 } }, /patches of 3 pixels do not tile/],
    [{ router: 'dens' as never }, /did you mean dense/],
    [{ router: 'dense', numExperts: 4 }, /a dense model has neither experts nor slots/],
    [{ router: 'tokens-choice', slotsPerExpert: 4 }, /has no slots/],
  ] as const)('refuses %j', async (change, message) => {
    const { steps, ...options } = OPTIONS
    const run = train({
      ...options,
      ...('epochs' in change ? {} : { steps }),
      ...change,
      out: temporaryFolder(),
    })
    await expect(run).rejects.toEqual(refusal('ERR_INVALID_ARGUMENT', message))
  })

  it('refuses a folder that holds a run, and a resume that contradicts it', async () => {
    const out = temporaryFolder()
    await expect(train({ ...OPTIONS, out, resume: true })).rejects.toEqual(
      refusal('ERR_FILE_NOT_FOUND', /holds no checkpoint to resume/),
    )
    await train({ ...OPTIONS, steps: 2, out })
    await expect(train({ ...OPTIONS, out })).rejects.toEqual(
      refusal('ERR_INVALID_ARGUMENT', /holds a run already.*--resume.*--overwrite/),
    )
    await expect(train({ data: OPTIONS.data, out, resume: true, seed: 4 })).rejects.toEqual(
      refusal('ERR_INVALID_ARGUMENT', /seed is 4, but the run to resume has 0/),
    )
    await expect(train({ data: OPTIONS.data, out, resume: true, router: 'dense' })).rejects.toEqual(
      refusal('ERR_INVALID_ARGUMENT', /the model is .*but the run to resume has/),
    )
    const longer = await train({ data: OPTIONS.data, out, resume: true, steps: 4, device: 'cpu' })
    expect(longer).toMatchObject({ steps: 4, complete: true })
    await train({ ...OPTIONS, steps: 1, out, overwrite: true })
    expect(readdirSync(join(out, 'checkpoints'))).toEqual(['step-00000001.safetensors'])
  })
})
