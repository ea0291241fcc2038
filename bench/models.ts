/** Whole vision transformers: dense, and Soft MoE with as many slots as tokens in the paper's blocks. */
import {
  costModel,
  crossEntropy,
  type Device,
  noGrad,
  SOFT_MOE_LAST_BLOCKS,
  Tape,
  vit,
  VisionTransformer,
  type VisionTransformerConfig,
} from '../lib/index.js'
import { BACKBONES, slotsLikeTokens } from './backbones.js'
import {
  type BenchCase,
  type CaseOptions,
  passFlops,
  type PreparedCase,
  weightMemory,
  weightTraffic,
} from './cases.js'

const IMAGE_SIZE = 224
const NUM_CLASSES = 1000

function configuration(kind: 'dense' | 'soft'): VisionTransformerConfig {
  const dense = { ...vit('S/16'), imageSize: IMAGE_SIZE, numClasses: NUM_CLASSES }
  if (kind === 'dense') return dense
  const { numExperts, slotsPerExpert } = slotsLikeTokens('S/16')
  const blocks = { last: SOFT_MOE_LAST_BLOCKS.S ?? 6 }
  return { ...dense, moe: { router: { name: 'soft', slotsPerExpert }, numExperts, blocks } }
}

function prepareModel(
  device: Device,
  config: VisionTransformerConfig,
  { batch, dtype, pass }: CaseOptions,
): PreparedCase {
  const model = new VisionTransformer(config, { device, dtype })
  const images = device.uniform([batch, IMAGE_SIZE, IMAGE_SIZE, 3], { key: { seed: 1, stream: 0 } })
  const dispose = (): void => {
    model.dispose()
    images.dispose()
  }
  if (pass === 'forward') {
    model.eval()
    return { run: () => noGrad(() => model.forward(images)).dispose(), dispose }
  }
  const labels = Int32Array.from({ length: batch }, (_, i) => i % NUM_CLASSES)
  const run = (): void => {
    const tape = new Tape()
    const loss = tape.record(() => crossEntropy(model.forward(images), labels))
    tape.backward(loss)
    loss.dispose()
    model.zeroGrad()
  }
  return { run, dispose }
}

/** ViT-S/16 at 224 pixels. */
export function modelCase(kind: 'dense' | 'soft', options: CaseOptions): BenchCase {
  const { dtype, batch, pass, threads, extent } = options
  const config = configuration(kind)
  const { parameters, flops } = costModel(config)
  const { numExperts, slotsPerExpert } = slotsLikeTokens('S/16')
  const { dim, hiddenDim, tokens } = BACKBONES['S/16']
  // A block keeps about 20 rows of the model's width for each token.
  const activations = 4 * batch * tokens * (pass === 'forward' ? 4 * hiddenDim : 20 * dim * vit('S/16').depth)
  return {
    group: 'models',
    name: `${kind === 'dense' ? 'dense ViT' : `Soft MoE ViT ${numExperts}x${slotsPerExpert}`} S/16 B=${batch}`,
    family: `models B=${batch}, ${pass}, ${dtype}, ${threads}`,
    pass,
    dtype,
    weights: null,
    threads,
    extent,
    shape: { batch, tokens, dim, ...(kind === 'soft' && { numExperts, slotsPerExpert }) },
    flops: passFlops(batch * flops, pass),
    bytes: weightTraffic(parameters, dtype, pass),
    memoryBytes: weightMemory(parameters, dtype, pass) + activations,
    problem: null,
    prepare: (device) => prepareModel(device, config, options),
  }
}
