// Fails each allocation of the addon (under the shim of fail_calls.c) or each call of the emulated CUDA driver in turn,
// for a forward pass, a training step and a checkpoint, and looks at what comes of it. failing-calls.mjs URL DEVICE KIND STRIDE,
// with the file that is shared with the shim or the driver in SOFTMOE_FAIL_CALLS; prints one JSON object a task.
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setImmediate } from 'node:timers'

const [url, deviceName, kindName, strideText] = process.argv.slice(2)
const CUDA_ERROR_UNKNOWN = 999
const KINDS = { aligned_alloc: 1, malloc: 2, driver: CUDA_ERROR_UNKNOWN }
const CODES =
  kindName === 'driver' ? ['ERR_DRIVER', 'ERR_FILE_WRITE'] : ['ERR_OUT_OF_MEMORY', 'ERR_NON_FINITE']
const stride = Number(strideText)
const {
  AdamW,
  crossEntropy,
  noGrad,
  openDevice,
  RandomSource,
  saveCheckpoint,
  scope,
  SoftMoEError,
  VisionTransformer,
} = await import(url)
const device = openDevice(deviceName)

const control = openSync(process.env.SOFTMOE_FAIL_CALLS, 'r+')
const watch = (kind, before, failing) =>
  writeSync(control, new BigInt64Array([kind, before, failing, 0].map(BigInt)), 0, 32, 0)
const calls = () => {
  const numbers = new BigInt64Array(4)
  readSync(control, numbers, 0, 32, 0)
  return Number(numbers[3])
}

const folder = mkdtempSync(join(tmpdir(), 'softmoe-allocations-'))
const labels = Int32Array.from({ length: 4 }, (_, i) => i % 3)
const pixels = Float32Array.from({ length: 4 * 64 }, (_, i) => Math.sin(i))

function parts() {
  const moe = { router: 'soft', numExperts: 2 }
  const model = new VisionTransformer(
    {
      imageSize: 8,
      channels: 1,
      patchSize: 4,
      width: 16,
      depth: 2,
      numHeads: 2,
      mlpDim: 32,
      numClasses: 3,
      moe,
    },
    { device, random: new RandomSource(1) },
  )
  return { model, optimizer: new AdamW(model.parameters(), { learningRate: 1e-3, clipNorm: 1 }) }
}

const digest = (values) => Buffer.from(values.buffer).toString('base64')

/** Each returns what it computed, as text. */
const tasks = {
  'a forward pass': async ({ model }) => {
    const logits = noGrad(() => scope(() => model.forward(device.tensor(pixels, [4, 8, 8, 1]))))
    try {
      return digest(await logits.data())
    } finally {
      logits.dispose()
    }
  },
  'a training step': async ({ model, optimizer }) => {
    const { loss, gradientNorm } = await optimizer.step(() =>
      crossEntropy(model.forward(device.tensor(pixels, [4, 8, 8, 1])), labels),
    )
    const values = await Promise.all([...model.namedParameters()].map(([, { value }]) => value.data()))
    return `${loss} ${gradientNorm} ${values.map(digest).join(' ')}`
  },
  'a checkpoint': async ({ model, optimizer }) => {
    await saveCheckpoint(join(folder, 'checkpoint.safetensors'), { model, optimizer })
    return 'saved'
  },
}

async function attempt(task, kind, before, failing) {
  const made = parts()
  await device.synchronize()
  device.emptyCache()
  await device.synchronize()
  const outcome = { text: undefined, error: undefined, calls: 0 }
  watch(kind, before, failing)
  try {
    outcome.text = await task(made)
  } catch (error) {
    outcome.error = error
  }
  outcome.calls = calls()
  watch(0, 0, 0)
  // What the stream still does of the task may fail after its first error was told.
  await device.synchronize().catch(() => undefined)
  made.optimizer.dispose()
  for (const parameter of made.model.parameters().values()) parameter.zeroGrad()
  made.model.dispose()
  return outcome
}

for (const [name, task] of Object.entries(tasks)) {
  const kind = KINDS[kindName]
  await attempt(task, kind, 1e9, 0)
  const wanted = await attempt(task, kind, 1e9, 0)
  const result = { name, calls: wanted.calls, faults: 0, refused: 0, unnoticed: 0, wrong: [] }
  for (const failing of [1, 1e9]) {
    for (let before = 0; before < wanted.calls; before += stride) {
      const { text, error } = await attempt(task, kind, before, failing)
      result.faults += 1
      const told = SoftMoEError.is(error) && CODES.includes(error.code)
      if (told) result.refused += 1
      else if (error === undefined && text === wanted.text) result.unnoticed += 1
      else
        result.wrong.push(
          `call ${before} of ${failing}: ${error === undefined ? 'another result' : String(error.stack)}`,
        )
      const after = await attempt(task, kind, 1e9, 0)
      if (after.text !== wanted.text)
        result.wrong.push(`call ${before} of ${failing}: another result afterwards`)
    }
  }
  // Where an error came between two tensors of one operation, the garbage collector frees the first.
  for (let round = 0; round < 10 && device.memoryUsage().tensors > 0; round++) {
    globalThis.gc()
    await new Promise((done) => setImmediate(done))
  }
  const { tensors } = device.memoryUsage()
  if (tensors > 0) result.wrong.push(`${tensors} tensors are left`)
  console.log(JSON.stringify(result))
}
closeSync(control)
rmSync(folder, { recursive: true })
