// Layers of ViT-S/16 at their real sizes on the CUDA device against the float64 oracles.
import { describe, it } from 'vitest'
import { openDevice } from '../../../lib/index.js'
import type { Storage } from '../../support/arbitraries.js'
import {
  attentionLayer,
  expectOracle,
  mlpLayer,
  runsWhole,
  softMoELayer,
  tokensChoiceLayer,
  type VitLayer,
} from '../../support/vit-layers.js'

const cases: readonly (readonly [VitLayer, Storage])[] = [
  [softMoELayer(128, 1, 1), 'bfloat16'],
  // Float32 products take six times as many tensor instructions.
  [softMoELayer(runsWhole ? 128 : 32, 1, 1), 'float32'],
  [tokensChoiceLayer(16, 1), 'bfloat16'],
  ...(runsWhole ? [[tokensChoiceLayer(16, 1), 'float32'] as const] : []),
  [attentionLayer(1), 'float32'],
  [attentionLayer(2), 'bfloat16'],
  [mlpLayer(1), 'float32'],
  [mlpLayer(runsWhole ? 2 : 1), 'bfloat16'],
]

describe('a layer of ViT-S/16', () => {
  it.each(cases.map(([layer, dtype]) => ({ layer, dtype, name: layer.name, batch: layer.batch })))(
    'agrees with the oracle: $name in $dtype, batch $batch',
    ({ layer, dtype }) => expectOracle(openDevice('cuda'), layer, dtype),
  )
})
