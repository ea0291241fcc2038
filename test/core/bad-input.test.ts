// Every refusal has its code and one sentence that names the operand and says what to do. Nothing crashes.
import { describe, expect, it } from 'vitest'
import {
  activate,
  add,
  argmax,
  attention,
  broadcast,
  cast,
  combine,
  concat,
  crossEntropy,
  dispatch,
  dropout,
  type ErrorCode,
  experts,
  l2Normalize,
  layerNorm,
  linear,
  matmul,
  mean,
  multiply,
  openDevice,
  patchify,
  reshape,
  scale,
  setThreads,
  slice,
  softLogits,
  SoftMoEError,
  type SoftRoutingPlan,
  softmax,
  sum,
  Tape,
  type Tensor,
  transpose,
} from '../../lib/index.js'
import { native } from '../../lib/native.js'
import { device } from '../support/tensors.js'

const float = (...shape: number[]): Tensor => device.zeros(shape)
const narrow = (...shape: number[]): Tensor => device.zeros(shape, { dtype: 'bfloat16' })
const whole = (...shape: number[]): Tensor => device.zeros(shape, { dtype: 'int32' })

/** What JavaScript without types may pass. */
const anything = (value: unknown): never => value as never

function disposed(): Tensor {
  const tensor = float(2, 3)
  tensor.dispose()
  return tensor
}

function expectRefusal(act: () => unknown, code: ErrorCode, text: RegExp): void {
  let error: unknown
  try {
    act()
  } catch (thrown) {
    error = thrown
  }
  expect(error).toBeInstanceOf(SoftMoEError)
  const { code: actual, message } = error as SoftMoEError
  expect([actual, message]).toEqual([code, expect.stringMatching(text)])
}

type Refusal = readonly [what: string, act: () => unknown, code: ErrorCode, text: RegExp]

function refuse(cases: readonly Refusal[]): void {
  it.each(cases)('%s', (_, act, code, text) => {
    expectRefusal(act, code, text)
    // The device works on.
    const tensor = device.ones([1])
    expect(tensor.itemSync()).toBe(1)
    tensor.dispose()
  })
}

const weights = {
  w1: float(2, 3, 4),
  b1: float(2, 4),
  w2: float(2, 4, 3),
  b2: float(2, 3),
}

const plan = (change: Partial<SoftRoutingPlan> = {}): SoftRoutingPlan => ({
  batch: 1,
  tokens: 4,
  numExperts: 2,
  slotsPerExpert: 3,
  dispatch: 'soft',
  combine: 'soft',
  logits: float(1, 4, 6),
  dispatchLse: float(1, 6),
  combineLse: float(1, 4),
  mask: null,
  ...change,
})

