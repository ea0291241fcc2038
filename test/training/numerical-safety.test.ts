// What training does with numbers that are not finite, and that bfloat16 needs no loss scaling.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import {
  AdamW,
  crossEntropy,
  type FloatDType,
  loadImages,
  openDevice,
  RandomSource,
  ROUTER_NAMES,
  type RouterName,
  SafetensorsFile,
  setDetectAnomaly,
  Tape,
  train,
  VisionTransformer,
} from '../../lib/index.js'
import { temporaryFolder } from '../data/temporary-folder.js'
import { TINY_MODEL, tinyData } from './tiny-run.js'

const device = openDevice('cpu')
const data = tinyData()
const BATCH = 8

function model(router: RouterName, dtype: FloatDType): VisionTransformer {
  const { dropoutRate, attentionDropoutRate, ...plain } = TINY_MODEL
  expect(dropoutRate + attentionDropoutRate).toBeGreaterThan(0)
  const moe = { router, numExperts: 2 }
  return new VisionTransformer(
    { ...plain, imageSize: 8, channels: 1, numClasses: 3, moe },
    { device, dtype, random: new RandomSource(1) },
  )
}

async function firstBatch(): Promise<{ images: Float32Array; labels: Int32Array }> {
  for await (const batch of loadImages(data.train, { batchSize: BATCH, worker: false })) return batch
  throw new Error('the loader has no batch')
}

afterEach(() => {
  setDetectAnomaly(false)
  vi.restoreAllMocks()
})

describe('a number that is not finite', () => {
  /** One step on a batch, after something was made infinite or NaN. */
  async function stepAfter(harm: (vit: VisionTransformer, images: Float32Array) => void): Promise<unknown> {
    const vit = model('soft', 'float32')
    const optimizer = new AdamW(vit.parameters(), { learningRate: 1e-3 })
    const { images, labels } = await firstBatch()
    harm(vit, images)
    try {
      return await optimizer
        .step(() => crossEntropy(vit.forward(device.tensor(images, [BATCH, 8, 8, 1])), labels))
        .catch((error: unknown) => error)
    } finally {
      optimizer.dispose()
      vit.dispose()
    }
  }

  const setFirst = (vit: VisionTransformer, path: string, value: number): void => {
    const parameter = vit.parameters().get(path)
    if (parameter === undefined)
      throw new Error(`no parameter ${path} in ${[...vit.parameters().keys()].join(' ')}`)
    const values = parameter.value.dataSync()
    values[0] = value
    parameter.set(values)
  }

  it.each([
    [
      'a NaN pixel',
      (_: VisionTransformer, images: Float32Array) => images.fill(Number.NaN, 70, 71),
      /^the output of patchify has 1 NaN or infinite elements of 512 \(operand 1 of shape \[8, 8, 8, 1\] held 1 already\)/,
    ],
    [
      'an infinite weight of an attention layer',
      (vit: VisionTransformer) =>
        setFirst(vit, 'Encoder/encoderblock_0/SelfAttention/query/kernel', Infinity),
      /^the output of linear has \d+ NaN or infinite elements of \d+ \(operand 2 of shape \[16, 16\] held 1 already\)/,
    ],
    [
      'a weight so large that the products overflow',
      (vit: VisionTransformer) => setFirst(vit, 'embedding/kernel', 3e38),
      /^the output of \w+ has \d+ NaN or infinite elements of \d+/,
    ],
    [
      'an infinite scale of the router',
      (vit: VisionTransformer) => setFirst(vit, 'Encoder/encoderblock_1/Moe/Router/scale', Infinity),
      /^the output of softMoe\w* has \d+ NaN or infinite elements of \d+ \(operand 3 of shape \[1\] held 1 already\)/,
    ],
  ])('is traced to the operation that made it, and to what it came from: %s', async (_, harm, message) => {
    expect(await stepAfter(harm)).toMatchObject({
      code: 'ERR_NON_FINITE',
      message: expect.stringMatching(
        /^step 1 gave the loss (NaN|Infinity) .*find the cause with setDetectAnomaly\(true\)$/,
      ) as string,
    })
    setDetectAnomaly(true)
    expect(await stepAfter(harm)).toMatchObject({
      code: 'ERR_NON_FINITE',
      message: expect.stringMatching(message) as string,
    })
  })

  it('in the parameters ends a run before it becomes a checkpoint', async () => {
    const out = temporaryFolder()
    // The bias is made infinite behind the third forward pass, where neither loss nor gradients meet it.
    const forward: VisionTransformer['forwardWithLoss'] = Reflect.get(
      VisionTransformer.prototype,
      'forwardWithLoss',
    )
    let passes = 0
    vi.spyOn(VisionTransformer.prototype, 'forwardWithLoss').mockImplementation(function (
      this: VisionTransformer,
      ...args
    ) {
      const result = forward.apply(this, args)
      if (++passes === 3) this.parameters().get('head/bias')?.set([Infinity, 0, 0])
      return result
    })
    const run = train({
      data,
      model: TINY_MODEL,
      batchSize: BATCH,
      steps: 8,
      evalEvery: 8,
      checkpointEvery: 1,
      keep: 1,
      device,
      out,
    })
    await expect(run).rejects.toMatchObject({
      code: 'ERR_NON_FINITE',
      message: expect.stringMatching(
        /^step 3 left NaN or infinity in the parameter head\/bias; checkpoints of earlier steps are kept/,
      ) as string,
    })
    const names = readdirSync(join(out, 'checkpoints'))
    expect(names).toEqual(['step-00000002.safetensors'])
    for (const name of names) {
      const file = await SafetensorsFile.open(join(out, 'checkpoints', name))
      for (const tensor of file.tensors.keys()) {
        expect((await file.readFloat32(tensor)).every(Number.isFinite)).toBe(true)
      }
      await file.close()
    }
  })
})

