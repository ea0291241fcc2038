// Values at the ends of what training meets: logits of ±1e4 and tokens that are zero stay finite through every router,
// forward and backward, in both dtypes.
import { describe, expect, it } from 'vitest'
import { Random } from '../../lib/core/random.js'
import {
  add,
  asDType,
  createRouter,
  type FloatDType,
  MoE,
  RandomSource,
  ROUTER_NAMES,
  type RouterName,
  sum,
  Tape,
} from '../../lib/index.js'
import { device, expectNoTensorsLeftBehind } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const [BATCH, TOKENS, DIM, EXPERTS] = [2, 6, 8, 4]

/** Tokens of size 1, or zero: every other one, or all. */
const TOKENS_OF = {
  ordinary: (normal: number) => normal,
  'every other zero': (normal: number, token: number) => (token % 2 === 0 ? 0 : normal),
  'all zero': () => 0,
  'all alike': () => 1,
} as const

/** Output, auxiliary loss and all gradients of a layer whose logits reach `scale`. */
async function valuesOf(
  router: RouterName,
  dtype: FloatDType,
  scale: number,
  tokens: keyof typeof TOKENS_OF,
): Promise<ReadonlyMap<string, ArrayLike<number>>> {
  const context = { device, dtype, random: new RandomSource(3) }
  const layer = new MoE(
    createRouter(router, { dim: DIM, numExperts: EXPERTS, tokens: TOKENS }, context),
    { dim: DIM, hiddenDim: 12, numExperts: EXPERTS },
    context,
  )
  const parameters = layer.parameters()
  const random = new Random(5, 0)
  // Soft MoE's logits are cosines times the scale; the others' are products with a kernel.
  parameters.get('Router/scale')?.set([scale])
  const kernel = parameters.get('Router/dense/kernel')
  kernel?.set(Float32Array.from({ length: kernel.value.size }, (_, i) => scale * (random.uniform(i) - 0.25)))
  const x = device.tensor(
    Float32Array.from({ length: BATCH * TOKENS * DIM }, (_, i) =>
      TOKENS_OF[tokens](2 * random.uniform(1000 + i) - 1, Math.floor(i / DIM)),
    ),
    [BATCH, TOKENS, DIM],
    { dtype, requiresGrad: true },
  )
  const tape = new Tape()
  const { loss, output } = tape.record(() => {
    const results = layer.forwardWithLoss(x)
    const task = asDType(sum(results.output), 'float32')
    const { auxiliaryLoss } = results
    return { loss: auxiliaryLoss === null ? task : add(task, auxiliaryLoss), output: results.output }
  })
  const values = new Map<string, ArrayLike<number>>([
    ['the loss', await loss.data()],
    ['the output', await output.data()],
  ])
  tape.backward(loss)
  if (x.grad !== null) values.set('the gradient of the tokens', await x.grad.data())
  for (const [path, parameter] of parameters) {
    if (parameter.grad !== null) values.set(`the gradient of ${path}`, await parameter.grad.data())
  }
  x.grad?.dispose()
  for (const tensor of [loss, output, x]) tensor.dispose()
  layer.dispose()
  return values
}

describe.each(ROUTER_NAMES)('the router %s', (router) => {
  it.each([
    [1e4, 'ordinary'],
    [-1e4, 'ordinary'],
    [1e4, 'every other zero'],
    [-1e4, 'all alike'],
    [1, 'every other zero'],
    [1, 'all zero'],
  ] as const)('is finite at a scale of %d with tokens that are %s', async (scale, tokens) => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const values = await valuesOf(router, dtype, scale, tokens)
      expect(values.has('the gradient of the tokens')).toBe(true)
      expect([...values.keys()].filter((name) => name.includes('Mlp/'))).toHaveLength(4)
      for (const [what, elements] of values) {
        expect(Array.from(elements).every(Number.isFinite), `${what} in ${dtype}`).toBe(true)
      }
    }
  })
})
