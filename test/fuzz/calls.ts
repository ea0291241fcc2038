// Every exported function and class, with the kinds of its arguments. What is not called, and why, stands at the end.
import * as api from '../../lib/index.js'
import { type Device, type Module, type Parameter, type Tensor } from '../../lib/index.js'
import type { Kind } from './values.js'

/** A call with arguments of any kind whatever: the types hold only by luck. */
export interface Call {
  readonly kinds: readonly Kind[]
  readonly run: (device: Device, values: readonly unknown[]) => unknown
}

type Anything = (...values: unknown[]) => unknown

/** A call of an export that needs nothing but its arguments. */
const plain = (name: keyof typeof api, ...kinds: Kind[]): readonly [string, Call] => [
  name,
  { kinds, run: (_, values) => (api[name] as Anything)(...values) },
]

const call = (name: string, kinds: readonly Kind[], run: Call['run']): readonly [string, Call] => [
  name,
  { kinds, run },
]

/** A method of the device. */
const ofDevice = (
  name: 'tensor' | 'full' | 'zeros' | 'ones' | 'uniform' | 'normal' | 'truncatedNormal',
  ...kinds: Kind[]
) => call(`device.${name}`, kinds, (device, values) => (device[name] as Anything).apply(device, [...values]))

/** Makes a layer from options and runs it, recording, on a tensor. */
const layer = (name: keyof typeof api, ...kinds: Kind[]) =>
  call(name, ['mlpOptions', ...kinds], (_, [options, ...values]) => {
    const Layer = api[name] as unknown as new (options: unknown) => Module & { forward?: Anything }
    const made = new Layer(options)
    try {
      return api.scope(() => made.forward?.(...values))
    } finally {
      made.dispose()
    }
  })

/** Runs an operation under a tape with a leaf of its own and asks for the gradient. */
const differentiated = (name: keyof typeof api, ...kinds: Kind[]) =>
  call(`gradient of ${name}`, kinds, (device, values) => {
    const tape = new api.Tape()
    const leaves: Tensor[] = []
    const asLeaf = (value: unknown): unknown => {
      if (!(value instanceof api.Tensor) || value.disposed || value.dtype === 'int32') return value
      const leaf = device.tensor(value.dataSync(), value.shape, { dtype: value.dtype, requiresGrad: true })
      leaves.push(leaf)
      return leaf
    }
    try {
      const loss = tape.record(() => {
        const results = [(api[name] as Anything)(...values.map(asLeaf))].flat() as Tensor[]
        return results.map((y) => api.sum(api.cast(y, 'float32'))).reduce((total, one) => api.add(total, one))
      })
      tape.backward(loss)
    } finally {
      for (const leaf of leaves) {
        leaf.grad?.dispose()
        leaf.dispose()
      }
      tape.dispose()
    }
  })

const optimizer = (name: 'AdamW' | 'Sgd') =>
  call(name, ['optimizerOptions', 'floats', 'count'], async (_, [options, x, steps]) => {
    const dense = new api.Linear({ inDim: 2, outDim: 3 })
    try {
      const Class = api[name] as unknown as new (
        parameters: Map<string, Parameter>,
        options: unknown,
      ) => api.Optimizer
      const made = new Class(dense.parameters(), options)
      try {
        for (let i = 0; i < Math.min(typeof steps === 'number' ? steps : 1, 3); i++)
          await made.step(() => api.sum(api.cast(dense.forward(x as Tensor), 'float32')))
      } finally {
        made.dispose()
      }
    } finally {
      dense.dispose()
    }
  })