describe('bfloat16 without loss scaling', () => {
  /** Gradients of one batch with the loss times `factor`. */
  async function gradients(router: RouterName, factor: number): Promise<ReadonlyMap<string, Float32Array>> {
    const vit = model(router, 'bfloat16').eval()
    // The head starts as zeros, which would leave everything before it without gradients.
    const head = vit.parameters().get('head/kernel')
    head?.set(Float32Array.from({ length: head.value.size }, (_, i) => Math.sin(i + 1) / 4))
    const { images, labels } = await firstBatch()
    const tape = new Tape()
    const loss = tape.record(() => {
      const logits = vit.forward(device.tensor(images, [BATCH, 8, 8, 1]))
      return crossEntropy(logits, labels)
    })
    tape.backward(loss, factor)
    loss.dispose()
    const found = new Map<string, Float32Array>()
    for (const [path, { grad }] of vit.namedParameters()) {
      if (grad !== null) found.set(path, Float32Array.from(await grad.data()))
    }
    vit.dispose()
    return found
  }

  it.each(ROUTER_NAMES)('loses no bit of a gradient that is 2^-40 times as large: %s', async (router) => {
    const [whole, small] = [await gradients(router, 1), await gradients(router, 2 ** -40)]
    expect(whole.size).toBeGreaterThan(20)
    for (const [path, values] of whole) {
      expect(
        small.get(path)?.map((value) => value * 2 ** 40),
        path,
      ).toEqual(values)
    }
  })

  async function losses(router: RouterName, dtype: FloatDType, steps: number): Promise<number[]> {
    const vit = model(router, dtype)
    const optimizer = new AdamW(vit.parameters(), { learningRate: 3e-3, weightDecay: 0.01 })
    const curve: number[] = []
    for await (const { images, labels } of loadImages(data.train, {
      batchSize: BATCH,
      worker: false,
      end: steps,
    })) {
      const { loss } = await optimizer.step(() =>
        crossEntropy(vit.forward(device.tensor(images, [BATCH, 8, 8, 1])), labels),
      )
      curve.push(loss)
    }
    optimizer.dispose()
    vit.dispose()
    return curve
  }

  it.each(['soft', 'tokens-choice', 'experts-choice'] as const)(
    'trains as float32 does: %s',
    async (router) => {
      const steps = 100
      const [wide, narrow] = [await losses(router, 'float32', steps), await losses(router, 'bfloat16', steps)]
      const average = (values: readonly number[]): number =>
        values.reduce((sum, value) => sum + value, 0) / values.length
      const apart = average(wide.map((loss, i) => Math.abs(loss - narrow[i])))
      expect(apart).toBeGreaterThan(0)
      expect(apart).toBeLessThan(0.002)
      expect(average(narrow.slice(-10))).toBeLessThan(0.3 * average(narrow.slice(0, 10)))
    },
  )
})
