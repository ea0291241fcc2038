'use strict'
// Compiles every CUDA kernel for sm_80 and holds it to native/cuda/kernels/budgets.json: registers, blocks that fit
// on a multiprocessor together, and neither spills nor local memory. `--write` puts the registers of today into the
// table (the other columns are decisions and stay). Ends with `N passed, N failed`.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const folder = path.join(root, 'native/cuda/kernels')
const table = path.join(folder, 'budgets.json')
const nvcc = process.env.CUDACXX ?? 'nvcc'

// Of one multiprocessor of an A100 (compute capability 8.0).
const REGISTERS = 65536
const SHARED_BYTES = 164 * 1024
const SHARED_BYTES_OF_BLOCK = 1024 // what the system keeps for each block
const THREADS = 2048

function compiled(source) {
  const cubin = path.join(os.tmpdir(), `softmoe-budget-${process.pid}.cubin`)
  const flags = [
    '-cubin',
    '-arch=sm_80',
    '-O3',
    '-std=c++17',
    '-Xptxas',
    '-v',
    `-I${path.join(root, 'native')}`,
  ]
  const child = spawnSync(nvcc, [...flags, path.join(folder, source), '-o', cubin], { encoding: 'utf8' })
  fs.rmSync(cubin, { force: true })
  if (child.status !== 0) throw new Error(`${source} does not compile:\n${child.stderr}`)
  const kernels = {}
  let name
  for (const line of child.stderr.split('\n')) {
    name = /Compiling entry function '(\w+)'/.exec(line)?.[1] ?? name
    if (!name) continue
    const kernel = (kernels[name] ??= { registers: 0, sharedBytes: 0, localBytes: 0 })
    const memory = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    if (memory) kernel.localBytes = memory.slice(1).reduce((sum, bytes) => sum + Number(bytes), 0)
    const used = /Used (\d+) registers/.exec(line)
    if (used) kernel.registers = Number(used[1])
    const shared = /(\d+) bytes smem/.exec(line)
    if (shared) kernel.sharedBytes = Number(shared[1])
  }
  return kernels
}

// Registers are given out to a warp in units of 256.
function blocksPerMultiprocessor(registers, threads, sharedBytes) {
  const registersOfBlock = (Math.ceil((registers * 32) / 256) * 256 * threads) / 32
  return Math.min(
    Math.floor(REGISTERS / registersOfBlock),
    Math.floor(SHARED_BYTES / (sharedBytes + SHARED_BYTES_OF_BLOCK)),
    Math.floor(THREADS / threads),
    32,
  )
}

const budgets = JSON.parse(fs.readFileSync(table, 'utf8'))
const sources = fs.readdirSync(folder).filter((file) => file.endsWith('.cu') && !file.endsWith('.sm90a.cu'))
const kernels = Object.assign({}, ...sources.map(compiled))
if (process.argv.includes('--write')) {
  const rows = Object.keys(kernels)
    .sort()
    .map((name) => {
      const { threads = 256, dynamicSharedBytes = 0, blocks = 1 } = budgets[name] ?? {}
      // Registers are given out in eights.
      const registers = Math.ceil(kernels[name].registers / 8) * 8
      const row = { registers, threads, dynamicSharedBytes, blocks }
      const cells = Object.entries(row).map(([column, value]) => `"${column}": ${value}`)
      return `  "${name}": { ${cells.join(', ')} }`
    })
  fs.writeFileSync(table, `{\n${rows.join(',\n')}\n}\n`)
  process.exit(0)
}

let passed = 0
const failures = []
for (const [name, kernel] of Object.entries(kernels)) {
  const budget = budgets[name]
  const problems = []
  if (!budget) problems.push('has no row in budgets.json')
  if (kernel.localBytes > 0) problems.push(`uses ${kernel.localBytes} bytes of local memory`)
  if (budget && kernel.registers > budget.registers) {
    problems.push(`uses ${kernel.registers} registers, ${budget.registers} are allowed`)
  }
  if (budget) {
    const shared = kernel.sharedBytes + budget.dynamicSharedBytes
    const blocks = blocksPerMultiprocessor(kernel.registers, budget.threads, shared)
    if (blocks < budget.blocks)
      problems.push(`fits ${blocks} times on a multiprocessor, not ${budget.blocks}`)
  }
  if (problems.length === 0) passed++
  else failures.push(`${name}: ${problems.join('; ')}`)
}
for (const name of Object.keys(budgets)) {
  if (!kernels[name]) failures.push(`${name}: in budgets.json, but no longer a kernel`)
}
for (const failure of failures) console.log(failure)
console.log(`${passed} passed, ${failures.length} failed`)
process.exitCode = failures.length > 0 ? 1 : 0
