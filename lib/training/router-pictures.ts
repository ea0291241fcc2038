/** What the routers of a model do to some images, as plain numbers for metrics and pictures. */
import type { Tensor } from '../core/tensor.js'
import { noGrad } from '../core/tape.js'
import { patchGrid } from '../models/config.js'
import type { VisionTransformer } from '../models/vision-transformer.js'
import { SoftRouter } from '../routers/soft.js'
import type { RouterPicture, SoftRouterPicture } from './evaluation.js'
import type { LayerRouterMetrics } from './metrics.js'

/** Samples of which all weights are kept; of the others only what is summed. */
const DRAWN_SAMPLES = 6

/** The weights of a soft layer on the host, each `[images][tokens][slots]`, row-major. */
interface HostWeights {
  readonly layer: number
  readonly router: SoftRouter
  readonly images: number
  readonly tokens: number
  readonly slots: number
  readonly dispatch: ArrayLike<number>
  readonly combine: ArrayLike<number>
}

async function softWeights(model: VisionTransformer, makeImages: () => Tensor): Promise<HostWeights[]> {
  const images = makeImages()
  const inputs = model.moeInputs(images)
  images.dispose()
  const found: HostWeights[] = []
  for (const { block, layer, input } of inputs) {
    const { router } = layer
    if (router instanceof SoftRouter) {
      const { dispatch, combine } = noGrad(() => router.weights(input))
      const [count = 0, tokens = 0, slots = 0] = dispatch.shape
      const [dispatchValues, combineValues] = await Promise.all([dispatch.data(), combine.data()])
      dispatch.dispose()
      combine.dispose()
      found.push({
        layer: block,
        router,
        images: count,
        tokens,
        slots,
        dispatch: dispatchValues,
        combine: combineValues,
      })
    }
    input.dispose()
  }
  return found
}

/** Cheap numbers of each mixture layer for some images. */
export async function layerMetrics(
  model: VisionTransformer,
  makeImages: () => Tensor,
): Promise<LayerRouterMetrics[]> {
  const layers = await softWeights(model, makeImages)
  return layers.map(({ layer, router, images, tokens, slots, dispatch, combine }) => {
    const tokenWeights = Array.from({ length: images * tokens }, (_, token) =>
      sumOf(dispatch, token * slots, slots),
    )
    const shares = expertShares(combine, images * tokens, slots, router.options.slotsPerExpert)
    return {
      layer,
      router: router.method,
      metrics: {
        dispatchEntropy: entropyOf(dispatch) / (images * slots),
        combineEntropy: entropyOf(combine) / (images * tokens),
        dispatchMax: extreme(dispatch, Math.max, -Infinity),
        combineMax: extreme(combine, Math.max, -Infinity),
        tokenWeightMin: extreme(tokenWeights, Math.min, Infinity),
        tokenWeightMax: extreme(tokenWeights, Math.max, -Infinity),
        expertImbalance: relativeDeviation(shares),
      },
    }
  })
}

/** What the report draws of each mixture layer. */
export async function routerPictures(
  model: VisionTransformer,
  makeImages: () => Tensor,
): Promise<RouterPicture[]> {
  const grid = patchGrid(model.config)
  // A class token has no place in the picture: the patches follow it.
  const hidden = model.classToken === null ? 0 : 1
  const layers = await softWeights(model, makeImages)
  return layers.map(({ layer, router, images, tokens, slots, dispatch, combine }): SoftRouterPicture => {
    const { numExperts, slotsPerExpert } = router.options
    const patches = Array.from({ length: tokens - hidden }, (_, token) => token + hidden)
    const at = (image: number, token: number, slot: number): number => (image * tokens + token) * slots + slot
    return {
      kind: 'soft',
      layer,
      router: router.method,
      numExperts,
      slotsPerExpert,
      grid,
      expertImportance: expertShares(combine, images * tokens, slots, slotsPerExpert),
      tokenWeights: Array.from({ length: images }, (_, image) =>
        patches.map((token) => sumOf(dispatch, at(image, token, 0), slots)),
      ).flat(),
      samples: Array.from({ length: Math.min(images, DRAWN_SAMPLES) }, (_, image) => ({
        sample: image,
        dispatch: Array.from({ length: slots }, (__, slot) =>
          patches.map((token) => dispatch[at(image, token, slot)]),
        ),
        combine: patches.map((token) =>
          Array.from({ length: slots }, (__, slot) => combine[at(image, token, slot)]),
        ),
      })),
    }
  })
}

function sumOf(values: ArrayLike<number>, start: number, count: number): number {
  let sum = 0
  for (let i = start; i < start + count; i++) sum += values[i]
  return sum
}

function entropyOf(weights: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < weights.length; i++) if (weights[i] > 0) sum -= weights[i] * Math.log(weights[i])
  return sum
}

function extreme(values: ArrayLike<number>, choose: (a: number, b: number) => number, start: number): number {
  let found = start
  for (let i = 0; i < values.length; i++) found = choose(found, values[i])
  return found
}

/** Share of the combine weight that each expert gets. */
function expertShares(
  combine: ArrayLike<number>,
  rows: number,
  slots: number,
  slotsPerExpert: number,
): number[] {
  const shares = Array.from({ length: slots / slotsPerExpert }, () => 0)
  for (let i = 0; i < rows * slots; i++) shares[Math.floor((i % slots) / slotsPerExpert)] += combine[i] / rows
  return shares
}

/** Standard deviation over mean. */
function relativeDeviation(values: readonly number[]): number {
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length
  return Math.sqrt(variance) / mean
}
