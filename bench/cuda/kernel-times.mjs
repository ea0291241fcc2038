// Times every kernel of training and inference on a GPU, by the events of SOFTMOE_DEBUG=1:
//   node bench/cuda/kernel-times.mjs [--smoke]
// Runs ViT-S/16 at 224 pixels with each router in turn (batch 32, three steps after one that loads the kernels) and
// prints one line a kernel and model: launches a step, median time of a launch, time a step. `--smoke` takes a tiny
// model and one step, for the emulated driver, whose launches are counted and not timed. Needs the built package.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { launchOf, median, NOT_TIMED, sum } from './launches.mjs'

const smoke = process.argv.includes('--smoke')
const steps = smoke ? 1 : 3
const models = {
  'Soft MoE, 32 experts': { router: 'soft', numExperts: smoke ? 4 : 32 },
  'Tokens Choice, 32 experts': {
    router: { name: 'tokens-choice', k: 2, capacityFactor: 1.05, batchPriority: true },
    numExperts: smoke ? 4 : 32,
  },
}

async function train(moe) {
  const lib = await import('../../dist/esm/index.js')
  const device = lib.openDevice('cuda')
  process.stderr.write(`device ${JSON.stringify(device.description)}\n`)
  const small = { patchSize: 4, width: 16, depth: 2, numHeads: 2, mlpDim: 32, imageSize: 8 }
  const model = new lib.VisionTransformer(
    { ...(smoke ? small : lib.vit('S/16')), numClasses: 10, moe },
    { device, dtype: 'bfloat16' },
  )
  const optimizer = new lib.AdamW(model.parameters(), { learningRate: 1e-3, weightDecay: 0.05, clipNorm: 1 })
  const [batch, size] = smoke ? [2, 8] : [32, 224]
  const images = device.normal([batch, size, size, 3], { key: { seed: 1, stream: 1 } })
  const labels = Int32Array.from({ length: batch }, (_, i) => i % 10)
  for (let step = 0; step <= steps; step++) {
    await optimizer.step(() => {
      const { logits, auxiliaryLoss } = model.forwardWithLoss(images)
      const task = lib.crossEntropy(logits, labels)
      return auxiliaryLoss === null ? task : lib.add(task, auxiliaryLoss)
    })
    // Tells the parent where a step ends; the launches of the first one load the kernels.
    process.stderr.write('step\n')
  }
}

/** Milliseconds of the launches of each kernel, without those of the first step. */
function timesByKernel(output) {
  const times = new Map()
  let step = 0
  for (const line of output.split('\n')) {
    if (line === 'step') step += 1
    const launch = launchOf(line)
    if (launch === null || step === 0) continue
    times.set(launch.kernel, [...(times.get(launch.kernel) ?? []), launch.milliseconds])
  }
  return times
}

function report(name) {
  const child = spawnSync(process.execPath, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    env: { ...process.env, SOFTMOE_DEBUG: '1', SOFTMOE_KERNEL_TIMES: name },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  const times = timesByKernel(child.stderr)
  if (child.status !== 0 || times.size === 0) {
    console.log(`${name}: failed\n${child.stderr.slice(-2000)}`)
    process.exitCode = 1
    return
  }
  const emulated = /^device .*Emulated/m.test(child.stderr)
  const rows = [...times].map(([kernel, all]) => ({
    kernel,
    launches: all.length / steps,
    medianUs: 1000 * median(all),
    stepMs: sum(all) / steps,
  }))
  if (emulated) {
    console.log(`# ${name}: kernels of a training step, ${NOT_TIMED}`)
    for (const row of rows)
      console.log(`${row.kernel.padEnd(44)} ${String(row.launches).padStart(4)} launches`)
    return
  }
  rows.sort((a, b) => b.stepMs - a.stepMs)
  const total = sum(rows.map((row) => row.stepMs))
  console.log(`# ${name}: ${total.toFixed(3)} ms of kernels a training step`)
  console.log(`${'kernel'.padEnd(44)} launches  median us   ms a step  share`)
  for (const row of rows) {
    const share = `${((100 * row.stepMs) / total).toFixed(1)} %`
    console.log(
      `${row.kernel.padEnd(44)} ${String(row.launches).padStart(8)} ${row.medianUs.toFixed(1).padStart(10)} ` +
        `${row.stepMs.toFixed(3).padStart(11)} ${share.padStart(6)}`,
    )
  }
}

const own = process.env.SOFTMOE_KERNEL_TIMES
if (own === undefined) Object.keys(models).forEach(report)
else await train(models[own])
