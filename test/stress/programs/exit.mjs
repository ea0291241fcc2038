// Ends in one of many ways while the device works: exit.mjs URL WAY DELAY_MS, with the entry of the package.
import process from 'node:process'
import { setTimeout as after } from 'node:timers'
import { Worker } from 'node:worker_threads'

const [url, way, delay] = process.argv.slice(2)
const { AdamW, crossEntropy, linear, openDevice, VisionTransformer } = await import(url)
const device = openDevice('cpu')

/** Some tens of milliseconds of products. */
function products() {
  let x = device.ones([384, 384])
  for (let i = 0; i < 40; i++) x = linear(x, x)
  return x
}

/** Training that only stops with the process. */
async function train() {
  const moe = { router: 'tokens-choice', numExperts: 4 }
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
      moe,
    },
    { device },
  )
  const optimizer = new AdamW(model.parameters(), { learningRate: 1e-3 })
  const images = device.ones([8, 16, 16, 1])
  const labels = Int32Array.from({ length: 8 }, (_, i) => i % 4)
  for (;;) await optimizer.step(() => crossEntropy(model.forward(images), labels))
}

/** A worker thread that trains, too. */
function startWorker() {
  const program = `
    import { openDevice, linear } from ${JSON.stringify(url)}
    const device = openDevice('cpu')
    for (;;) { const x = device.ones([256, 256]); await linear(linear(x, x), x).data() }`
  return new Worker(new URL(`data:text/javascript,${encodeURIComponent(program)}`))
}

const later = (act) => after(act, Number(delay))

const ways = {
  end: () => products(),
  'end after results': () => products().data(),
  'exit at once': () => {
    products()
    process.exit(3)
  },
  'exit inside a callback': () => {
    void products().data()
    void products()
      .data()
      .then(() => process.exit(5))
    products()
  },
  'exit in training': () => {
    void train()
    later(() => process.exit(7))
  },
  'exit with a worker at work': () => {
    startWorker().unref()
    void train()
    later(() => process.exit(9))
  },
  'work queued while exiting': () => {
    process.on('exit', () => {
      products()
      process.exitCode = 11
    })
    products()
  },
  throw: () => {
    void products().data()
    later(() => {
      throw new Error('on purpose')
    })
  },
  'reject without a handler': () => {
    products()
    void products()
      .data()
      .then(() => {
        throw new Error('on purpose')
      })
  },
  SIGTERM: () => {
    void train()
    later(() => process.kill(process.pid, 'SIGTERM'))
  },
  SIGINT: () => {
    void train()
    later(() => process.kill(process.pid, 'SIGINT'))
  },
  'SIGTERM with a handler': () => {
    void train()
    process.on('SIGTERM', () => process.exit(13))
    later(() => process.kill(process.pid, 'SIGTERM'))
  },
}

ways[way]()