export const CALLS: ReadonlyMap<string, Call> = new Map([
  ofDevice('tensor', 'elements', 'shape', 'tensorOptions'),
  ofDevice('full', 'shape', 'number', 'fillOptions'),
  ofDevice('zeros', 'shape', 'fillOptions'),
  ofDevice('ones', 'shape', 'fillOptions'),
  ofDevice('uniform', 'shape', 'randomOptions'),
  ofDevice('normal', 'shape', 'randomOptions'),
  ofDevice('truncatedNormal', 'shape', 'randomOptions'),
  plain('openDevice', 'text', 'number'),
  call('setThreads', ['number'], (_, [threads]) => {
    api.setThreads(threads as number)
    api.setThreads(2)
  }),
  plain('isTensor', 'tensor'),
  plain('reshape', 'tensor', 'shape'),
  plain('cast', 'tensor', 'dtype'),
  plain('asDType', 'tensor', 'floatType'),
  plain('add', 'floats', 'floats', 'number'),
  plain('multiply', 'floats', 'floats'),
  plain('scale', 'floats', 'number'),
  plain('slice', 'tensor', 'axis', 'count', 'count'),
  plain('concat', 'tensors', 'axis'),
  plain('broadcast', 'floats', 'axis', 'count'),
  plain('sum', 'floats', 'axis'),
  plain('mean', 'floats', 'axis'),
  plain('activate', 'floats', 'activation'),
  plain('dropout', 'floats', 'rate', 'key'),
  plain('transpose', 'matrix'),
  plain('patchify', 'floats', 'count', 'floatType'),
  plain('hasNonFinite', 'floats'),
  plain('argmax', 'floats'),
  plain('linear', 'floats', 'matrix', 'maybeTensor', 'linearOptions'),
  plain('matmul', 'matrix', 'matrix', 'matMulOptions'),
  plain('experts', 'floats', 'weights', 'expertsOptions', 'lists'),
  plain('attention', 'floats', 'floats', 'floats', 'attentionOptions'),
  plain('crossEntropy', 'matrix', 'labels', 'lossOptions'),
  plain('sigmoidCrossEntropy', 'matrix', 'labels', 'lossOptions'),
  plain('pairLogits', 'matrix', 'matrix', 'number', 'maybeTensor'),
  plain('contrastiveLoss', 'matrix'),
  plain('sigmoidContrastiveLoss', 'matrix'),
  plain('layerNorm', 'floats', 'maybeTensor', 'maybeTensor', 'rate'),
  plain('l2Normalize', 'floats', 'rate'),
  plain('softmax', 'floats'),
  plain('softLogits', 'scores', 'scores', 'maybeTensor', 'logitsOptions'),
  plain('dispatch', 'plan', 'scores'),
  plain('combine', 'plan', 'scores'),
  plain('dispatchWeights', 'plan', 'scores'),
  plain('combineWeights', 'plan', 'scores'),
  plain('importanceLoss', 'scores'),
  plain('gshardLoss', 'scores'),
  plain('zLoss', 'scores'),
  plain('loadLoss', 'scores', 'scores', 'count', 'rate'),
  plain('selectExperts', 'scores', 'count', 'priority'),
  plain('selectTokens', 'scores', 'count'),
  plain('rowsOfSelectedExperts', 'selection', 'count', 'count'),
  plain('rowsOfSelectedTokens', 'ints', 'count'),
  plain('gatherGates', 'scores', 'lists'),
  plain('normalizeSelected', 'scores', 'ints'),
  plain('combineRows', 'matrix', 'floats', 'lists'),
  call('gatherGradient', ['lists', 'matrix'], (_, [lists, rows]) =>
    api.gatherGradient(lists as api.RowLists)(rows as Tensor),
  ),
  plain('sinkhornPlan', 'scores', 'iterations'),
  plain('sparsePlan', 'scores', 'planOptions'),
  ...(
    [
      ['add', 'floats', 'floats', 'number'],
      ['multiply', 'floats', 'floats'],
      ['slice', 'floats', 'axis', 'count', 'count'],
      ['concat', 'tensors', 'axis'],
      ['broadcast', 'floats', 'axis', 'count'],
      ['mean', 'floats', 'axis'],
      ['activate', 'floats', 'activation'],
      ['dropout', 'floats', 'rate', 'key'],
      ['transpose', 'matrix'],
      ['patchify', 'floats', 'count', 'floatType'],
      ['linear', 'floats', 'matrix', 'maybeTensor', 'linearOptions'],
      ['matmul', 'matrix', 'matrix', 'matMulOptions'],
      ['attention', 'floats', 'floats', 'floats', 'attentionOptions'],
      ['crossEntropy', 'matrix', 'labels', 'lossOptions'],
      ['layerNorm', 'floats', 'maybeTensor', 'maybeTensor', 'rate'],
      ['l2Normalize', 'floats', 'rate'],
      ['softmax', 'floats'],
      ['sinkhornPlan', 'scores', 'iterations'],
      ['importanceLoss', 'scores'],
      ['normalizeSelected', 'scores', 'ints'],
    ] as const
  ).map(([name, ...kinds]) => differentiated(name, ...kinds)),
  layer('Linear', 'floats'),
  layer('LayerNorm', 'floats'),
  layer('Mlp', 'floats'),
  layer('Experts', 'scores'),
  layer('MultiHeadAttention', 'scores'),
  layer('SoftMoE', 'scores', 'routeOptions'),
  layer('SparseMoE', 'scores', 'routeOptions'),
  layer('MapHead', 'scores'),
  layer('VisionTransformer', 'floats'),
  layer('SoftRouter'),
  layer('TokensChoiceRouter'),
  layer('ExpertsChoiceRouter'),
  layer('SinkhornTokensChoiceRouter'),
  layer('SinkhornExpertsChoiceRouter'),
  layer('SparsityConstrainedRouter'),
  layer('SparsityConstrainedTokensChoiceRouter'),
  plain('createRouter', 'text', 'mlpOptions'),
  plain('createSparseRouter', 'text', 'mlpOptions'),
  plain('routerConfig', 'text'),
  optimizer('AdamW'),
  optimizer('Sgd'),
  plain('warmupCosine', 'number', 'count', 'count', 'number'),
  plain('warmupLinear', 'number', 'count', 'count', 'number'),
  plain('constantRate', 'number'),
  plain('reciprocalSquareRoot', 'scheduleOptions'),
  plain('kernelDecay', 'rate', 'object'),
  plain('expertCapacity', 'count', 'count', 'rate', 'object'),
  plain('defaultSlotsPerExpert', 'count', 'count'),
  plain('sincos2d', 'count', 'count', 'count'),
  plain('costModel', 'mlpOptions'),
  plain('mlpCost', 'count', 'count', 'count'),
  plain('vit', 'text'),
  plain('vmoe', 'text'),
  plain('vmoeConfig', 'text', 'mlpOptions'),
  call('RandomSource', ['number'], (_, [seed]) => new api.RandomSource(seed as number).next()),
  call('Random', ['number', 'number'], (_, values) =>
    new api.Random(...(values as [number, number])).uniform(0),
  ),
  plain('streamOf', 'count', 'number'),
  plain('resizePicture', 'object', 'count', 'count'),
  plain('encodePng', 'object'),
  plain('createDataset', 'object'),
  plain('readIdx', 'text'),
  plain('readPng', 'text'),
  plain('readCheckpointInfo', 'text'),
  plain('loadCheckpoint', 'text', 'object'),
  plain('loadParameters', 'object', 'text'),
  plain('loadModel', 'text', 'object'),
  call('Tensor', ['tensor'], async (_, [tensor]) => {
    if (!(tensor instanceof api.Tensor)) return undefined
    return [tensor.shape, tensor.dtype, tensor.size, String(tensor), await tensor.data(), tensor.dataSync()]
  }),
  call('Tensor.item', ['tensor'], (_, [x]) => (x instanceof api.Tensor ? x.item() : undefined)),
  call('Tape', ['tensor', 'tensor'], (_, [x, y]) => {
    const tape = new api.Tape()
    try {
      tape.record(() => api.add(x as Tensor, y as Tensor))
      tape.backward(x as Tensor)
    } finally {
      tape.dispose()
    }
  }),
])