describe('making tensors', () => {
  refuse([
    ['negative extent', () => float(2, -1), 'ERR_SHAPE', /negative extent -1/],
    ['fractional extent', () => float(2.5), 'ERR_INVALID_ARGUMENT', /2\.5.*whole number/],
    ['NaN extent', () => float(NaN), 'ERR_INVALID_ARGUMENT', /nan.*whole number/i],
    ['infinite extent', () => float(Infinity), 'ERR_INVALID_ARGUMENT', /inf.*whole number/i],
    ['more than 2^31 elements', () => float(2 ** 16, 2 ** 16), 'ERR_SHAPE', /more than 2147483647 elements/],
    ['an overflowing product', () => float(2 ** 40, 2 ** 40), 'ERR_SHAPE', /more than 2147483647 elements/],
    ['too many axes', () => float(...new Array<number>(20).fill(1)), 'ERR_SHAPE', /rank 20/],
    ['a shape that is none', () => device.zeros(anything('big')), 'ERR_INVALID_ARGUMENT', /'big'.*array/],
    ['a shape of strings', () => device.zeros(anything(['2'])), 'ERR_INVALID_ARGUMENT', /'2'.*number/],
    [
      'an unknown dtype',
      () => device.zeros([1], { dtype: anything('float64') }),
      'ERR_INVALID_ARGUMENT',
      /'float64'/,
    ],
    ['a value that is none', () => device.full([1], anything('3')), 'ERR_INVALID_ARGUMENT', /'3'.*number/],
    ['too few elements', () => device.tensor([1, 2], [3]), 'ERR_SHAPE', /2 elements.*3/],
    ['too many elements', () => device.tensor([1, 2], [1]), 'ERR_SHAPE', /2 elements.*1/],
    ['elements that are none', () => device.tensor(anything(7)), 'ERR_INVALID_ARGUMENT', /number/],
    ['elements that are null', () => device.tensor(anything(null)), 'ERR_INVALID_ARGUMENT', /null/],
    [
      'a DataView',
      () => device.tensor(anything(new DataView(new ArrayBuffer(8)))),
      'ERR_INVALID_ARGUMENT',
      /typed array/,
    ],
    [
      'an ArrayBuffer',
      () => device.tensor(anything(new ArrayBuffer(8))),
      'ERR_INVALID_ARGUMENT',
      /typed array/,
    ],
    [
      'random whole numbers',
      () => native.random(device, [2], 'int32', 'uniform', 0, 1, { seed: 1, stream: 1 }),
      'ERR_INVALID_ARGUMENT',
      /int32.*float32 or bfloat16/,
    ],
    [
      'a random mean of NaN',
      () => device.normal([2], { key: { seed: 1, stream: 1 }, mean: NaN }),
      'ERR_INVALID_ARGUMENT',
      /mean/,
    ],
    ['no key', () => device.normal([2], anything({})), 'ERR_INVALID_ARGUMENT', /object/],
    [
      'half a key',
      () => device.normal([2], { key: anything({ seed: 1 }) }),
      'ERR_INVALID_ARGUMENT',
      /stream.*undefined/,
    ],
    [
      'a fractional seed',
      () => device.normal([2], { key: { seed: 1.5, stream: 1 } }),
      'ERR_INVALID_ARGUMENT',
      /seed.*1\.5/,
    ],
  ])

  it('a detached ArrayBuffer', () => {
    const array = Float32Array.of(1, 2, 3)
    structuredClone(array.buffer, { transfer: [array.buffer] })
    expectRefusal(() => device.tensor(array, [3]), 'ERR_SHAPE', /transferred away/)
  })

  it('a SharedArrayBuffer is read like any other memory', () => {
    const shared = new Float32Array(new SharedArrayBuffer(12))
    shared.set([1, 2, 3])
    const tensor = device.tensor(shared, [3])
    shared.fill(9)
    expect([...tensor.dataSync()]).toEqual([1, 2, 3])
    tensor.dispose()
  })
})

describe('opening devices', () => {
  refuse([
    ['an unknown kind', () => openDevice(anything('tpu')), 'ERR_INVALID_ARGUMENT', /tpu/],
    ['a negative index', () => openDevice('cuda', -1), 'ERR_INVALID_ARGUMENT', /-1|index/],
    ['no threads', () => setThreads(0), 'ERR_INVALID_ARGUMENT', /threads is 0/],
    ['a fraction of a thread', () => setThreads(1.5), 'ERR_INVALID_ARGUMENT', /whole number/],
  ])
})

describe('operands', () => {
  refuse([
    ['undefined', () => add(anything(undefined), float(1)), 'ERR_INVALID_ARGUMENT', /undefined.*Tensor/],
    ['null', () => multiply(float(1), anything(null)), 'ERR_INVALID_ARGUMENT', /null.*Tensor/],
    ['a number', () => softmax(anything(3)), 'ERR_INVALID_ARGUMENT', /number.*Tensor/],
    ['an array', () => linear(float(1, 2), anything([1, 2])), 'ERR_INVALID_ARGUMENT', /object.*Tensor/],
    ['a handle that is none', () => native.softmax(anything({})), 'ERR_INVALID_ARGUMENT', /tensor/],
    ['a disposed tensor', () => add(disposed(), float(1)), 'ERR_DISPOSED', /disposed/],
    ['a disposed second operand', () => multiply(float(2, 3), disposed()), 'ERR_DISPOSED', /disposed/],
    ['a disposed optional operand', () => layerNorm(float(2, 3), disposed()), 'ERR_DISPOSED', /disposed/],
    ['a disposed part', () => concat([float(2, 3), disposed()], 0), 'ERR_DISPOSED', /disposed/],
  ])
})

