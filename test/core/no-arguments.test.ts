// Functions of the data, the training and the routers that get null where they want something: the error has a code.
import { expect, it } from 'vitest'
import * as api from '../../lib/index.js'

type Anything = (...values: unknown[]) => unknown

const CALLS: readonly (readonly [name: keyof typeof api, ...values: unknown[]])[] = [
  ['scope', null],
  ['noGrad', 5],
  ['customGradient', 'f', null],
  ['customGradient', 'f', [], null],
  ['train', null],
  ['evaluate', null, null, null],
  ['evaluateRun', null],
  ['fewShotAccuracy', null, null, null],
  ['classifyPictures', null, null],
  ['classifyFiles', null, null],
  ['loadImages', null, null],
  ['openDataset', null],
  ['readCifarFolder', null],
  ['readIdxFolder', {}],
  ['readIdxPair', 1, 2],
  ['readImageFolder', '/', null],
  ['sliceDataset', null, 1, 2],
  ['channelStatistics', null],
  ['withChannels', null, 7],
  ['saveCheckpoint', null, null],
  ['saveCheckpoint', 'x', { model: null }],
  ['loadCheckpoint', null, null],
  ['writeSafetensors', null, null],
  ['writeReport', null, null],
  ['readMetrics', null],
  ['readEvaluation', 5],
  ['softMoeCost', null],
  ['sparseMoeCost', null, 3],
  ['readSparseRouting', null],
  ['gateHistogram', { rowGate: [1] }, -1],
  ['gateHistogram', { rowGate: [1] }, 2 ** 40],
]

it.each(CALLS.map((call) => [call] as const))('%s', async ([name, ...values]) => {
  const call = async (): Promise<unknown> => await (api[name] as Anything)(...values)
  const error: unknown = await call().then(
    () => undefined,
    (cause: unknown) => cause,
  )
  expect(error).toBeInstanceOf(api.SoftMoEError)
  expect((error as api.SoftMoEError).code).toMatch(
    /^ERR_(INVALID_ARGUMENT|OUT_OF_MEMORY|FILE_READ|FILE_NOT_FOUND)$/,
  )
})
