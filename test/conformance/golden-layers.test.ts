import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { folderOf } from '../data/temporary-folder.js'
import { goldenPath } from '../support/golden.js'
import { deviationsOfGoldenLayer, GOLDEN_LAYERS } from '../support/golden-layer.js'

const device = process.env.SOFTMOE_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu'

/** Of the largest element of each tensor. Seen: 6.8e-6 for soft_bigscale, 5e-7 for the others. */
const TOLERANCE = 2e-5

/** What each file holds: cases times tensors. */
const TENSORS: Readonly<Record<string, number>> = {
  token_choice: 12 * 3,
  expert_choice: 4 * 3,
  sinkhorn: 2,
  ksparse: 5,
  aux_losses: 3 * 6,
  vmoe_layer: 4 * 7,
  soft_small: 10,
  soft_p1: 10,
  soft_bigscale: 10,
  capacity: 1,
}

describe("routers and layers of the papers' own code", () => {
  it.each(GOLDEN_LAYERS)('%s: choices, outputs, losses and every gradient', async (name) => {
    const deviations = await deviationsOfGoldenLayer(goldenPath(`layers/${name}.json`), device)
    expect(deviations).toHaveLength(TENSORS[name])
    expect(deviations.filter(({ error }) => !(error <= TOLERANCE))).toEqual([])
  })

  it.each([
    ['token_choice', 'position', 'case 0: position'],
    ['vmoe_layer', 'dY', 'case 0: gradient of X'],
  ])('of %s are told apart from others by %s', async (name, field, tensor) => {
    const content = JSON.parse(readFileSync(goldenPath(`layers/${name}.json`), 'utf8')) as {
      readonly cases: readonly Record<string, { readonly data: number[] }>[]
    }
    content.cases[0][field].data[0] += 1
    const folder = folderOf({ [`${name}.json`]: JSON.stringify(content) })
    const deviations = await deviationsOfGoldenLayer(join(folder, `${name}.json`), device)
    const beyond = deviations.filter(({ error }) => !(error <= TOLERANCE)).map((found) => found.tensor)
    expect(beyond).toContain(tensor)
    expect(beyond.every((found) => found.startsWith('case 0: '))).toBe(true)
  })

  it('are known by the names of their files', async () => {
    await expect(deviationsOfGoldenLayer(goldenPath('layers/gelu.json'), device)).rejects.toThrow(
      /gelu\.json is no golden file of a router or layer; wanted token_choice, .* with \.json/,
    )
  })
})
