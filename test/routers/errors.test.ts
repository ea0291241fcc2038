import { describe, expect, it } from 'vitest'
import {
  type ErrorCode,
  expertsChoice,
  routerConfig,
  sinkhornExpertsChoice,
  sinkhornTokensChoice,
  SoftMoE,
  SoftMoEError,
  sparsityConstrained,
  SparseMoE,
  type SparseMoELayerOptions,
  tokensChoice,
  vit,
  VisionTransformer,
} from '../../lib/index.js'
import { configFromFlax, type FlaxModelConfig } from '../../lib/models/flax-config.js'
import { device } from '../support/tensors.js'

const DIM = 12
const SHAPE = { dim: DIM, hiddenDim: 16, numExperts: 4 } as const

function layerOf(
  router: SparseMoELayerOptions['router'],
  options: Partial<SparseMoELayerOptions> = {},
): SparseMoE {
  return new SparseMoE({ ...SHAPE, ...options, router }, { device }).eval()
}

function expectError(run: () => unknown, code: ErrorCode, text: RegExp): void {
  try {
    run()
  } catch (error) {
    expect(SoftMoEError.is(error), String(error)).toBe(true)
    const { code: actual, message } = error as SoftMoEError
    expect([actual, message]).toEqual([code, expect.stringMatching(text)])
    return
  }
  expect.fail(`no error was thrown; wanted ${code}`)
}

