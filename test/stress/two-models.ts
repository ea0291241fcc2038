/**
 * Two models that train at the same time on one device, step by step in any order, give the bits that each gives alone;
 * so do models that train in two threads over the one pool of kernel threads, whatever its size.
 */
import {
  AdamW,
  crossEntropy,
  openDevice,
  RandomSource,
  setThreads,
  VisionTransformer,
  type FloatDType,
} from '../../lib/index.js'
import { ROUTER_NAMES, type RouterName } from '../../lib/routers/names.js'
import { TINY_MODEL } from '../training/tiny-run.js'
import { Xorshift } from './random.js'
import { check, figure, quick, seed } from './tally.js'

const STEPS = quick ? 10 : 100

interface Training {
  readonly router: RouterName
  readonly dtype: FloatDType
  readonly seed: number
}

/** Trains, waiting now and then as `pause` says, and returns losses and parameters as text. */
async function trained({ router, dtype, seed: own }: Training, pause: () => Promise<void>): Promise<string> {
  const device = openDevice('cpu')
  const model = new VisionTransformer(
    { ...TINY_MODEL, imageSize: 8, channels: 1, numClasses: 3, moe: { ...TINY_MODEL.moe, router } },
    { device, dtype, random: new RandomSource(own) },
  )
  const optimizer = new AdamW(model.parameters(), { learningRate: 1e-3, clipNorm: 1, weightDecay: 0.01 })
  const labels = Int32Array.from({ length: 8 }, (_, i) => i % 3)
  const losses: number[] = []
  for (let step = 0; step < STEPS; step++) {
    const images = device.normal([8, 8, 8, 1], { key: { seed: own, stream: 1_000_000 + step } })
    await pause()
    const { loss } = await optimizer.step(() => crossEntropy(model.forward(images), labels))
    images.dispose()
    losses.push(loss)
  }
  const values = await Promise.all([...model.namedParameters()].map(([, { value }]) => value.data()))
  optimizer.dispose()
  model.dispose()
  return `${losses.join()} ${values.map((one) => Buffer.from(one.buffer).toString('base64')).join(' ')}`
}

const atOnce = (): Promise<void> => Promise.resolve()

export async function trainTwoModels(): Promise<void> {
  const random = new Xorshift(seed)
  const sometimes = (): Promise<void> =>
    random.below(2) === 0 ? Promise.resolve() : new Promise((done) => setTimeout(done, random.below(3)))
  const dtypes = ['float32', 'bfloat16'] as const
  let compared = 0
  let different = 0
  for (const [i, router] of ROUTER_NAMES.entries()) {
    const one: Training = { router, dtype: dtypes[i % 2], seed: i }
    const other: Training = {
      router: ROUTER_NAMES[(i + 3) % ROUTER_NAMES.length],
      dtype: dtypes[(i + 1) % 2],
      seed: 100 + i,
    }
    setThreads(1)
    const alone = [await trained(one, atOnce), await trained(other, atOnce)]
    setThreads(2 + random.below(3))
    const together = await Promise.all([trained(one, sometimes), trained(other, sometimes)])
    compared += 2
    if (alone[0] !== together[0]) different += 1
    if (alone[1] !== together[1]) different += 1
  }
  const { tensors } = openDevice('cpu').memoryUsage()
  figure(`  ${compared} models trained ${STEPS} steps alone and in pairs on one device: ${different} differ`)
  check(different === 0, `${different} of ${compared} models differ when another one trains beside them`)
  check(tensors === 0, `${tensors} tensors are left`)
}
