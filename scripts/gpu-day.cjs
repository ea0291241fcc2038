'use strict'
// For a machine with an NVIDIA GPU: builds, runs the native kernel tests and the conformance suite on the real device,
// runs the kernel tests under compute-sanitizer where it is installed, times the Soft MoE operations at the papers'
// shapes beside PyTorch's batched product where PyTorch is installed, and writes it all to gpu-day.txt.
//   node scripts/gpu-day.cjs [GB/s of memory] [TFLOP/s of bfloat16]      (default: the data sheet of an H100 SXM)
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
const build = path.join(root, 'build')
const report = path.join(root, 'gpu-day.txt')
fs.writeFileSync(report, '')

function step(title, command, args, environment = {}) {
  const line = `\n=== ${title}: ${command} ${args.join(' ')}\n`
  process.stdout.write(line)
  const child = spawnSync(command, args, {
    cwd: root,
    env: { ...process.env, ...environment },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  const text = child.error ? `not run: ${child.error.message}\n` : child.stdout + child.stderr
  const end = child.error ? '' : `--- exit ${child.status}\n`
  process.stdout.write(text + end)
  fs.appendFileSync(report, line + text + end)
  return child.status === 0
}

const BATCHED_PRODUCT = `
import torch
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

const real = { SOFTMOE_CUDA_DRIVER: process.env.SOFTMOE_CUDA_DRIVER ?? 'libcuda.so.1' }
step('the GPU', 'nvidia-smi', [])
let good = step('build', 'npm', ['run', 'build'])
good = step('native tests on the GPU', process.execPath, ['scripts/test-cuda.cjs'], real) && good
step(
  'the same under compute-sanitizer',
  'compute-sanitizer',
  ['--error-exitcode=1', path.join(build, 'softmoe_native_tests'), 'matmul', 'experts', 'soft_routing'],
  { ...real, SOFTMOE_TEST_DEVICE: 'cuda' },
)
good =
  step('conformance suite on the GPU', 'npx', ['vitest', 'run', 'test/conformance'], {
    ...real,
    SOFTMOE_TEST_DEVICE: 'cuda',
  }) && good
good = step('build the timings', 'cmake', ['--build', build, '--target', 'softmoe_cuda_bench']) && good
step('timings', path.join(build, 'softmoe_cuda_bench'), process.argv.slice(2), real)
step('PyTorch beside it', 'python3', ['-c', BATCHED_PRODUCT])
console.log(`\nThe report is in ${report}`)
process.exitCode = good ? 0 : 1