describe('elementwise operations', () => {
  refuse([
    ['add: b is not the end of a', () => add(float(2, 3), float(2)), 'ERR_SHAPE', /b has shape \[2\]/],
    ['add: integers', () => add(whole(2), whole(2)), 'ERR_DTYPE', /a is int32.*cast/],
    [
      'add: a factor that is none',
      () => add(float(2), float(2), anything('x')),
      'ERR_INVALID_ARGUMENT',
      /'x'/,
    ],
    ['multiply: other shape', () => multiply(float(2, 3), float(3, 2)), 'ERR_SHAPE', /b has shape \[3, 2\]/],
    [
      'multiply: other dtype',
      () => multiply(float(2), narrow(2)),
      'ERR_DTYPE',
      /bfloat16.*float32|float32.*bfloat16/,
    ],
    [
      'scale: a factor of two elements',
      () => scale(float(2), float(2)),
      'ERR_INVALID_ARGUMENT',
      /factor.*scalar/,
    ],
    ['scale: a bfloat16 factor', () => scale(float(2), narrow(1)), 'ERR_DTYPE', /factor is bfloat16/],
    ['reshape: other count', () => reshape(float(2, 3), [5]), 'ERR_SHAPE', /6 elements.*5/],
    ['slice: no such axis', () => slice(float(2, 3), 2, 0, 1), 'ERR_INVALID_ARGUMENT', /axis 2/],
    ['slice: beyond the end', () => slice(float(2, 3), 1, 0, 4), 'ERR_INVALID_ARGUMENT', /0 to 4.*extent 3/],
    ['slice: backwards', () => slice(float(2, 3), 1, 2, 1), 'ERR_INVALID_ARGUMENT', /2 to 1/],
    ['slice: a negative start', () => slice(float(2, 3), 1, -1, 1), 'ERR_INVALID_ARGUMENT', /-1 to 1/],
    ['concat: nothing', () => concat([], 0), 'ERR_INVALID_ARGUMENT', /at least one/],
    [
      'concat: other extents',
      () => concat([float(2, 3), float(2, 4)], 0),
      'ERR_SHAPE',
      /\[2, 3\] and \[2, 4\]/,
    ],
    ['concat: other dtypes', () => concat([float(2), narrow(2)], 0), 'ERR_DTYPE', /bfloat16/],
    ['sum: no such axis', () => sum(float(2), 1), 'ERR_INVALID_ARGUMENT', /axis 1/],
    ['mean: a negative axis', () => mean(float(2), -1), 'ERR_INVALID_ARGUMENT', /axis -1/],
    ['broadcast: a negative count', () => broadcast(float(2), 0, -3), 'ERR_INVALID_ARGUMENT', /count is -3/],
    [
      'broadcast: too large',
      () => broadcast(float(1 << 16), 0, 1 << 16),
      'ERR_SHAPE',
      /more than 2147483647/,
    ],
    [
      'activate: unknown',
      () => activate(float(2), anything('relu')),
      'ERR_INVALID_ARGUMENT',
      /'relu'.*'gelu'/,
    ],
    [
      'dropout: a rate of 1',
      () => dropout(float(2), 1, { seed: 0, stream: 0 }),
      'ERR_INVALID_ARGUMENT',
      /rate/,
    ],
    [
      'dropout: a rate of NaN',
      () => dropout(float(2), NaN, { seed: 0, stream: 0 }),
      'ERR_INVALID_ARGUMENT',
      /rate/,
    ],
    ['transpose: one axis', () => transpose(float(2)), 'ERR_SHAPE', /at least rank 2/],
    ['cast: unknown', () => cast(float(2), anything('float16')), 'ERR_INVALID_ARGUMENT', /'float16'/],
    [
      'patchify: patches that do not tile',
      () => patchify(float(1, 8, 8, 3), 3),
      'ERR_INVALID_ARGUMENT',
      /3 pixels.*8 x 8/,
    ],
    ['patchify: no batch', () => patchify(float(8, 8, 3), 4), 'ERR_SHAPE', /images.*rank 4/],
    ['patchify: patches of 0', () => patchify(float(1, 8, 8, 3), 0), 'ERR_INVALID_ARGUMENT', /0 pixels/],
    ['argmax: no columns', () => argmax(float(2, 0)), 'ERR_INVALID_ARGUMENT', /column/],
  ])
})