describe('errors say what was given and what to do', () => {
  const x = device.zeros([2, 5, DIM])
  const bad = 'ERR_INVALID_ARGUMENT'

  it('about options', () => {
    const wrong: readonly [SparseMoELayerOptions['router'], RegExp][] = [
      [tokensChoice({ k: 5 }), /k is 5 for 4 experts; a token selects at most all of them/],
      [tokensChoice({ k: 0 }), /k is 0; wanted a whole number of 1 or more/],
      [tokensChoice({ k: 1, renormalise: true }), /renormalise with k = 1 .* choose k of 2 or more/],
      [tokensChoice({ capacityFactor: 0 }), /capacityFactor is 0; wanted a finite number over 0/],
      [tokensChoice({ capacityFactor: Infinity }), /capacityFactor is Infinity/],
      [tokensChoice({ noiseStd: -1 }), /noiseStd is -1; wanted a finite number of 0 or more/],
      [tokensChoice({ zLossWeight: -1 }), /zLossWeight is -1/],
      [tokensChoice({ multipleOf: 0 }), /multipleOf is 0/],
      [tokensChoice({ groupSize: 1.5 }), /groupSize is 1.5/],
      [
        tokensChoice({ priority: 'max', batchPriority: true }),
        /batchPriority is true and priority is 'max'; give one/,
      ],
      [tokensChoice({ priority: 'best' as 'max' }), /priority is 'best'; wanted none, max, sum/],
      [expertsChoice({ rounding: 'floor' as 'ceil' }), /rounding is 'floor'; wanted ceil, round/],
      [sinkhornTokensChoice({ iterations: 0 }), /iterations is 0/],
      [sinkhornExpertsChoice({ gates: 'both' as 'plan' }), /gates is 'both'; wanted softmax, plan/],
      [sparsityConstrained({ iterations: 1.5 }), /iterations is 1.5/],
      ['top-k' as 'tokens-choice', /the router is 'top-k'; wanted one of soft, .*sparsity-constrained/],
    ]
    for (const [router, text] of wrong) expectError(() => layerOf(router), bad, text)
    expectError(() => routerConfig('switch' as 'soft'), bad, /the router is 'switch'/)
  })

  it('about calls', () => {
    const layer = layerOf(tokensChoice({ k: 2 }), { groupSize: 4 })
    expectError(
      () => layer.forward(x),
      bad,
      /groupSize is 4, which does not divide the 10 tokens of this batch \(2 x 5\); choose a divisor/,
    )
    const mask = device.full([2, 5], 1, { dtype: 'int32' })
    const whole = layerOf(tokensChoice({ k: 2, renormalise: true }))
    expectError(
      () => whole.forward(x, { mask }),
      bad,
      /'tokens-choice' was given mask; .* takes k, capacityFactor/,
    )
    expectError(() => whole.forward(x, { k: 9 }), bad, /k is 9 for 4 experts/)
    expectError(() => whole.forward(x, { capacityFactor: -1 }), bad, /capacityFactor is -1/)
    expectError(() => whole.train().forward(x, { k: 1 }), bad, /renormalise with k = 1/)
    expectError(() => whole.routing(x, { mask }), bad, /was given mask/)
    const experts = layerOf('experts-choice')
    expectError(
      () => experts.forward(x, { k: 1 }),
      bad,
      /'experts-choice' was given k; this router takes capacityFactor/,
    )
    const soft = new SoftMoE({ ...SHAPE, slotsPerExpert: 1 }, { device })
    expectError(() => soft.forward(x, { k: 1 }), bad, /'soft' was given k; this router takes mask/)
    const flat = device.zeros([10, DIM])
    expectError(() => layer.forward(flat), 'ERR_SHAPE', /wanted \[batch, tokens, 12\]/)
    expectError(() => layer.routing(flat), 'ERR_SHAPE', /wanted \[batch, tokens, 12\]/)
    const tiny = layerOf(expertsChoice({ capacityFactor: 0.01 }))
    expectError(() => tiny.forward(x), bad, /give a capacity of 0; raise the factor/)
    for (const thing of [layer, mask, whole, experts, soft, flat, tiny]) thing.dispose()
  })

  it('about models', () => {
    for (const name of ['constructor/16', '__proto__/16', 'toString/8'])
      expect(() => vit(name)).toThrow(/wanted a size \(Ti, S, B, L, H\)/)
    const config = { ...vit('S/16'), numClasses: 2 }
    const moe = { router: 'soft', numExperts: 4, groupSize: 100 } as const
    expectError(
      () => new VisionTransformer({ ...config, moe }, { device }),
      bad,
      /groupSize is 100 for Soft MoE/,
    )
  })

  it('about configurations of the papers’ code', () => {
    const config = (router: object): FlaxModelConfig => ({
      classes: 2,
      patch: 4,
      image: 8,
      width: 8,
      depth: 2,
      heads: 2,
      mlp: 8,
      classifier: 'gap',
      position_emb: { name: 'sincos2d' },
      qk_norm: false,
      representation: null,
      moe: { layers: [1], num_experts: 2, group_size: 8, router: router as { name: string } },
    })
    expectError(
      () => configFromFlax(config({ name: 'MyRouter' })),
      bad,
      /'MyRouter' .* wanted one of SoftRouter/,
    )
    const name = 'KSparseProjectionTransportTopItemsPerExpertRouter'
    const router = { name, use_softmax_combine_weights: false }
    expectError(() => configFromFlax(config(router)), bad, /set use_softmax_combine_weights to true/)
    const routerOf = (part: object): unknown => configFromFlax(config(part)).moe?.router
    expect(routerOf({ name, maxiter: 50, dispatcher: { capacity_factor: 2 } })).toEqual({
      name: 'sparsity-constrained',
      iterations: 50,
      capacityFactor: 2,
      rounding: 'ceil',
      multipleOf: 4,
    })
    expect(routerOf({ name: 'vmoe.routing.NoisyTopExpertsPerItemRouter', num_selected_experts: 2 })).toEqual({
      name: 'tokens-choice',
      k: 2,
      rounding: 'ceil',
      multipleOf: 4,
      importanceLossWeight: 1,
      loadLossWeight: 1,
    })
    const sinkhorn = { name: 'KLProjectionNoisyTopItemsPerExpertRouter', use_softmax_combine_weights: false }
    expect(routerOf({ ...sinkhorn, noise_std: 0, dispatcher: { capacity_multiple_of: null } })).toEqual({
      name: 'sinkhorn-experts-choice',
      gates: 'plan',
      noiseStd: 0,
      rounding: 'ceil',
      multipleOf: 1,
    })
  })
})
