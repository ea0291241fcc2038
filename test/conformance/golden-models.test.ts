import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { deviationsOfGoldenModel } from '../support/golden-model.js'

const folder = fileURLToPath(new URL('../golden/models/', import.meta.url))
const device = process.env.SOFTMOE_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu'

/** Of the largest element of each tensor. Seen: 1.1e-5 for vit_dense, whose attention is sharp, 2e-6 for the others. */
const TOLERANCE = 2e-5

describe("whole models of the papers' own code", () => {
  it.each(readdirSync(folder).filter((name) => name.endsWith('.safetensors')))(
    '%s: logits, loss and every gradient',
    async (name) => {
      const deviations = await deviationsOfGoldenModel(folder + name, device)
      expect(deviations.length).toBeGreaterThan(60)
      expect(deviations.filter(({ error }) => !(error <= TOLERANCE))).toEqual([])
    },
  )
})
