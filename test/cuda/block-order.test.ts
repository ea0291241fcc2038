// Two training steps of whole models, in processes of their own: whatever the order of blocks and warps and whatever
// the number of multiprocessors, the same bits. All checkers of the emulated driver are on.
import { expect, it } from 'vitest'
import { libraryUrl, runModule } from '../support/child.js'

/** Prints a digest of logits, loss, gradient norm, parameters and the optimiser's state. */
const program = (router: string): string => `
  import { createHash } from 'node:crypto'
  const lib = await import(${JSON.stringify(libraryUrl)})
  const device = lib.openDevice('cuda')
  const config = { imageSize: 8, channels: 1, patchSize: 4, width: 40, depth: 2, numHeads: 2, mlpDim: 72 }
  for (const dtype of ['float32', 'bfloat16']) {
    const model = new lib.VisionTransformer(
      { ...config, numClasses: 3, dropoutRate: 0.1, attentionDropoutRate: 0.1, headBias: 0.1,
        moe: { router: ${router}, numExperts: 4, dropoutRate: 0.1 } },
      { device, dtype, random: new lib.RandomSource(3) },
    )
    const optimizer = new lib.AdamW(model.parameters(), { learningRate: 1e-2, weightDecay: 0.1, clipNorm: 1 })
    const images = device.normal([3, 8, 8, 1], { key: { seed: 1, stream: 1 } })
    const digest = createHash('sha256')
    for (let step = 0; step < 2; step++) {
      const { loss, gradientNorm } = await optimizer.step(() => {
        const { logits, auxiliaryLoss } = model.forwardWithLoss(images)
        const task = lib.crossEntropy(logits, Int32Array.of(0, 1, 2))
        return auxiliaryLoss === null ? task : lib.add(task, auxiliaryLoss)
      })
      digest.update(Float64Array.of(loss, gradientNorm))
    }
    digest.update(await model.forward(images).data())
    for (const [, parameter] of model.namedParameters()) digest.update(await parameter.value.data())
    for (const [, state] of optimizer.namedState()) digest.update(await state.data())
    console.log(dtype, digest.digest('hex'))
  }
`

const orders: readonly Readonly<Record<string, string>>[] = [
  { SOFTMOE_EMULATOR_SEED: '1' },
  { SOFTMOE_EMULATOR_SEED: '2' },
  { SOFTMOE_EMULATOR_SEED: '3', SOFTMOE_EMULATOR_MULTIPROCESSORS: '1' },
]

it.each(["'soft'", "{ name: 'tokens-choice', k: 2, capacityFactor: 1.05, batchPriority: true }"])(
  'a training step with the router %s does not depend on the order of blocks and warps',
  async (router) => {
    const text = program(router)
    const run = (env: Readonly<Record<string, string>>) => runModule(text, { env, timeoutMs: 280_000 })
    const ascending = await run({ SOFTMOE_EMULATOR_SEED: '0' })
    expect(ascending).toMatchObject({ code: 0, stderr: '' })
    expect(ascending.stdout).toMatch(/^float32 [0-9a-f]{64}\nbfloat16 [0-9a-f]{64}\n$/)
    for (const order of orders) {
      expect(await run(order)).toMatchObject({ code: 0, stdout: ascending.stdout, stderr: '' })
    }
  },
  300_000,
)