/** Exports that are not fuzzed by themselves, and why. */
const REASONS = {
  'an abstract class': ['Module', 'Optimizer', 'Router', 'SparseRouter'],
  'made by the library, or part of other calls': [
    ...['Device', 'EncoderBlock', 'MoE', 'Parameter', 'SoftMoEError', 'routerMetrics', 'gatherGradient'],
    ...['constant', 'lecunNormal', 'normal', 'ones', 'sharedAlongFirstAxis', 'xavierUniform', 'zeros'],
    ...['expertsChoice', 'sinkhornExpertsChoice', 'sinkhornTokensChoice', 'sparsityConstrained'],
    ...['sparsityConstrainedTokensChoice', 'tokensChoice'],
  ],
  'runs functions of the caller': [
    'capture',
    'CapturedFunction',
    'customGradient',
    'isRecording',
    'noGrad',
    'scope',
    'setDetectAnomaly',
  ],
  'files: see files.test.ts': [
    ...[
      'SafetensorsFile',
      'readCifarFolder',
      'readIdxFolder',
      'readIdxPair',
      'readImageFolder',
      'openDataset',
    ],
    ...['readEmbeddedFashionMnist', 'saveCheckpoint', 'writeSafetensors', 'MetricsWriter', 'readMetrics'],
    ...['readEvaluation', 'writeEvaluation', 'writeReport'],
  ],
  'trains or evaluates: see test/training': [
    ...[
      'classifyFiles',
      'classifyPictures',
      'evaluate',
      'evaluateRun',
      'fewShotAccuracy',
      'train',
      'loadImages',
    ],
  ],
  'numbers on the host': [
    ...['channelStatistics', 'coefficientOfVariation', 'droppedTokens', 'expertsOfTokens', 'gateHistogram'],
    ...['expertsPerTokenHistogram', 'readSparseRouting', 'sliceDataset', 'softMetrics', 'softMoeCost'],
    ...['softMoeExtraCost', 'sparseHistograms', 'sparseMetrics', 'sparseMoeCost', 'withChannels'],
  ],
} as const

export const NOT_CALLED: ReadonlyMap<string, string> = new Map(
  Object.entries(REASONS).flatMap(([reason, names]) => names.map((name) => [name, reason] as const)),
)
