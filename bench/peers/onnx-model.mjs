/** The layers as ONNX graphs (operator set 20), written with protobufjs. */
import { fileURLToPath } from 'node:url'
import protobuf from 'protobufjs'

const FLOAT = 1
const INT64 = 7

function attribute(name, value) {
  if (Array.isArray(value)) return { name, ints: value, type: 7 }
  return typeof value === 'string' ? { name, s: Buffer.from(value), type: 3 } : { name, i: value, type: 2 }
}

function node(opType, input, output, attributes = {}) {
  return {
    opType,
    input,
    output: [output],
    name: output,
    attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
  }
}

/** A float tensor: `values` in the model, or `{ location, offset }` of a file beside it. */
function floatTensor(name, dims, values) {
  if (values instanceof Float32Array) {
    const rawData = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    return { name, dims, dataType: FLOAT, rawData }
  }
  const length = 4 * dims.reduce((product, extent) => product * extent, 1)
  const externalData = Object.entries({ ...values, length }).map(([key, value]) => ({
    key,
    value: String(value),
  }))
  return { name, dims, dataType: FLOAT, dataLocation: 1, externalData }
}

const shapeTensor = (name, values) => ({ name, dims: [values.length], dataType: INT64, int64Data: values })

const valueInfo = (name, dims) => ({
  name,
  type: { tensorType: { elemType: FLOAT, shape: { dim: dims.map((dimValue) => ({ dimValue })) } } },
})

/** gelu(x W1 + b1) W2 + b2 on rows; `Gemm` lets the runtime pack the constant weights. */
function mlpGraph({ batch, tokens, dim, hidden }, weights) {
  const rows = batch * tokens
  return {
    input: [valueInfo('x', [rows, dim])],
    output: [valueInfo('y', [rows, dim])],
    initializer: [
      floatTensor('w1', [dim, hidden], weights.w1),
      floatTensor('b1', [hidden], weights.b1),
      floatTensor('w2', [hidden, dim], weights.w2),
      floatTensor('b2', [dim], weights.b2),
    ],
    node: [
      node('Gemm', ['x', 'w1', 'b1'], 'pre'),
      node('Gelu', ['pre'], 'act', { approximate: 'tanh' }),
      node('Gemm', ['act', 'w2', 'b2'], 'y'),
    ],
  }
}

/** The Soft MoE layer (Soft MoE, Algorithm 2) with Phi already normalised and scaled. */
function softGraph({ batch, tokens, dim, hidden, experts, slots }, weights) {
  const all = experts * slots
  return {
    input: [valueInfo('x', [batch, tokens, dim])],
    output: [valueInfo('y', [batch, tokens, dim])],
    initializer: [
      floatTensor('w1', [experts, dim, hidden], weights.w1),
      floatTensor('b1', [experts, 1, hidden], weights.b1),
      floatTensor('w2', [experts, hidden, dim], weights.w2),
      floatTensor('b2', [experts, 1, dim], weights.b2),
      floatTensor('phi', [dim, all], weights.phi),
      floatTensor('eps', [1], Float32Array.of(1e-6)),
      shapeTensor('last', [-1]),
      shapeTensor('apart', [batch, experts, slots, dim]),
      shapeTensor('byExpert', [experts, batch * slots, dim]),
      shapeTensor('expertFirst', [experts, batch, slots, dim]),
      shapeTensor('bySlot', [batch, all, dim]),
    ],
    node: [
      node('ReduceSumSquare', ['x', 'last'], 'squares'),
      node('Add', ['squares', 'eps'], 'guarded'),
      node('Sqrt', ['guarded'], 'norm'),
      node('Div', ['x', 'norm'], 'normalised'),
      node('MatMul', ['normalised', 'phi'], 'logits'),
      node('Transpose', ['logits'], 'logitsOfSlots', { perm: [0, 2, 1] }),
      node('Softmax', ['logitsOfSlots'], 'dispatch', { axis: 2 }),
      node('Softmax', ['logits'], 'combine', { axis: 2 }),
      node('MatMul', ['dispatch', 'x'], 'filled'),
      node('Reshape', ['filled', 'apart'], 'filledApart'),
      node('Transpose', ['filledApart'], 'filledFirst', { perm: [1, 0, 2, 3] }),
      node('Reshape', ['filledFirst', 'byExpert'], 'rows'),
      node('MatMul', ['rows', 'w1'], 'product1'),
      node('Add', ['product1', 'b1'], 'pre'),
      node('Gelu', ['pre'], 'act', { approximate: 'tanh' }),
      node('MatMul', ['act', 'w2'], 'product2'),
      node('Add', ['product2', 'b2'], 'results'),
      node('Reshape', ['results', 'expertFirst'], 'resultsApart'),
      node('Transpose', ['resultsApart'], 'resultsOfImages', { perm: [1, 0, 2, 3] }),
      node('Reshape', ['resultsOfImages', 'bySlot'], 'slotsOut'),
      node('MatMul', ['combine', 'slotsOut'], 'y'),
    ],
  }
}

/**
 * @param problem - as the worker got it
 * @param weights - values of w1, b1, w2, b2 and, for Soft MoE, the normalised phi; or places in a file
 * @returns the bytes of the model
 */
export async function onnxModel(problem, weights) {
  const root = await protobuf.load(fileURLToPath(new URL('onnx.proto', import.meta.url)))
  const model = root.lookupType('onnx.ModelProto')
  const graph = problem.kind === 'soft' ? softGraph(problem, weights) : mlpGraph(problem, weights)
  const message = model.fromObject({
    irVersion: 10,
    producerName: 'softmoe-bench',
    opsetImport: [{ domain: '', version: 20 }],
    graph: { name: 'layer', ...graph },
  })
  return model.encode(message).finish()
}
