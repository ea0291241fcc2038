/** onnxruntime-node: the layer as an ONNX graph on the CPU provider; float32, forward. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { normalisedPhi, readFloats, readProblem, serve, skip, weightLayout } from './worker.mjs'

const problem = readProblem()
if (problem.dtype !== 'float32' || problem.pass !== 'forward') skip('it runs float32, forward only')

let ort, onnxModel
try {
  ort = (await import('onnxruntime-node')).default
  ;({ onnxModel } = await import('./onnx-model.mjs'))
} catch (error) {
  skip(`not installed (npm ci in bench/peers): ${error.message}`)
}

const { kind, batch, tokens, dim, experts, slots, threads } = problem
const layout = weightLayout(problem)
// A protobuf message ends at 2 GiB: bigger weights are read from the file beside the model.
const external = layout.reduce((bytes, { count }) => bytes + 4 * count, 0) > 1.9e9
const weights = {}
for (const { name, offset, count } of layout) {
  const big = external && (name === 'w1' || name === 'w2')
  weights[name] = big
    ? { location: basename(problem.weights), offset }
    : readFloats(problem.weights, offset, count)
}
if (kind === 'soft') weights.phi = normalisedPhi(weights.phi, weights.scale[0], dim, experts * slots)

const bytes = await onnxModel(problem, weights)
const options = {
  executionProviders: ['cpu'],
  graphOptimizationLevel: 'all',
  intraOpNumThreads: threads,
  interOpNumThreads: 1,
}
let session
if (external) {
  const path = join(dirname(problem.weights), `model-${process.pid}.onnx`)
  writeFileSync(path, bytes)
  session = await ort.InferenceSession.create(path, options)
  rmSync(path)
} else {
  session = await ort.InferenceSession.create(bytes, options)
}
const shape = kind === 'soft' ? [batch, tokens, dim] : [batch * tokens, dim]
const size = batch * tokens * dim
const feeds = { x: new ort.Tensor('float32', readFloats(problem.input, 0, size), shape) }
const values = new Float32Array(size)
const fetches = { y: new ort.Tensor('float32', values, shape) }
const run = () => session.run(feeds, fetches)
await run()
const { version } = JSON.parse(
  readFileSync(new URL('node_modules/onnxruntime-node/package.json', import.meta.url), 'utf8'),
)
await serve(`onnxruntime-node ${version}`, {
  run,
  output: async () => (await run()).y.data,
})
process.exit(0)
