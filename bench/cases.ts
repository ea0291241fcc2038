/** What is timed: layers of the papers at their shapes, built through the public API. */
import {
  type Device,
  type FloatDType,
  type Module,
  Mlp,
  mlpCost,
  mean,
  multiply,
  noGrad,
  SoftMoE,
  softMoeCost,
  SparseMoE,
  sparseMoeCost,
  Tape,
  type Tensor,
  tokensChoice,
  expertsChoice,
} from '../lib/index.js'

/** Width, hidden width and tokens of a backbone's blocks at 224 pixels. */
const BACKBONES = {
  'S/16': { dim: 384, hiddenDim: 1536, tokens: 196 },
  'B/16': { dim: 768, hiddenDim: 3072, tokens: 196 },
  'L/16': { dim: 1024, hiddenDim: 4096, tokens: 196 },
  'H/14': { dim: 1280, hiddenDim: 5120, tokens: 256 },
} as const

export type BackboneName = keyof typeof BACKBONES

/** One row of the benchmark. */
export interface BenchCase {
  readonly name: string
  readonly dtype: FloatDType
  readonly shape: Readonly<Record<string, number>>
  /** FLOPs of matrix products, a multiply-add counting 2. */
  readonly flops: number
  /** Bytes of weights that one run must read at least once. */
  readonly weightBytes: number
  /** Builds the layer; `run` queues one run, `dispose` frees it. */
  readonly prepare: () => { readonly run: () => void; readonly dispose: () => void }
}

/** Which pass is timed. */
export type Pass = 'forward' | 'forward+backward'

interface Layer extends Module {
  forward(x: Tensor): Tensor
}

interface Options {
  readonly device: Device
  readonly dtype: FloatDType
  readonly batch: number
  readonly pass: Pass
}

function inferOnce(layer: Layer, x: Tensor): void {
  noGrad(() => layer.forward(x)).dispose()
}

function makeCase(
  name: string,
  backbone: BackboneName,
  options: Options,
  cost: { readonly flops: number; readonly parameters: number },
  make: () => Layer,
): BenchCase {
  const { device, dtype, batch, pass } = options
  const { dim, tokens } = BACKBONES[backbone]
  const passes = pass === 'forward' ? 1 : 3
  const bytesPerWeight = dtype === 'bfloat16' ? 2 : 4
  // The backward reads the weights once more and writes a float32 gradient for each.
  const weightBytes = cost.parameters * (pass === 'forward' ? bytesPerWeight : 2 * bytesPerWeight + 4)
  return {
    name: `${name} ${backbone} ${pass}`,
    dtype,
    shape: { batch, tokens, dim },
    flops: passes * batch * cost.flops,
    weightBytes,
    prepare: () => {
      const layer = make()
      if (pass === 'forward') layer.eval()
      const x = device.normal([batch, tokens, dim], { dtype, key: { seed: 1, stream: 0 } })
      const forward = (): void => inferOnce(layer, x)
      const backward = (): void => {
        const tape = new Tape()
        const loss = tape.record(() => {
          const y = layer.forward(x)
          return mean(multiply(y, y))
        })
        tape.backward(loss)
        loss.dispose()
        layer.zeroGrad()
      }
      return {
        run: pass === 'forward' ? forward : backward,
        dispose: () => {
          layer.dispose()
          x.dispose()
        },
      }
    },
  }
}

export function denseMlp(backbone: BackboneName, options: Options): BenchCase {
  const { dim, hiddenDim, tokens } = BACKBONES[backbone]
  return makeCase(
    'dense MLP',
    backbone,
    options,
    mlpCost(tokens, dim, hiddenDim),
    () => new Mlp({ dim, hiddenDim }, options),
  )
}

export function softMoe(
  backbone: BackboneName,
  experts: { readonly numExperts: number; readonly slotsPerExpert: number },
  options: Options,
): BenchCase {
  const { dim, hiddenDim, tokens } = BACKBONES[backbone]
  const shape = { dim, hiddenDim, ...experts }
  return makeCase(
    `Soft MoE ${experts.numExperts}x${experts.slotsPerExpert}`,
    backbone,
    options,
    softMoeCost({ ...shape, tokens }),
    () => new SoftMoE(shape, options),
  )
}

export function sparseMoe(
  backbone: BackboneName,
  router: 'tokens-choice' | 'experts-choice',
  numExperts: number,
  options: Options,
): BenchCase {
  const { dim, hiddenDim, tokens } = BACKBONES[backbone]
  const config = router === 'tokens-choice' ? tokensChoice({ k: 1, capacityFactor: 1 }) : expertsChoice()
  return makeCase(
    `${router} ${numExperts}`,
    backbone,
    options,
    sparseMoeCost({ tokens, dim, hiddenDim, numExperts }, tokens),
    () => new SparseMoE({ dim, hiddenDim, numExperts, router: config }, options),
  )
}

/** The standard rows; `quick` keeps the small ones. */
export function standardCases(device: Device, dtype: FloatDType, quick: boolean): readonly BenchCase[] {
  const cases: BenchCase[] = []
  for (const pass of ['forward', 'forward+backward'] as const) {
    const s16 = { device, dtype, batch: 8, pass }
    cases.push(
      denseMlp('S/16', s16),
      softMoe('S/16', { numExperts: 128, slotsPerExpert: 1 }, s16),
      softMoe('S/16', { numExperts: 16, slotsPerExpert: 12 }, s16),
      sparseMoe('S/16', 'tokens-choice', 16, s16),
      sparseMoe('S/16', 'experts-choice', 16, s16),
    )
    if (pass === 'forward')
      cases.push(softMoe('S/16', { numExperts: 128, slotsPerExpert: 1 }, { ...s16, batch: 1 }))
    if (quick) continue
    const b16 = { ...s16, batch: 4 }
    cases.push(denseMlp('B/16', b16), softMoe('B/16', { numExperts: 128, slotsPerExpert: 1 }, b16))
    if (pass === 'forward')
      cases.push(denseMlp('L/16', { ...s16, batch: 2 }), denseMlp('H/14', { ...s16, batch: 2 }))
  }
  return cases
}

/** Fixed slots, more and more experts: the cost of Soft MoE depends on the slots. */
export function expertSweep(device: Device, dtype: FloatDType): readonly BenchCase[] {
  const slots = 1024
  return [8, 32, 128, 512, 1024].map((numExperts) => {
    const slotsPerExpert = slots / numExperts
    const shape = { dim: 192, hiddenDim: 384, tokens: 196 }
    const cost = softMoeCost({ ...shape, numExperts, slotsPerExpert })
    const batch = 4
    const layerOptions = { ...shape, numExperts, slotsPerExpert }
    return {
      name: `sweep: ${slots} slots, ${numExperts} experts`,
      dtype,
      shape: { batch, ...shape, numExperts, slotsPerExpert },
      flops: batch * cost.flops,
      weightBytes: cost.parameters * (dtype === 'bfloat16' ? 2 : 4),
      prepare: () => {
        const layer = new SoftMoE(layerOptions, { device, dtype }).eval()
        const x = device.normal([batch, shape.tokens, shape.dim], { dtype, key: { seed: 1, stream: 0 } })
        return {
          run: () => inferOnce(layer, x),
          dispose: () => {
            layer.dispose()
            x.dispose()
          },
        }
      },
    }
  })
}
