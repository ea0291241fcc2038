import { describe, expect, it } from 'vitest'
import {
  costModel,
  softMoeExtraCost,
  VisionTransformer,
  vit,
  type VisionTransformerConfig,
} from '../../lib/index.js'

/** Classes of JFT, which the papers' parameter counts include. */
const JFT_CLASSES = 29_593

/**
 * Rows of the Soft MoE paper's table 8: printed dense GFLOP and parameters (millions), and what the paper's formula makes
 * of them for Soft MoE. The table prints 8.6, 32.0, 111.1, 284.6 and 342.4 GFLOP, from unrounded dense figures.
 */
const TABLE = [
  { name: 'S/16', experts: 128, last: 6, dense: 9.2, denseParameters: 33, gflops: 8.58, parameters: 933 },
  { name: 'B/16', experts: 128, last: 6, dense: 35.1, denseParameters: 108, gflops: 31.94, parameters: 3708 },
  {
    name: 'L/16',
    experts: 128,
    last: 12,
    dense: 122.9,
    denseParameters: 333,
    gflops: 111.06,
    parameters: 13_127,
  },
  {
    name: 'H/14',
    experts: 128,
    last: 16,
    dense: 334.2,
    denseParameters: 669,
    gflops: 284.54,
    parameters: 27_318,
  },
  {
    name: 'H/14',
    experts: 256,
    last: 16,
    dense: 334.2,
    denseParameters: 669,
    gflops: 342.25,
    parameters: 54_177,
  },
]

function preset(name: string): VisionTransformerConfig {
  return { ...vit(name), numClasses: JFT_CLASSES }
}

describe('costModel', () => {
  it.each(TABLE)('gives the parameters of $name with $experts experts', (row) => {
    const config = preset(row.name)
    const soft = {
      router: { name: 'soft', slotsPerExpert: 1 },
      numExperts: row.experts,
      blocks: { last: row.last },
    } as const
    expect(Math.abs(costModel(config).parameters / 1e6 - row.denseParameters)).toBeLessThan(1)
    expect(Math.abs(costModel({ ...config, moe: soft }).parameters / 1e6 - row.parameters)).toBeLessThan(1)
  })

  it.each(TABLE)('gives the FLOPs of $name with $experts experts from the printed dense row', (row) => {
    const { width: dim, mlpDim: hiddenDim } = vit(row.name)
    const tokens = row.name === 'H/14' ? 256 : 196
    const extra = softMoeExtraCost({ tokens, dim, hiddenDim, numExperts: row.experts, slotsPerExpert: 1 })
    expect(row.dense + (row.last * extra.flops) / 1e9).toBeCloseTo(row.gflops, 2)
  })

  it.each(TABLE)('counts the matrix products of the dense $name within 0.5 % of the printed total', (row) => {
    expect(Math.abs(costModel(preset(row.name)).flops / 1e9 / row.dense - 1)).toBeLessThan(0.005)
  })

  const small = { imageSize: 16, patchSize: 4, width: 16, depth: 3, numHeads: 2, mlpDim: 24, numClasses: 7 }
  const variants: VisionTransformerConfig[] = [
    small,
    { ...small, qkNorm: true, classifier: 'map' },
    { ...small, classifier: 'token', positionEmbedding: 'learned', representationDim: 12 },
    { ...small, channels: 1, moe: { router: 'soft', numExperts: 4, blocks: [1] } },
    { ...small, moe: { router: { name: 'soft', slotsPerExpert: 3 }, numExperts: 2, hiddenDim: 8 } },
  ]
  it.each(variants.map((config, i) => ({ config, i })))('counts what model $i holds', ({ config }) => {
    using model = new VisionTransformer(config)
    expect(costModel(config).parameters).toBe(model.parameterCount())
  })
})
