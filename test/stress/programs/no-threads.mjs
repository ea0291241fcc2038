// Opens devices and trains where the system refuses threads: no-threads.mjs URL. Prints one JSON object a case.
// For root there is no limit of threads, so this runs as another user; a process without threads cannot start prlimit,
// so whoever started this one does it when asked for by { limit }, and answers with a line.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'

const [url] = process.argv.slice(2)
const { createDataset, linear, openDevice, setThreads, train } = await import(url)

const answers = createInterface(process.stdin)[Symbol.asyncIterator]()
async function limit(threads) {
  console.log(JSON.stringify({ limit: threads, pid: process.pid }))
  await answers.next()
}
const running = () => Number(/Threads:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1])

async function outcome(name, act) {
  try {
    const value = await act()
    console.log(JSON.stringify({ name, value }))
  } catch (error) {
    console.log(JSON.stringify({ name, error: error.name, code: error.code, message: error.message }))
  }
}

const product = async () => {
  const device = openDevice('cpu')
  const x = device.uniform([300, 300], { key: { seed: 1, stream: 0 } })
  return Buffer.from((await linear(x, x).data()).buffer)
    .toString('base64')
    .slice(0, 4000)
}

const images = (count) => ({
  name: 'noise',
  height: 8,
  width: 8,
  channels: 1,
  classNames: ['a', 'b'],
  images: Uint8Array.from({ length: count * 64 }, (_, i) => (i * 37) % 251),
  labels: Int32Array.from({ length: count }, (_, i) => i % 2),
})
const data = { train: createDataset(images(16)), test: createDataset(images(8)) }
const folder = mkdtempSync(join(tmpdir(), 'softmoe-threads-'))
let runs = 0
const run = async () => {
  const model = {
    patchSize: 4,
    width: 16,
    depth: 2,
    numHeads: 2,
    mlpDim: 16,
    moe: { router: 'soft', numExperts: 2 },
  }
  const result = await train({
    data,
    model,
    batchSize: 4,
    steps: 3,
    device: 'cpu',
    out: join(folder, String(runs++)),
  })
  result.model.dispose()
  return result.steps
}

await outcome('a file is read', () => readFileSync(process.argv[1]).length) // starts the threads of Node.js itself
await limit(running())
await outcome('no thread: open', () => openDevice('cpu').description.threads)
await limit(1000)
await outcome('threads again: product', product)
await limit(running())
await outcome('no thread: setThreads(8)', () => setThreads(8))
await outcome('no thread: product', product)
await outcome('no thread: train', run)
await limit(1000)
await outcome('threads again: train', run)
setThreads(8)
await outcome('8 threads: product', product)
rmSync(folder, { recursive: true })
process.stdin.destroy()