describe('matrix products and experts', () => {
  refuse([
    [
      'linear: other inner extent',
      () => linear(float(2, 3), float(4, 5)),
      'ERR_SHAPE',
      /w has shape \[4, 5\]/,
    ],
    ['linear: a weight of rank 3', () => linear(float(2, 3), float(3, 4, 5)), 'ERR_SHAPE', /w .*rank 2/],
    ['linear: no axes', () => linear(float(), float(3, 4)), 'ERR_SHAPE', /x .*rank 1/],
    ['linear: a bias of other length', () => linear(float(2, 3), float(3, 4), float(3)), 'ERR_SHAPE', /bias/],
    [
      'linear: a bfloat16 bias',
      () => linear(float(2, 3), float(3, 4), narrow(4)),
      'ERR_DTYPE',
      /bias is bfloat16/,
    ],
    ['linear: mixed dtypes', () => linear(float(2, 3), narrow(3, 4)), 'ERR_DTYPE', /w is bfloat16/],
    [
      'linear: a bfloat16 result of float32',
      () => linear(float(2, 3), float(3, 4), null, { dtype: 'bfloat16' }),
      'ERR_INVALID_ARGUMENT',
      /result/,
    ],
    [
      'matmul: other inner extent',
      () => matmul(float(2, 3), float(4, 5)),
      'ERR_INVALID_ARGUMENT',
      /inner extents 3.*4/,
    ],
    [
      'matmul: other batch',
      () => matmul(float(2, 2, 3), float(3, 3, 4)),
      'ERR_INVALID_ARGUMENT',
      /batch axes/,
    ],
    ['matmul: other rank', () => matmul(float(2, 3), float(1, 3, 4)), 'ERR_INVALID_ARGUMENT', /ranks/],
    ['matmul: a vector', () => matmul(float(3), float(3)), 'ERR_SHAPE', /a .*rank 2/],
    ['matmul: integers', () => matmul(whole(2, 2), whole(2, 2)), 'ERR_DTYPE', /a is int32/],
    [
      'experts: no expert axis',
      () => experts(float(4, 3), weights),
      'ERR_SHAPE',
      /x has shape \[4, 3\].*experts/,
    ],
    ['experts: other width', () => experts(float(2, 4, 5), weights), 'ERR_SHAPE', /x has shape \[2, 4, 5\]/],
    [
      'experts: other second weight',
      () => experts(float(2, 4, 3), { ...weights, w2: float(2, 5, 3) }),
      'ERR_SHAPE',
      /w2/,
    ],
    ['experts: other bias', () => experts(float(2, 4, 3), { ...weights, b1: float(4) }), 'ERR_SHAPE', /b1/],
    [
      'experts: a rate of -1',
      () => experts(float(2, 4, 3), weights, { dropoutRate: -1 }),
      'ERR_INVALID_ARGUMENT',
      /dropoutRate/,
    ],
    [
      'experts: too few offsets',
      () => experts(float(4, 3), weights, {}, { expertOffsets: whole(2), rowToken: whole(4) }),
      'ERR_SHAPE',
      /offsets/,
    ],
    [
      'experts: offsets of float32',
      () => experts(float(4, 3), weights, {}, { expertOffsets: float(3), rowToken: whole(4) }),
      'ERR_DTYPE',
      /offsets is float32/,
    ],
  ])
})

