'use strict'
// Runs the conformance suite, the golden models and the tests of the device itself on device 'cuda' through the
// emulated driver, with every checker on but for test/cuda/unchecked; with SOFTMOE_CUDA_DRIVER set, through that
// driver. Ends with `N passed, N failed`.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')

function emulatedDriver() {
  const child = spawnSync(process.execPath, [path.join(__dirname, 'build-emulator.cjs')], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (child.status !== 0) process.exit(child.status ?? 1)
  return child.stdout.trim().split('\n').at(-1)
}

const driver = process.env.SOFTMOE_CUDA_DRIVER ?? emulatedDriver()
const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs')
const tests = ['test/conformance', 'test/core/capture', 'test/cuda']
const child = spawnSync(process.execPath, [vitest, 'run', ...tests, ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, SOFTMOE_TEST_DEVICE: 'cuda', SOFTMOE_CUDA_DRIVER: driver },
})
process.exitCode = child.status ?? 1
