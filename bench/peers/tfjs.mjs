/** TensorFlow.js on its wasm backend; float32, forward. */
import { readFloats, readProblem, serve, skip, weightLayout } from './worker.mjs'

const problem = readProblem()
if (problem.dtype !== 'float32' || problem.pass !== 'forward') skip('it runs float32, forward only')
const layout = weightLayout(problem)
// The backend's memory is addressed by 32 bits.
if (layout.reduce((bytes, { count }) => bytes + 4 * count, 0) > 1.5e9) skip('the weights exceed its memory')

let tf
try {
  tf = await import('@tensorflow/tfjs-core')
  const wasm = await import('@tensorflow/tfjs-backend-wasm')
  wasm.setThreadsCount(problem.threads)
  await tf.setBackend('wasm')
  await tf.ready()
} catch (error) {
  skip(`not installed (npm ci in bench/peers): ${error.message}`)
}

const { kind, batch, tokens, dim, hidden, experts, slots } = problem
const shapes = {
  w1: [experts, dim, hidden],
  b1: [experts, 1, hidden],
  w2: [experts, hidden, dim],
  b2: [experts, 1, dim],
  phi: [dim, experts * slots],
  scale: [],
}
const weights = Object.fromEntries(
  layout.map(({ name, offset, count }) => [
    name,
    tf.tensor(readFloats(problem.weights, offset, count), shapes[name]),
  ]),
)
const x = tf.tensor(readFloats(problem.input, 0, batch * tokens * dim), [batch, tokens, dim])

const normalise = (a, axis) => tf.div(a, tf.sqrt(tf.add(tf.sum(tf.square(a), axis, true), 1e-6)))
const phi = kind === 'soft' ? tf.mul(weights.scale, normalise(weights.phi, 0)) : null

/** The tanh form, of which this library has no operation. */
function gelu(a) {
  const inner = tf.mul(Math.sqrt(2 / Math.PI), tf.mul(a, tf.add(1, tf.mul(0.044715, tf.square(a)))))
  return tf.mul(tf.mul(0.5, a), tf.add(1, tf.tanh(inner)))
}

const mlp = (rows) => {
  const act = gelu(tf.add(tf.matMul(rows, weights.w1), weights.b1))
  return tf.add(tf.matMul(act, weights.w2), weights.b2)
}

function soft() {
  const logits = tf.matMul(normalise(x, 2), tf.tile(tf.expandDims(phi, 0), [batch, 1, 1]))
  const dispatch = tf.softmax(tf.transpose(logits, [0, 2, 1]), 2)
  const filled = tf.reshape(tf.matMul(dispatch, x), [batch, experts, slots, dim])
  const rows = tf.reshape(tf.transpose(filled, [1, 0, 2, 3]), [experts, batch * slots, dim])
  const results = tf.reshape(mlp(rows), [experts, batch, slots, dim])
  const bySlot = tf.reshape(tf.transpose(results, [1, 0, 2, 3]), [batch, experts * slots, dim])
  return tf.matMul(tf.softmax(logits, 2), bySlot)
}

const forward = () => tf.tidy(() => (kind === 'soft' ? soft() : mlp(tf.reshape(x, [1, batch * tokens, dim]))))
// The backend computes when it is called, so a run has ended when it returns.
const run = () => forward().dispose()
run()
await serve(`tfjs-wasm ${tf.version_core}`, {
  run,
  output: async () => {
    const y = forward()
    const values = await y.data()
    y.dispose()
    return values
  },
})
process.exit(0)
