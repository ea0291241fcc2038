'use strict'
// For a machine with an NVIDIA GPU: builds, runs the native kernel tests and the conformance suite on the real device,
// runs the kernel tests under compute-sanitizer, times the operations of Soft MoE at the papers' shapes with their
// share of the peaks, beside cuBLASLt and PyTorch, times every kernel of a training step, and writes it all to
// gpu-day.txt, the summary last. What is not installed is skipped, and the report says so.
//   node scripts/gpu-day.cjs [GB/s of memory] [TFLOP/s of bfloat16]      (default: the data sheet of an H100 SXM)
//   node scripts/gpu-day.cjs --dry-run     the same steps on the emulated driver, at small shapes: times mean nothing
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
const build = path.join(root, 'build')
const report = path.join(root, 'gpu-day.txt')
const dryRun = process.argv.includes('--dry-run')
const peaks = process.argv.slice(2).filter((word) => word !== '--dry-run')
fs.writeFileSync(
  report,
  dryRun ? 'DRY RUN on the emulated driver: no time below was measured on a GPU\n' : '',
)

function say(text) {
  process.stdout.write(text)
  fs.appendFileSync(report, text)
}

const summary = []

/**
 * Runs one step and says how it ended. A command that does not exist is skipped, and so is one that ends with code 77
 * and says why in its last line.
 */
function step(title, command, args, environment = {}) {
  say(`\n=== ${title}: ${command} ${args.map((word) => word.split('\n')[0]).join(' ')}\n`)
  const begin = Date.now()
  const child = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...environment },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  let outcome =
    child.status === 0 ? 'ok' : child.signal ? `FAILED by ${child.signal}` : `FAILED (${child.status})`
  if (child.error) {
    outcome =
      child.error.code === 'ENOENT'
        ? `skipped: there is no ${command} here`
        : `FAILED: ${child.error.message}`
  } else {
    say(child.stdout + child.stderr)
    if (child.status === 77) outcome = `skipped: ${child.stdout.trim().split('\n').at(-1)}`
  }
  say(`--- ${outcome}\n`)
  summary.push(
    `${title.padEnd(36)} ${`${((Date.now() - begin) / 1000).toFixed(1)} s`.padStart(9)}  ${outcome}`,
  )
  return child.stdout ?? ''
}

const BATCHED_PRODUCT = `# PyTorch's batched product at the experts' shapes
import sys
try:
    import torch
except ImportError:
    print('there is no PyTorch here'); sys.exit(77)
if not torch.cuda.is_available():
    print('this PyTorch has no CUDA device'); sys.exit(77)
print(torch.__version__, torch.cuda.get_device_name())
for experts, rows, depth, columns in [(128, 1, 384, 1536), (128, 64, 384, 1536), (128, 64, 1024, 4096), (16, 832, 384, 1536)]:
    a = torch.randn(experts, rows, depth, device='cuda', dtype=torch.bfloat16)
    b = torch.randn(experts, depth, columns, device='cuda', dtype=torch.bfloat16)
    for _ in range(5): torch.bmm(a, b)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(50): torch.bmm(a, b)
    end.record(); torch.cuda.synchronize()
    print(f'bmm {experts} x [{rows}, {depth}] x [{depth}, {columns}]: {start.elapsed_time(end) * 20:.1f} us')
`

step('the GPU', 'nvidia-smi', [])
step('build', 'npm', ['run', 'build'])
const emulated = dryRun
  ? step('build the emulated driver', process.execPath, ['scripts/build-emulator.cjs'])
      .trim()
      .split('\n')
      .at(-1)
  : undefined
const driver = { SOFTMOE_CUDA_DRIVER: emulated ?? process.env.SOFTMOE_CUDA_DRIVER ?? 'libcuda.so.1' }
const onDevice = { ...driver, SOFTMOE_TEST_DEVICE: 'cuda' }
const tests = path.join(build, 'softmoe_native_tests')
const bench = path.join(build, 'softmoe_cuda_bench')
const targets = ['softmoe_native_tests', 'softmoe_cuda_bench']
step('build the tests and the timings', 'cmake', ['--build', build, '--parallel', '--target', ...targets])
if (dryRun) step('native tests', tests, ['matmul', 'cuda_graph'], onDevice)
else step('native tests', process.execPath, ['scripts/test-cuda.cjs'], driver)
step(
  'the same under compute-sanitizer',
  'compute-sanitizer',
  ['--error-exitcode=1', tests, 'matmul', 'experts', 'soft_routing', 'attention', 'sparse', 'layer_norm'],
  onDevice,
)
const suite = dryRun
  ? ['test/conformance/linear']
  : ['test/conformance', 'test/core/capture', 'test/cuda/unchecked']
step('conformance suite', 'npx', ['vitest', 'run', ...suite], onDevice)
const size = dryRun ? ['--smoke'] : []
step('operations of Soft MoE', bench, [...size, ...peaks], driver)
step("cuBLASLt's batched product", bench, ['--cublas-lt', ...size, ...peaks], driver)
step("PyTorch's batched product", 'python3', ['-c', BATCHED_PRODUCT])
step('every kernel of a training step', process.execPath, ['bench/cuda/kernel-times.mjs', ...size], driver)

say(`\n=== summary\n${summary.join('\n')}\n`)
console.log(`\nThe report is in ${report}`)
process.exitCode = summary.some((line) => line.includes('FAILED')) ? 1 : 0
