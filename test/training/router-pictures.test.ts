import { describe, expect, it } from 'vitest'
import { RandomSource, ROUTER_NAMES, type Tensor, VisionTransformer } from '../../lib/index.js'
import { layerMetrics, routerPictures } from '../../lib/training/router-pictures.js'
import { randomSource } from '../reference/array.js'
import { device, expectNoTensorsLeftBehind } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const IMAGES = 3

function makeImages(): Tensor {
  return device.tensor(randomSource(1).array([IMAGES, 8, 8, 3]).data, [IMAGES, 8, 8, 3])
}

describe('what routers do to images', () => {
  it.each(ROUTER_NAMES)('is measured and drawn for %s, without the class token', async (router) => {
    const model = new VisionTransformer(
      {
        imageSize: 8,
        patchSize: 2,
        width: 12,
        depth: 2,
        numHeads: 2,
        mlpDim: 12,
        numClasses: 3,
        classifier: 'token',
        moe: { router, numExperts: 4, blocks: [1] },
      },
      { device, random: new RandomSource(5) },
    ).eval()
    const [metrics] = await layerMetrics(model, makeImages)
    expect(metrics.layer).toBe(1)
    expect(Object.values(metrics.metrics).every(Number.isFinite)).toBe(true)
    const [picture] = await routerPictures(model, makeImages)
    expect([picture.layer, picture.numExperts, ...picture.grid]).toEqual([1, 4, 4, 4])
    expect(picture.router).toBe(metrics.router)
    expect(picture.expertImportance.reduce((a, b) => a + b)).toBeCloseTo(1, 5)
    expect(picture.samples.map(({ sample }) => sample)).toEqual([0, 1, 2])
    if (picture.kind === 'soft') {
      expect(metrics.histograms).toBeUndefined()
      const { dispatch, combine } = picture.samples[0]
      expect(dispatch.map((slot) => slot.length)).toEqual(new Array(4 * picture.slotsPerExpert).fill(16))
      expect(combine).toHaveLength(16)
      expect(picture.tokenWeights).toHaveLength(IMAGES * 16)
    } else {
      const { load, importance, expertsPerToken, gates } = picture.histograms!
      expect([load, importance, gates].map((shares) => shares.length)).toEqual([4, 4, 20])
      for (const shares of [load, importance, expertsPerToken, gates]) {
        expect(shares.reduce((a, b) => a + b)).toBeCloseTo(1, 10)
      }
      expect(metrics.histograms).toEqual(picture.histograms)
      expect(expertsPerToken[0]).toBeCloseTo(picture.droppedFraction, 12)
      expect(load).toEqual(picture.expertImportance)
      expect(picture.droppedFraction).toBeCloseTo(metrics.metrics.droppedFraction, 12)
      for (const { experts } of picture.samples) {
        expect(experts).toHaveLength(16)
        expect(experts.flat().every((expert) => expert >= 0 && expert < 4)).toBe(true)
      }
    }
    model.dispose()
  })
})
