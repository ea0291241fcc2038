'use strict'
// Runs the native tests of the kernels on the CUDA device of the emulated driver, with every checker on: as they are,
// and with one multiprocessor and another order of blocks and warps, where the larger tiles are chosen. With
// SOFTMOE_CUDA_DRIVER set that driver is used instead (a real one: its default is libcuda.so.1).
// Ends with `N passed, N failed`.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')
const build = path.join(root, 'build')
// Parts of the names of all tests but those of the CPU itself.
const TESTS = [
  'attention',
  'fill',
  'cast',
  'add_',
  'multiply',
  'strided',
  'sum_and',
  'activations',
  'random_fill',
  'dropout',
  'transpose',
  'patchify',
  'count_non',
  'experts',
  'matmul',
  'linear',
  'weight_gradients',
  'cross_entropy',
  'argmax',
  'layer_norm',
  'l2_normalize',
  'softmax',
  'adamw',
  'sgd',
  'global_norm',
  'router_losses',
  'balanced',
  'soft_routing',
  'tokens_choice',
  'rows_are',
  'gates',
  'sinkhorn',
  'sparse_plan',
  'cuda',
]

function output(command, args) {
  const child = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (child.status !== 0) {
    console.log(`${command} ${args.join(' ')} failed\n0 passed, 1 failed`)
    process.exit(1)
  }
  return child.stdout
}

output('cmake', ['--build', build, '--target', 'softmoe_native_tests', '--parallel', '2'])
const driver =
  process.env.SOFTMOE_CUDA_DRIVER ??
  output(process.execPath, [path.join(__dirname, 'build-emulator.cjs')])
    .trim()
    .split('\n')
    .at(-1)

let passed = 0
let failed = 0
function run(environment, tests) {
  const child = spawnSync(path.join(build, 'softmoe_native_tests'), tests, {
    env: { ...process.env, SOFTMOE_TEST_DEVICE: 'cuda', SOFTMOE_CUDA_DRIVER: driver, ...environment },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  process.stdout.write(child.stdout)
  const counts = /(\d+) passed, (\d+) failed\n$/.exec(child.stdout)
  passed += Number(counts?.[1] ?? 0)
  failed += Number(counts?.[2] ?? 1)
}

run({}, TESTS)
if (!process.env.SOFTMOE_CUDA_DRIVER) {
  const kernels = [...TESTS.filter((name) => name !== 'cuda'), 'cuda_wide']
  run({ SOFTMOE_EMULATOR_MULTIPROCESSORS: '1', SOFTMOE_EMULATOR_SEED: '2' }, kernels)
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