describe('normalisation, attention and losses', () => {
  const labels = Int32Array.of(0, 1)
  refuse([
    ['layerNorm: no axes', () => layerNorm(float()), 'ERR_SHAPE', /x .*rank 1/],
    ['layerNorm: a scale of other length', () => layerNorm(float(2, 3), float(2)), 'ERR_SHAPE', /scale/],
    [
      'layerNorm: a negative eps',
      () => layerNorm(float(2, 3), null, null, -1),
      'ERR_INVALID_ARGUMENT',
      /eps/,
    ],
    [
      'layerNorm: an eps of NaN',
      () => layerNorm(float(2, 3), null, null, NaN),
      'ERR_INVALID_ARGUMENT',
      /eps/,
    ],
    [
      'layerNorm: an infinite eps',
      () => layerNorm(float(2, 3), null, null, Infinity),
      'ERR_INVALID_ARGUMENT',
      /eps/,
    ],
    ['l2Normalize: an eps of 0', () => l2Normalize(float(2, 3), 0), 'ERR_INVALID_ARGUMENT', /eps/],
    ['l2Normalize: an infinite eps', () => l2Normalize(float(2, 3), Infinity), 'ERR_INVALID_ARGUMENT', /eps/],
    ['softmax: integers', () => softmax(whole(2, 3)), 'ERR_DTYPE', /x is int32/],
    [
      'attention: rank 3',
      () => attention(float(2, 3, 4), float(2, 3, 4), float(2, 3, 4)),
      'ERR_SHAPE',
      /q .*rank 4/,
    ],
    [
      'attention: other heads',
      () => attention(float(1, 2, 3, 4), float(1, 2, 2, 4), float(1, 2, 2, 4)),
      'ERR_SHAPE',
      /k has shape/,
    ],
    [
      'attention: other values',
      () => attention(float(1, 2, 3, 4), float(1, 5, 3, 4), float(1, 6, 3, 4)),
      'ERR_SHAPE',
      /v has shape/,
    ],
    [
      'attention: mixed dtypes',
      () => attention(float(1, 2, 3, 4), narrow(1, 2, 3, 4), float(1, 2, 3, 4)),
      'ERR_DTYPE',
      /k is bfloat16/,
    ],
    [
      'attention: a scale of NaN',
      () => attention(float(1, 2, 3, 4), float(1, 2, 3, 4), float(1, 2, 3, 4), { scale: NaN }),
      'ERR_INVALID_ARGUMENT',
      /scale/,
    ],
    ['crossEntropy: rank 3', () => crossEntropy(float(1, 2, 3), labels), 'ERR_SHAPE', /logits .*rank 2/],
    ['crossEntropy: other count of labels', () => crossEntropy(float(3, 4), labels), 'ERR_SHAPE', /labels/],
    [
      'crossEntropy: labels out of range',
      () => crossEntropy(float(2, 4), [0, 4]),
      'ERR_INVALID_ARGUMENT',
      /label 4 of row 1.*0 to 3/,
    ],
    [
      'crossEntropy: a negative label',
      () => crossEntropy(float(2, 4), [-1, 0]),
      'ERR_INVALID_ARGUMENT',
      /label -1 of row 0/,
    ],
    [
      'crossEntropy: a fractional label',
      () => crossEntropy(float(2, 4), [0.5, 0]),
      'ERR_INVALID_ARGUMENT',
      /label 0\.5 of row 0/,
    ],
    [
      'crossEntropy: a label of NaN',
      () => crossEntropy(float(2, 4), [0, NaN]),
      'ERR_INVALID_ARGUMENT',
      /label NaN of row 1/,
    ],
    [
      'crossEntropy: float32 labels',
      () => crossEntropy(float(2, 4), float(2)),
      'ERR_DTYPE',
      /labels is float32/,
    ],
    [
      'crossEntropy: no labels',
      () => crossEntropy(float(2, 4), anything(undefined)),
      'ERR_INVALID_ARGUMENT',
      /labels/,
    ],
    [
      'crossEntropy: a smoothing of 1',
      () => crossEntropy(float(2, 4), labels, { labelSmoothing: 1 }),
      'ERR_INVALID_ARGUMENT',
      /labelSmoothing/,
    ],
  ])
})

