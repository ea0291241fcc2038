/** What the routers of a model do to some images, as plain numbers for metrics and pictures. */
import { visitTensors } from '../core/lifetime.js'
import { noGrad } from '../core/tape.js'
import type { Tensor } from '../core/tensor.js'
import type { MoE } from '../layers/moe.js'
import { patchGrid } from '../models/config.js'
import type { VisionTransformer } from '../models/vision-transformer.js'
import { SoftRouter } from '../routers/soft.js'
import { SparseRouter } from '../routers/sparse.js'
import {
  expertsOfTokens,
  readSparseRouting,
  sparseHistograms,
  sparseMetrics,
  type SparseRoutingTable,
} from '../routers/sparse-statistics.js'
import { routerMetrics } from '../routers/statistics.js'
import type { IndexRouterPicture, RouterPicture, SoftRouterPicture } from './evaluation.js'
import type { LayerRouterMetrics } from './metrics.js'

/** Samples of which all weights or choices are kept; of the others only what is summed. */
const DRAWN_SAMPLES = 6

/** Runs `look` on each mixture layer with its input for some images. */
async function lookAtLayers<T>(
  model: VisionTransformer,
  makeImages: () => Tensor,
  look: (layer: MoE, input: Tensor, block: number) => Promise<T>,
): Promise<T[]> {
  const images = makeImages()
  const inputs = model.moeInputs(images)
  images.dispose()
  const found: T[] = []
  for (const { block, layer, input } of inputs) {
    found.push(await look(layer, input, block))
    input.dispose()
  }
  return found
}

/** Cheap numbers of each mixture layer for some images. */
export async function layerMetrics(
  model: VisionTransformer,
  makeImages: () => Tensor,
): Promise<LayerRouterMetrics[]> {
  return lookAtLayers(model, makeImages, async (layer, input, block) => {
    const { router } = layer
    const place = { layer: block, router: router.method }
    if (!(router instanceof SparseRouter)) return { ...place, metrics: await routerMetrics(layer, input) }
    const table = await tableOf(router, input)
    return { ...place, metrics: sparseMetrics(table), histograms: sparseHistograms(table) }
  })
}

async function tableOf(router: SparseRouter, input: Tensor): Promise<SparseRoutingTable> {
  const routing = router.routing(input)
  try {
    return await readSparseRouting(routing)
  } finally {
    visitTensors(routing, (tensor) => tensor.dispose())
  }
}

/** What the report draws of each mixture layer. */
export async function routerPictures(
  model: VisionTransformer,
  makeImages: () => Tensor,
): Promise<RouterPicture[]> {
  const pictures = await lookAtLayers(model, makeImages, async ({ router, experts }, input, block) => {
    const [images = 0, tokens = 0] = input.shape
    // A class token has no place in the picture: the patches follow it.
    const hidden = model.classToken === null ? 0 : 1
    const layer: LayerFacts = {
      layer: block,
      router: router.method,
      numExperts: experts.numExperts,
      grid: patchGrid(model.config),
    }
    const patches = Array.from({ length: tokens - hidden }, (_, token) => token + hidden)
    if (router instanceof SoftRouter) {
      const { dispatch, combine } = noGrad(() => router.weights(input))
      const values = { dispatch: await dispatch.data(), combine: await combine.data() }
      dispatch.dispose()
      combine.dispose()
      return softPicture(layer, values, { images, tokens, patches, ...router.options })
    }
    if (!(router instanceof SparseRouter)) return null
    return indexPicture(layer, await tableOf(router, input), { images, tokens, patches })
  })
  return pictures.filter((picture) => picture !== null)
}

type LayerFacts = Pick<RouterPicture, 'layer' | 'router' | 'numExperts' | 'grid'>

interface Extents {
  readonly images: number
  readonly tokens: number
  /** Tokens that are patches. */
  readonly patches: readonly number[]
}

function softPicture(
  layer: LayerFacts,
  { dispatch, combine }: { readonly dispatch: ArrayLike<number>; readonly combine: ArrayLike<number> },
  { images, tokens, patches, slotsPerExpert }: Extents & { readonly slotsPerExpert: number },
): SoftRouterPicture {
  const { numExperts } = layer
  const slots = Array.from({ length: numExperts * slotsPerExpert }, (_, slot) => slot)
  const at = (image: number, token: number, slot: number): number =>
    (image * tokens + token) * slots.length + slot
  const expertImportance = new Array<number>(numExperts).fill(0)
  for (let i = 0; i < combine.length; i++) {
    expertImportance[Math.floor((i % slots.length) / slotsPerExpert)] += combine[i] / (images * tokens)
  }
  return {
    kind: 'soft',
    ...layer,
    slotsPerExpert,
    expertImportance,
    tokenWeights: Array.from({ length: images }, (_, image) =>
      patches.map((token) => slots.reduce((sum, slot) => sum + dispatch[at(image, token, slot)], 0)),
    ).flat(),
    samples: Array.from({ length: Math.min(images, DRAWN_SAMPLES) }, (_, image) => ({
      sample: image,
      dispatch: slots.map((slot) => patches.map((token) => dispatch[at(image, token, slot)])),
      combine: patches.map((token) => slots.map((slot) => combine[at(image, token, slot)])),
    })),
  }
}

function indexPicture(
  layer: LayerFacts,
  table: SparseRoutingTable,
  { images, tokens, patches }: Extents,
): IndexRouterPicture {
  const experts = expertsOfTokens(table)
  const histograms = sparseHistograms(table)
  return {
    kind: 'index',
    ...layer,
    expertImportance: histograms.load,
    histograms,
    droppedFraction: experts.filter((chosen) => chosen.length === 0).length / experts.length,
    samples: Array.from({ length: Math.min(images, 2 * DRAWN_SAMPLES) }, (_, image) => ({
      sample: image,
      experts: patches.map((token) => experts[image * tokens + token]),
    })),
  }
}
