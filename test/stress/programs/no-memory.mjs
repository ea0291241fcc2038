// Leaves itself some mebibytes of address space, asks for more in several ways and goes on: no-memory.mjs URL MEBIBYTES.
// Prints one JSON object a case.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import process from 'node:process'

const [url, room] = process.argv.slice(2)
const { AdamW, crossEntropy, noGrad, openDevice, RandomSource, scope, VisionTransformer } = await import(url)
const device = openDevice('cpu')
const MEBIBYTE = 2 ** 20

async function outcome(name, act) {
  try {
    console.log(JSON.stringify({ name, value: await act() }))
  } catch (error) {
    console.log(JSON.stringify({ name, error: error.name, code: error.code, message: error.message }))
  }
}

const model = new VisionTransformer(
  {
    imageSize: 16,
    channels: 1,
    patchSize: 2,
    width: 64,
    depth: 2,
    numHeads: 2,
    mlpDim: 256,
    numClasses: 4,
    moe: { router: 'soft', numExperts: 4 },
  },
  { device, random: new RandomSource(1) },
)
const logits = async (batch) => {
  const values = noGrad(() => scope(() => model.forward(device.full([batch, 16, 16, 1], 0.5))))
  try {
    return Buffer.from((await values.data()).buffer)
      .subarray(0, 16)
      .toString('base64')
  } finally {
    values.dispose()
  }
}
const step = async (batch) => {
  const own = new VisionTransformer(model.config, { device, random: new RandomSource(1) })
  const optimizer = new AdamW(own.parameters(), { learningRate: 1e-3 })
  try {
    const labels = new Int32Array(batch)
    const { loss } = await optimizer.step(() =>
      crossEntropy(own.forward(device.full([batch, 16, 16, 1], 0.5)), labels),
    )
    return loss
  } finally {
    optimizer.dispose()
    own.dispose()
  }
}

const held = device.zeros([(Number(room) * MEBIBYTE * 0.75) / 4])
const before = [await logits(2), await step(2)]
device.emptyCache()
await device.synchronize()
const used = Number(/VmSize:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
execFileSync('prlimit', ['--pid', String(process.pid), `--as=${used + Number(room) * MEBIBYTE}`])

await outcome('refused: a tensor', () => device.zeros([(2 * Number(room) * MEBIBYTE) / 4]).size)
await outcome('refused: a tensor of 4 GiB', () => device.zeros([2 ** 15, 2 ** 15]).size)
await outcome('refused: reading a result', async () => (await held.data()).length)
await outcome('refused: reading it at once', () => held.dataSync().length)
await outcome('refused: a forward pass', () => logits(64 * Number(room)))
await outcome('refused: a training step', () => step(64 * Number(room)))
await outcome('fine: a forward pass', async () => (await logits(2)) === before[0])
await outcome('fine: a training step', async () => (await step(2)) === before[1])
held.dispose()
model.dispose()
await outcome('fine: nothing is left', () => device.memoryUsage().tensors === 0)
