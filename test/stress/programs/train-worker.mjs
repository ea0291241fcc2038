// A worker thread that makes models and trains them until it is terminated, or as its `ending` says.
import process from 'node:process'
import { parentPort, workerData } from 'node:worker_threads'
import { createHash } from 'node:crypto'

const { url, ending, steps, run } = workerData
const { AdamW, crossEntropy, openDevice, RandomSource, scope, VisionTransformer } = await import(url)
const device = openDevice('cpu')

/** Trains one model some steps and returns a digest of its parameters. */
export async function trainOne({ router, dtype, seed }, count) {
  const moe = { router, numExperts: 4 }
  const random = new RandomSource(seed)
  const model = new VisionTransformer(
    {
      imageSize: 16,
      channels: 1,
      patchSize: 4,
      width: 32,
      depth: 2,
      numHeads: 2,
      mlpDim: 64,
      numClasses: 4,
      dropoutRate: 0.1,
      moe,
    },
    { device, dtype, random },
  )
  const optimizer = new AdamW(model.parameters(), { learningRate: 1e-3, clipNorm: 1 })
  const labels = Int32Array.from({ length: 8 }, (_, i) => i % 4)
  for (let step = 0; step < count; step++) {
    const images = device.normal([8, 16, 16, 1], { key: { seed, stream: 1_000_000 + step } })
    await optimizer.step(() => crossEntropy(model.forward(images), labels))
    images.dispose()
    // Some tensors are left to the garbage collector, and some work is never awaited.
    if (step % 5 === 0) scope(() => device.ones([64, 64]))
    if (step % 7 === 0) device.ones([16, 16])
  }
  const hash = createHash('sha256')
  for (const [, { value }] of model.namedParameters())
    hash.update(new Uint8Array((await value.data()).buffer))
  optimizer.dispose()
  model.dispose()
  return hash.digest('hex')
}

if (ending === 'digest') {
  parentPort.postMessage(await trainOne(run, steps))
} else if (ending === 'throw') {
  await trainOne(run, steps)
  throw new Error('on purpose')
} else if (ending === 'exit') {
  void trainOne(run, 1000)
  await trainOne(run, steps)
  process.exit(17)
} else {
  for (;;) await trainOne(run, steps)
}
