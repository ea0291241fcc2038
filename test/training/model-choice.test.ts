import { describe, expect, it } from 'vitest'
import { createDataset, type ImageDataset } from '../../lib/data/dataset.js'
import { chooseModel } from '../../lib/training/model-choice.js'

function imagesOf(height: number, width: number): ImageDataset {
  const classNames = ['a', 'b']
  const pixels = new Uint8Array(2 * height * width)
  return createDataset({
    name: 'made',
    images: pixels,
    labels: Int32Array.of(0, 1),
    height,
    width,
    channels: 1,
    classNames,
  })
}

describe('the small models', () => {
  it.each([
    ['tiny', 28, 28, 7],
    ['tiny', 32, 32, 8],
    ['tiny', 8, 8, 2],
    ['tiny', 64, 48, 16],
    ['small', 28, 28, 4],
    ['small', 32, 32, 4],
    ['small', 224, 224, 28],
  ])('%s cuts images of %d × %d into patches of %d', async (model, height, width, patchSize) => {
    expect(await chooseModel({ model }, imagesOf(height, width))).toMatchObject({
      patchSize,
      imageSize: [height, width],
      channels: 1,
      numClasses: 2,
      moe: { router: { name: 'soft' }, numExperts: 8 },
    })
  })

  it('start with logits of unit variance', async () => {
    const { width, moe } = await chooseModel({ router: 'soft-uniform' }, imagesOf(28, 28))
    expect(moe?.router).toEqual({ name: 'soft', combine: 'uniform', scaleInit: Math.sqrt(width) })
  })

  it('refuse images that no square patches tile', async () => {
    await expect(chooseModel({}, imagesOf(29, 31))).rejects.toThrow(
      /no square patches tile .* 29 × 31 of made/,
    )
  })
})

describe('the router of a model', () => {
  const images = imagesOf(8, 8)
  const model = {
    patchSize: 4,
    width: 16,
    depth: 2,
    numHeads: 2,
    mlpDim: 32,
    moe: { router: { name: 'soft', dispatch: 'uniform', noiseStd: 0.5 }, numExperts: 2 },
  } as const
  const routerOf = async (
    router?: 'soft' | 'soft-uniform' | 'uniform-soft' | 'experts-choice',
  ): Promise<unknown> => (await chooseModel({ model, router }, images)).moe?.router

  it('is its own unless another one is named, and keeps its options under a name of its kind', async () => {
    expect(await routerOf()).toEqual(model.moe.router)
    expect(await routerOf('uniform-soft')).toEqual(model.moe.router)
    expect(await routerOf('soft')).toEqual({ name: 'soft', noiseStd: 0.5 })
    expect(await routerOf('soft-uniform')).toEqual({ name: 'soft', noiseStd: 0.5, combine: 'uniform' })
    expect(await routerOf('experts-choice')).toEqual({ name: 'experts-choice' })
  })

  it('keeps options by index under its own name', async () => {
    const router = { name: 'tokens-choice', k: 1 } as const
    const sparse = { ...model, moe: { router, numExperts: 2 } }
    const chosen = await chooseModel({ model: sparse, router: 'tokens-choice' }, images)
    expect(chosen.moe?.router).toEqual(router)
  })
})
