// Times the operations of a vision transformer with Soft MoE layers on a GPU at the papers' shapes, kernel by kernel,
// by events around each launch:
//   node bench/cuda/operation-times.mjs [--smoke] [GB/s of memory] [TFLOP/s of bfloat16]     (default: an H100 SXM)
// For each operation: the least time that its bytes and its FLOP allow at those peaks (predicted), the sum of its
// kernels' median times with its shares of both peaks (measured), then its kernels, and cuBLASLt beside the products.
// On the emulated driver nothing is called a time. Needs build/softmoe_cuda_bench.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { launchOf, median, NOT_TIMED, sum } from './launches.mjs'

const words = process.argv.slice(2)
const smoke = words.filter((word) => word === '--smoke')
const [gigabytesPerSecond = 3350, teraflopPerSecond = 989] = words
  .filter((word) => word !== '--smoke')
  .map(Number)

const bench = fileURLToPath(new URL('../../build/softmoe_cuda_bench', import.meta.url))
const child = spawnSync(bench, smoke, { encoding: 'utf8', maxBuffer: 1 << 28 })
const lines = (child.stderr ?? '').split('\n')
if (child.status !== 0) {
  console.log(`${bench} failed: ${child.error?.message ?? child.signal ?? child.status}`)
  console.log(lines.slice(-20).join('\n'))
  process.exit(1)
}

/** Operations in order, each with the launches of every repetition; the first one loads the kernels. */
const operations = []
let emulated = false
const empty = () => ({ repetitions: [], libraries: [], isDone: false })
for (const line of lines) {
  const [kind, ...fields] = line.split('\t')
  const operation = operations.at(-1)
  if (kind === 'device') {
    emulated = fields[0].includes('Emulated')
    console.log(`# ${fields[0]}`)
    console.log(`# peaks: ${gigabytesPerSecond} GB/s, ${teraflopPerSecond} TFLOP/s`)
  } else if (kind === 'note') {
    console.log(`# ${fields[0]}`)
  } else if (kind === 'operation') {
    const [model, name, bytes, flop] = fields
    operations.push({ model, name, bytes: Number(bytes), flop: Number(flop), ...empty() })
  } else if (kind === 'repetition') {
    operation.repetitions.push([])
  } else if (kind === 'library') {
    operation.libraries.push({ name: fields[0], microseconds: Number(fields[1]) })
  } else if (kind === 'done') {
    operation.isDone = true
  } else if (operation?.isDone === false) {
    const launch = launchOf(line)
    if (launch !== null) operation.repetitions.at(-1).push(launch)
  }
}

/** Median microseconds of each launch of the operation, in the order of its launches. */
function kernelTimes({ name, repetitions: [, ...timed] }) {
  const kernels = timed[0].map(({ kernel }, i) => ({
    kernel,
    microseconds: 1000 * median(timed.map((launches) => launches[i].milliseconds)),
  }))
  if (kernels.length === 0) throw new Error(`${name} launched nothing`)
  return kernels
}

const number = (value, width, digits = 1) => value.toFixed(digits).padStart(width)
const share = (value, peak) => `${number((100 * value) / peak, 5)} %`

function row(name, microseconds, { bytes = 0, flop = 0 } = {}) {
  if (emulated) return `${name.padEnd(46)} ${NOT_TIMED.padStart(10)}`
  const moved = bytes / microseconds / 1e3
  const computed = flop / microseconds / 1e6
  const speeds = bytes > 0 ? `  ${number(moved, 7, 0)} GB/s ${share(moved, gigabytesPerSecond)}` : ''
  const products = flop > 0 ? `  ${number(computed, 7)} TFLOP/s ${share(computed, teraflopPerSecond)}` : ''
  return `${name.padEnd(46)} ${number(microseconds, 10)}${speeds}${products}`
}

let model
for (const operation of operations) {
  if (operation.model !== model) {
    model = operation.model
    console.log(`\n## ${model}\n${'operation, its kernels'.padEnd(46)} measured us`)
  }
  const { name, bytes, flop, libraries } = operation
  const kernels = kernelTimes(operation)
  const least = Math.max(bytes / gigabytesPerSecond / 1e3, flop / teraflopPerSecond / 1e6)
  console.log(`${row(name, sum(kernels.map((kernel) => kernel.microseconds)), { bytes, flop })}`)
  console.log(
    `    predicted: at least ${least.toFixed(2)} us for ${(bytes / 1e6).toFixed(2)} MB and ${(flop / 1e9).toFixed(3)} GFLOP`,
  )
  for (const { kernel, microseconds } of kernels) console.log(row(`    ${kernel}`, microseconds))
  for (const library of libraries) console.log(row(`    ${library.name}`, library.microseconds))
}