describe('soft routing', () => {
  const options = { numExperts: 2 }
  const x = float(1, 4, 5)
  const phi = float(5, 6)
  const one = float(1)
  refuse([
    ['tokens of rank 2', () => softLogits(float(4, 5), phi, one, options), 'ERR_SHAPE', /x .*rank 3/],
    [
      'a Phi of other height',
      () => softLogits(x, float(4, 6), one, options),
      'ERR_SHAPE',
      /phi has shape \[4, 6\]/,
    ],
    ['a bfloat16 Phi', () => softLogits(x, narrow(5, 6), one, options), 'ERR_DTYPE', /phi is bfloat16/],
    [
      'a scale of two elements',
      () => softLogits(x, phi, float(2), options),
      'ERR_INVALID_ARGUMENT',
      /scale has shape/,
    ],
    [
      'slots that cannot be shared',
      () => softLogits(x, phi, one, { numExperts: 4 }),
      'ERR_INVALID_ARGUMENT',
      /6 slots.*4 experts/,
    ],
    ['no experts', () => softLogits(x, phi, one, { numExperts: 0 }), 'ERR_INVALID_ARGUMENT', /0 experts/],
    ['an eps of 0', () => softLogits(x, phi, one, { ...options, eps: 0 }), 'ERR_INVALID_ARGUMENT', /eps/],
    ['an eps of NaN', () => softLogits(x, phi, one, { ...options, eps: NaN }), 'ERR_INVALID_ARGUMENT', /eps/],
    [
      'negative noise',
      () => softLogits(x, phi, one, { ...options, noiseStd: -1 }),
      'ERR_INVALID_ARGUMENT',
      /noiseStd/,
    ],
    [
      'infinite noise',
      () => softLogits(x, phi, one, { ...options, noiseStd: Infinity }),
      'ERR_INVALID_ARGUMENT',
      /noiseStd/,
    ],
    [
      'a float32 mask',
      () => softLogits(x, phi, one, { ...options, mask: float(1, 4) }),
      'ERR_DTYPE',
      /mask is float32/,
    ],
    [
      'a mask of other length',
      () => softLogits(x, phi, one, { ...options, mask: whole(1, 5) }),
      'ERR_SHAPE',
      /mask/,
    ],
    [
      'dispatch: other tokens',
      () => dispatch(plan(), float(1, 5, 7)),
      'ERR_SHAPE',
      /x has shape \[1, 5, 7\]/,
    ],
    [
      'dispatch: no logits',
      () => dispatch(plan({ logits: null }), float(1, 4, 7)),
      'ERR_INVALID_ARGUMENT',
      /logits/,
    ],
    [
      'dispatch: no experts',
      () => dispatch(plan({ numExperts: 0 }), float(1, 4, 7)),
      'ERR_INVALID_ARGUMENT',
      /1 or more/,
    ],
    [
      'dispatch: unknown weights',
      () => dispatch(plan({ dispatch: anything('hard') }), float(1, 4, 7)),
      'ERR_INVALID_ARGUMENT',
      /'hard'.*'soft'/,
    ],
    [
      'dispatch: other logits',
      () => dispatch(plan({ logits: float(1, 4, 5) }), float(1, 4, 7)),
      'ERR_SHAPE',
      /logits/,
    ],
    [
      'dispatch: other log-sum-exps',
      () => dispatch(plan({ dispatchLse: float(1, 5) }), float(1, 4, 7)),
      'ERR_SHAPE',
      /dispatchLse/,
    ],
    [
      'dispatch: log-sum-exps of bfloat16',
      () => dispatch(plan({ dispatchLse: narrow(1, 6) }), float(1, 4, 7)),
      'ERR_DTYPE',
      /dispatchLse/,
    ],
    [
      'combine: other slots',
      () => combine(plan(), float(2, 4, 7)),
      'ERR_SHAPE',
      /slots has shape \[2, 4, 7\]/,
    ],
  ])
})

