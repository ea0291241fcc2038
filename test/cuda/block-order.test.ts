// Two training steps of whole models, and what they do not reach (products by wgmma, long attention heads), in
// processes of their own: whatever the order of blocks and warps and whatever the number of multiprocessors, the same
// bits. All checkers of the emulated driver are on.
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

/** Prints digests of rows for wgmma, in groups of equal and of other sizes, and of attention, with their gradients. */
const rareKernels = `
  import { createHash } from 'node:crypto'
  const lib = await import(${JSON.stringify(libraryUrl)})
  const device = lib.openDevice('cuda')
  let stream = 0
  const leaf = (shape, dtype) =>
    device.tensor(device.normal(shape, { dtype, key: { seed: 1, stream: ++stream } }).dataSync(), shape, { dtype, requiresGrad: true })
  async function digest(name, leaves, forward) {
    const tape = new lib.Tape()
    const [loss, y] = tape.record(() => {
      const y = forward(...leaves)
      return [lib.crossEntropy(lib.reshape(y, [y.size / 8, 8]), new Int32Array(y.size / 8)), y]
    })
    tape.backward(loss)
    const hash = createHash('sha256').update(await y.data())
    for (const { grad } of leaves) hash.update(await grad.data())
    console.log(name, hash.digest('hex'))
  }
  await digest('linear', [leaf([300, 72], 'bfloat16'), leaf([72, 136], 'bfloat16')], (x, w) => lib.linear(x, w))
  const router = lib.tokensChoice({ k: 2, capacityFactor: 2, noiseStd: 0 })
  const sparse = new lib.SparseMoE(
    { dim: 64, hiddenDim: 72, numExperts: 3, router },
    { device, dtype: 'bfloat16', random: new lib.RandomSource(4) },
  )
  await digest('experts', [leaf([1, 256, 64], 'bfloat16')], (x) => sparse.forward(x))
  for (const dtype of ['float32', 'bfloat16']) {
    const leaves = [70, 50, 50].map((rows) => leaf([1, rows, 2, 192], dtype))
    await digest('attention', leaves, (q, k, v) => lib.attention(q, k, v, { dropoutRate: 0.1 }))
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

it('products by wgmma and long attention heads do not depend on the order of blocks and warps', async () => {
  const run = (env: Readonly<Record<string, string>>) =>
    runModule(rareKernels, { env: { SOFTMOE_CUDA_WGMMA: '1', ...env }, timeoutMs: 280_000 })
  const ascending = await run({ SOFTMOE_EMULATOR_SEED: '0' })
  expect(ascending).toMatchObject({ code: 0, stderr: '' })
  expect(ascending.stdout).toMatch(
    /^linear [0-9a-f]{64}\nexperts [0-9a-f]{64}\n(attention [0-9a-f]{64}\n){2}$/,
  )
  for (const order of orders) {
    expect(await run(order)).toMatchObject({ code: 0, stdout: ascending.stdout, stderr: '' })
  }
  const debug = await run({ SOFTMOE_DEBUG: '1', SOFTMOE_EMULATOR_CHECKS: 'none' })
  for (const kernel of [
    'row_product_nn',
    'row_product_nt',
    'listed_row_product_nn',
    'column_product',
    'listed_column_product',
  ]) {
    expect(debug.stderr).toContain(`wide_${kernel}`)
  }
}, 300_000)
