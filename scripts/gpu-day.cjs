'use strict'
// For a machine with an NVIDIA GPU: builds, runs the native kernel tests and the conformance suite on the device, both
// again under compute-sanitizer, the products of compute capability 9.0, times every operation at the papers' shapes
// beside cuBLASLt and PyTorch with its share of the peaks, and every kernel of a training step; and writes it all to
// gpu-day.txt, the summary last. What is not there is skipped, and the report says so. Ends with `N passed, N failed`.
//   node scripts/gpu-day.cjs [GB/s of memory] [TFLOP/s of bfloat16]      (default: the data sheet of an H100 SXM)
//   node scripts/gpu-day.cjs --dry-run [--quick]     the same steps on the emulated driver, with few tests and small
//       shapes: nothing is timed. --quick takes the build that is there, and one native test.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
const build = path.join(root, 'build')
const options = ['--dry-run', '--quick']
const [dryRun, quick] = options.map((option) => process.argv.includes(option))
const peaks = process.argv.slice(2).filter((word) => !options.includes(word))
if (peaks.some((peak) => !(Number(peak) > 0)) || peaks.length > 2 || (quick && !dryRun)) {
  console.error('usage: node scripts/gpu-day.cjs [--dry-run [--quick] | GB/s [TFLOP/s]]')
  process.exit(2)
}
const report = path.join(root, dryRun ? 'gpu-day-dry-run.txt' : 'gpu-day.txt')
fs.writeFileSync(report, '')

function say(text) {
  process.stdout.write(text)
  fs.appendFileSync(report, text)
}

if (dryRun) say('DRY RUN on the emulated driver: no GPU was used, and nothing below was timed on one\n')

const summary = []

function conclude(title, outcome) {
  say(`--- ${outcome}\n`)
  summary.push({ title, outcome })
}

/**
 * Runs one step and says how it ended. A command that does not exist is skipped, and so is one that ends with code 77
 * and says why in its last line.
 */
function step(title, command, args, environment = {}) {
  const shown = [
    path.relative(root, command).startsWith('..') ? command : path.relative(root, command),
    ...args,
  ]
  const set = Object.entries(environment).map(([name, value]) => `${name}=${value}`)
  say(`\n=== ${title}: ${[...set, ...shown].join(' ')}\n`)
  const begin = Date.now()
  const child = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...environment },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  if (child.error?.code === 'ENOENT') {
    conclude(title, `skipped: there is no ${command} here`)
    return ''
  }
  const output = (child.stdout ?? '') + (child.stderr ?? '')
  say(output)
  const seconds = `after ${((Date.now() - begin) / 1000).toFixed(1)} s`
  if (child.status === 0) conclude(title, `ok ${seconds}`)
  else if (child.status === 77) conclude(title, `skipped: ${output.trim().split('\n').at(-1)}`)
  else conclude(title, `FAILED ${seconds}: ${child.error?.message ?? child.signal ?? `code ${child.status}`}`)
  return child.stdout ?? ''
}

function skip(title, reason) {
  say(`\n=== ${title}\n`)
  conclude(title, `skipped: ${reason}`)
}

// --- builds
step('the GPU', 'nvidia-smi', [])
const tests = path.join(build, 'softmoe_native_tests')
const targets = ['softmoe_native_tests', 'softmoe_cuda_bench']
if (quick) {
  skip('build', 'quick: the addon and the package that are there are taken')
} else {
  step(
    'build',
    'npm',
    ['run', 'build'],
    dryRun ? { SOFTMOE_CUDA: 'ON', SOFTMOE_CUDA_ARCHS: '80' } : { SOFTMOE_CUDA: 'ON' },
  )
}
step('build the tests and the timings', 'cmake', [
  '--build',
  build,
  '--parallel',
  '2',
  '--target',
  ...targets,
])
const emulated = dryRun
  ? step('build the emulated driver', process.execPath, ['scripts/build-emulator.cjs'])
      .trim()
      .split('\n')
      .at(-1)
  : undefined
const driver = { SOFTMOE_CUDA_DRIVER: emulated ?? process.env.SOFTMOE_CUDA_DRIVER ?? 'libcuda.so.1' }
const onDevice = { ...driver, SOFTMOE_TEST_DEVICE: 'cuda' }
const DESCRIBE = "console.log(JSON.stringify(require('.').openDevice('cuda').description))"
const device = step('the device', process.execPath, ['-e', DESCRIBE], driver)

// --- results, without and with the sanitizer
const vitest = [path.join('node_modules', 'vitest', 'vitest.mjs'), 'run']
const kernelTests = dryRun
  ? ['matmul', ...(quick ? [] : ['cuda_graph'])]
  : [
      'matmul',
      'linear',
      'experts',
      'soft_routing',
      'attention',
      'sparse',
      'layer_norm',
      'sinkhorn',
      'router_losses',
    ]
if (dryRun) step('native tests', tests, kernelTests, onDevice)
else step('native tests', process.execPath, ['scripts/test-cuda.cjs'], driver)
const suite = dryRun
  ? ['test/conformance/linear']
  : ['test/conformance', 'test/core/capture', 'test/cuda/unchecked']
if (quick) skip('conformance suite', 'quick')
else
  step('conformance suite', process.execPath, [...vitest, ...suite], { ...onDevice, SOFTMOE_TEST_WHOLE: '1' })
for (const tool of ['memcheck', 'racecheck', 'synccheck', 'initcheck']) {
  const checked = ['--tool', tool, '--error-exitcode=1', tests, ...kernelTests]
  step(`native tests under ${tool}`, 'compute-sanitizer', checked, onDevice)
}
step(
  'conformance suite under memcheck',
  'compute-sanitizer',
  ['--target-processes', 'all', '--error-exitcode=1', process.execPath, ...vitest, suite[0]],
  onDevice,
)

// --- times
const size = dryRun ? ['--smoke'] : []
const operations = ['bench/cuda/operation-times.mjs', ...size, ...peaks]
step('operations, beside cuBLASLt', process.execPath, operations, driver)
step("PyTorch's operations", 'python3', ['bench/cuda/pytorch_times.py'])
step('every kernel of a training step', process.execPath, ['bench/cuda/kernel-times.mjs', ...size], driver)

// --- the products of compute capability 9.0, off by default
const wide = ['cuda_wide']
const checkedWide = ['--tool', 'memcheck', '--error-exitcode=1', tests, ...wide]
if (device.includes('"computeCapability":"9.0"')) {
  const withWgmma = { ...driver, SOFTMOE_CUDA_WGMMA: '1' }
  if (quick) skip('products by wgmma', 'quick')
  else step('products by wgmma', tests, wide, { ...onDevice, ...withWgmma })
  step('products by wgmma under memcheck', 'compute-sanitizer', checkedWide, { ...onDevice, ...withWgmma })
  if (quick) skip('operations with products by wgmma', 'quick')
  else step('operations with products by wgmma', process.execPath, operations, withWgmma)
} else {
  skip('products by wgmma', 'the device is not of compute capability 9.0')
}

const width = Math.max(...summary.map(({ title }) => title.length))
say(`\n=== summary${dryRun ? ' of the dry run, without a GPU' : ''}\n`)
for (const { title, outcome } of summary) say(`${title.padEnd(width)}  ${outcome}\n`)
const count = (word) => summary.filter(({ outcome }) => outcome.startsWith(word)).length
console.log(`\nThe report is in ${report}`)
console.log(`${count('ok')} passed, ${count('FAILED')} failed`)
process.exitCode = count('FAILED') > 0 ? 1 : 0