describe('optimiser steps', () => {
  const lists = (change: Readonly<Record<string, unknown>> = {}) => ({
    values: [float(3).handle],
    gradients: [float(3).handle],
    first: [float(3).handle],
    second: [float(3).handle],
    copies: [null],
    rates: [0.1],
    decays: [0],
    step: 1,
    eps: 1e-8,
    beta1: 0.9,
    ...change,
  })
  const step = (change: Readonly<Record<string, unknown>>) => () => {
    const l = lists(change)
    native.adamwStep(
      l.values,
      l.gradients,
      l.first,
      l.second,
      l.copies,
      l.rates,
      l.decays,
      l.beta1,
      0.999,
      l.eps,
      l.step,
      null,
    )
  }
  refuse([
    ['no parameters', step({ values: [] }), 'ERR_INVALID_ARGUMENT', /no parameters/],
    ['lists of other lengths', step({ rates: [] }), 'ERR_INVALID_ARGUMENT', /lengths/],
    ['a gradient of other shape', step({ gradients: [float(4).handle] }), 'ERR_SHAPE', /gradient/],
    ['a bfloat16 gradient', step({ gradients: [narrow(3).handle] }), 'ERR_DTYPE', /gradient is bfloat16/],
    ['a learning rate of NaN', step({ rates: [NaN] }), 'ERR_INVALID_ARGUMENT', /learningRate/],
    ['an infinite weight decay', step({ decays: [Infinity] }), 'ERR_INVALID_ARGUMENT', /weightDecay/],
    ['a beta of 1', step({ beta1: 1 }), 'ERR_INVALID_ARGUMENT', /beta1/],
    ['an eps of 0', step({ eps: 0 }), 'ERR_INVALID_ARGUMENT', /eps/],
    ['an infinite eps', step({ eps: Infinity }), 'ERR_INVALID_ARGUMENT', /eps/],
    ['step 0', step({ step: 0 }), 'ERR_INVALID_ARGUMENT', /step is 0/],
    ['no tensors for the norm', () => native.globalNorm([], 1), 'ERR_INVALID_ARGUMENT', /no tensors/],
    ['a negative norm', () => native.globalNorm([float(3).handle], -1), 'ERR_INVALID_ARGUMENT', /maxNorm/],
  ])
})

describe('tapes', () => {
  const x = device.tensor([1, 2], [2], { requiresGrad: true })
  const recorded = (): [Tape, Tensor] => {
    const tape = new Tape()
    return [tape, tape.record(() => sum(x))]
  }
  refuse([
    [
      'backward twice',
      () => {
        const [tape, loss] = recorded()
        tape.backward(loss)
        tape.backward(loss)
      },
      'ERR_BACKWARD_TWICE',
      /already.*record the step again/,
    ],
    [
      'record twice',
      () => {
        const [tape] = recorded()
        tape.record(() => sum(x))
      },
      'ERR_BACKWARD_TWICE',
      /new Tape/,
    ],
    ['a nested tape', () => new Tape().record(() => recorded()), 'ERR_INVALID_ARGUMENT', /cannot be nested/],
    [
      'a loss from elsewhere',
      () => {
        const [tape] = recorded()
        tape.backward(sum(x))
      },
      'ERR_NOT_RECORDED',
      /record\(\)/,
    ],
    [
      'a loss without parameters',
      () => {
        const tape = new Tape()
        tape.backward(tape.record(() => sum(float(2))))
      },
      'ERR_NOT_RECORDED',
      /depends on no parameter/,
    ],
    ['a tape that recorded nothing', () => new Tape().backward(float()), 'ERR_NOT_RECORDED', /record\(\)/],
    [
      'a loss of several elements',
      () => {
        const tape = new Tape()
        tape.backward(tape.record(() => scale(x, 2)))
      },
      'ERR_SHAPE',
      /\[2\].*mean\(\)/,
    ],
    [
      'a loss that is none',
      () => {
        const [tape] = recorded()
        tape.backward(anything(3))
      },
      'ERR_NOT_RECORDED',
      /record/,
    ],
    [
      'an operand that was disposed of before backward',
      () => {
        const tape = new Tape()
        const y = device.tensor([3, 4], [2], { requiresGrad: true })
        const loss = tape.record(() => sum(multiply(x, y)))
        y.dispose()
        tape.backward(loss)
      },
      'ERR_DISPOSED',
      /disposed/,
    ],
    [
      'a disposed tape',
      () => {
        const [tape, loss] = recorded()
        tape.dispose()
        tape.backward(loss)
      },
      'ERR_BACKWARD_TWICE',
      /freed|already/,
    ],
  ])
})
