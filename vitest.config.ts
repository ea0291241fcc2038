import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

/** What depends on the kernels alone. */
const DEVICE_TESTS = ['test/conformance/**/*.test.ts', 'test/routers/{selection,losses-and-plans}.test.ts']

const onCuda = process.env.SOFTMOE_TEST_DEVICE === 'cuda'

/** What needs a CUDA device; of these, what is too large for the checkers of the emulated driver. */
const CUDA_TESTS = 'test/cuda/**/*.test.ts'
const UNCHECKED_CUDA_TESTS = 'test/cuda/unchecked/**/*.test.ts'

/** The instruction sets below the one that the CPU device picks by itself on this machine. */
function lowerInstructionSets(): string[] {
  if (process.env.SOFTMOE_CPU_ISA || onCuda) return []
  const require = createRequire(import.meta.url)
  try {
    const load = require('node-gyp-build') as (root: string) => { openDevice(device: object): string }
    const description = JSON.parse(load(import.meta.dirname).openDevice({ kind: 'cpu', index: 0 })) as {
      availableInstructionSets: string[]
    }
    return description.availableInstructionSets.slice(0, -1)
  } catch {
    return [] // not built: the tests themselves say so
  }
}

export default defineConfig({
  test: {
    reporters: ['default', './test/closing-line.ts'],
    pool: 'forks',
    // One process fewer, the default, leaves a core of two idle.
    maxWorkers: availableParallelism(),
    testTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'softmoe',
          include: ['test/**/*.test.ts'],
          exclude: [onCuda ? UNCHECKED_CUDA_TESTS : CUDA_TESTS],
        },
      },
      ...(onCuda
        ? [
            {
              extends: true as const,
              test: {
                name: 'unchecked',
                include: [UNCHECKED_CUDA_TESTS],
                env: { SOFTMOE_EMULATOR_CHECKS: 'none' },
                testTimeout: 400_000,
              },
            },
          ]
        : []),
      // The device tests again on each lower instruction set, with a fifth of the cases.
      ...lowerInstructionSets().map((name) => ({
        extends: true as const,
        test: { name, include: DEVICE_TESTS, env: { SOFTMOE_CPU_ISA: name, SOFTMOE_TEST_RUNS: '0.2' } },
      })),
    ],
  },
})
