// Refusals of operations on matrices, rows and routings: wrong operands and hyperparameters.
import { describe } from 'vitest'
import {
  attention,
  combine,
  crossEntropy,
  combineRows,
  dispatch,
  experts,
  gatherGates,
  l2Normalize,
  layerNorm,
  linear,
  loadLoss,
  matmul,
  normalizeSelected,
  selectExperts,
  selectTokens,
  sinkhornPlan,
  softLogits,
  softmax,
  type SoftRoutingPlan,
  sparsePlan,
} from '../../lib/index.js'
import { native } from '../../lib/native.js'
import { anything, float, narrow, refuse, whole } from '../support/refusal.js'

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

describe('routing by index', () => {
  const scores = float(2, 4, 3)
  const lists = {
    expertOffsets: whole(4),
    rowToken: whole(5),
    tokenOffsets: whole(9),
    tokenRows: whole(5),
  }
  refuse([
    ['scores of rank 2', () => selectExperts(float(4, 3), 1), 'ERR_SHAPE', /scores .*rank 3/],
    ['bfloat16 scores', () => selectExperts(narrow(2, 4, 3), 1), 'ERR_DTYPE', /scores is bfloat16/],
    ['no experts', () => selectExperts(float(2, 4, 0), 1), 'ERR_INVALID_ARGUMENT', /no experts/],
    ['k of 0', () => selectExperts(scores, 0), 'ERR_INVALID_ARGUMENT', /k is 0; wanted 1 to 3/],
    ['k over the experts', () => selectExperts(scores, 4), 'ERR_INVALID_ARGUMENT', /k is 4; wanted 1 to 3/],
    ['a fractional k', () => selectExperts(scores, 1.5), 'ERR_INVALID_ARGUMENT', /1\.5.*whole number/],
    [
      'an unknown priority',
      () => selectExperts(scores, 1, anything('best')),
      'ERR_INVALID_ARGUMENT',
      /'best'/,
    ],
    ['a capacity over the tokens', () => selectTokens(scores, 5), 'ERR_INVALID_ARGUMENT', /capacity is 5/],
    ['a capacity of 0', () => selectTokens(scores, 0), 'ERR_INVALID_ARGUMENT', /capacity is 0/],
    ['float32 experts', () => normalizeSelected(scores, float(2, 4, 1)), 'ERR_DTYPE', /expert is float32/],
    [
      'experts of other tokens',
      () => normalizeSelected(scores, whole(2, 5, 1)),
      'ERR_SHAPE',
      /expert has shape/,
    ],
    [
      'lists of float32',
      () => gatherGates(scores, { ...lists, rowToken: float(5) }),
      'ERR_DTYPE',
      /rowToken is float32/,
    ],
    [
      'lists of other length',
      () => gatherGates(scores, { ...lists, tokenRows: whole(4) }),
      'ERR_SHAPE',
      /tokenRows/,
    ],
    [
      'offsets without axes',
      () => combineRows(float(5, 2), float(5), { ...lists, tokenOffsets: whole() }),
      'ERR_SHAPE',
      /tokenOffsets/,
    ],
    ['other rows', () => combineRows(float(6, 2), float(6), lists), 'ERR_SHAPE', /rows has shape \[6, 2\]/],
    ['gates of other rows', () => combineRows(float(5, 2), float(4), lists), 'ERR_SHAPE', /rowGate/],
    ['a load loss without noise', () => loadLoss(scores, scores, 1, 0), 'ERR_INVALID_ARGUMENT', /sigma is 0/],
    ['infinite noise', () => loadLoss(scores, scores, 1, Infinity), 'ERR_INVALID_ARGUMENT', /sigma/],
    ['no iterations', () => sinkhornPlan(scores, 0), 'ERR_INVALID_ARGUMENT', /iterations is 0/],
    ['a negative limit', () => sparsePlan(scores, { k: -1 }), 'ERR_INVALID_ARGUMENT', /k is -1/],
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
