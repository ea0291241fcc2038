import { expect, it } from 'vitest'
import { device } from '../support/tensors.js'

it.runIf(device.kind === 'cpu')('the tests run on the instruction set that they were told to use', () => {
  const sets = device.description.availableInstructionSets as string[]
  expect(device.description.instructionSet).toBe(process.env.SOFTMOE_CPU_ISA ?? sets[sets.length - 1])
})
