// The same with products by TMA and wgmma, where groups have at least 128 rows.
import { describe, it, vi } from 'vitest'
import { openDevice } from '../../../lib/index.js'
import {
  attentionLayer,
  expectOracle,
  mlpLayer,
  runsWhole,
  softMoELayer,
  tokensChoiceLayer,
} from '../../support/vit-layers.js'

// Before the device is opened.
vi.hoisted(() => {
  process.env.SOFTMOE_CUDA_WGMMA = '1'
})

const cases = [
  mlpLayer(1),
  // Ragged groups of gathered rows, 130 on the average.
  tokensChoiceLayer(3, 1),
  ...(runsWhole ? [softMoELayer(2, 64, 2), attentionLayer(2)] : []),
]

describe('a layer of ViT-S/16, by wgmma', () => {
  it.each(cases.map((layer) => ({ layer, name: layer.name, batch: layer.batch })))(
    'agrees with the oracle: $name in bfloat16, batch $batch',
    ({ layer }) => expectOracle(openDevice('cuda'), layer, 'bfloat16'),
  )
})
