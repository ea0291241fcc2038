import { describe, expect, it } from 'vitest'
import { MODEL_GOLDENS, readModelGolden } from '../support/golden.js'
import { type Ref, worstError } from './array.js'
import { vit, type VitConfig } from './vit.js'

function withPrefix(tensors: ReadonlyMap<string, Ref>, prefix: string): Map<string, Ref> {
  return new Map(
    [...tensors]
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, value]) => [name.slice(prefix.length), value]),
  )
}

describe.each(MODEL_GOLDENS)('the reference ViT on %s', (name) => {
  const { metadata, tensors } = readModelGolden(name)
  const tensor = (key: string): Ref => {
    const value = tensors.get(key)
    if (!value) throw new Error(`${name} has no tensor ${key}`)
    return value
  }
  const result = vit(
    JSON.parse(metadata.config) as VitConfig,
    withPrefix(tensors, 'param.'),
    tensor('images'),
    tensor('labels').data,
  )

  it('gives the logits and losses of the papers’ code', () => {
    expect(worstError(result.logits.data, tensor('logits').data)).toBeLessThan(1e-12)
    expect(worstError([result.crossEntropy], tensor('cross_entropy').data)).toBeLessThan(1e-12)
    expect(worstError([result.auxiliaryLoss], tensor('auxiliary_loss').data)).toBeLessThan(1e-12)
    expect(worstError([result.loss], tensor('loss').data)).toBeLessThan(1e-12)
  })

  it('gives every gradient of the papers’ code', () => {
    const expected = withPrefix(tensors, 'grad.')
    expect([...result.gradients.keys()].sort()).toEqual([...expected.keys()].sort())
    // Gradients that are exactly zero in theory (key biases: the softmax ignores a shift) are noise on both sides.
    for (const [path, gradient] of expected) {
      const actual = result.gradients.get(path)?.data ?? []
      const negligible = gradient.data.every((g) => Math.abs(g) < 1e-15)
      if (negligible) expect(Math.max(...Array.from(actual, Math.abs)), path).toBeLessThan(1e-14)
      else expect(worstError(actual, gradient.data), path).toBeLessThan(1e-12)
    }
  })
})
