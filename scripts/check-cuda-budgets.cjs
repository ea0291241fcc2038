'use strict'
// Reads the machine code of every CUDA kernel from build/fatbins, the very files that are embedded: for sm_90a that of
// *.sm90a.cu files, for sm_80 all others. Holds it to native/cuda/kernels/budgets.json: registers, blocks that fit on a
// multiprocessor together, and neither spills nor local memory. `--write` puts the registers of today into the table
// (the other columns are decisions and stay). Ends with `N passed, N failed`.
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
const folder = path.join(root, 'build/fatbins')
const table = path.join(root, 'native/cuda/kernels/budgets.json')

// What blocks share on one multiprocessor: of an A100 (compute capability 8.0) and of an H100 (9.0).
const REGISTERS = 65536
const SHARED_BYTES = { 80: 164 * 1024, 90: 228 * 1024 }
const SHARED_BYTES_OF_BLOCK = 1024 // what the system keeps for each block
const THREADS = 2048

const architectureOf = (file) => (file.includes('.sm90a.') ? 90 : 80)

// The cubin for the file's architecture in a fatbin: a header of 16 bytes, then entries of a header and a payload each.
function cubinOf(file) {
  const fatbin = fs.readFileSync(path.join(folder, file))
  const machineCode = 2
  const architecture = architectureOf(file)
  for (let at = 16; at + 64 <= fatbin.length;) {
    const begin = at + fatbin.readUInt32LE(at + 4)
    const end = begin + Number(fatbin.readBigUInt64LE(at + 8))
    const wanted = fatbin.readUInt16LE(at) === machineCode && fatbin.readUInt32LE(at + 28) === architecture
    if (wanted) return fatbin.subarray(begin, end)
    at = end
  }
  throw new Error(`${file} has no machine code for sm_${architecture}: build with SOFTMOE_CUDA_ARCHS=80`)
}

// Sections and symbols of a 64-bit ELF file.
function readElf(elf) {
  const text = (begin) => elf.toString('latin1', begin, elf.indexOf(0, begin))
  const [table, count] = [Number(elf.readBigUInt64LE(40)), elf.readUInt16LE(60)]
  const sections = Array.from({ length: count }, (_, i) => {
    const at = table + 64 * i
    const [offset, size] = [24, 32].map((field) => Number(elf.readBigUInt64LE(at + field)))
    return {
      name: elf.readUInt32LE(at),
      type: elf.readUInt32LE(at + 4),
      offset,
      size,
      link: elf.readUInt32LE(at + 40),
    }
  })
  const names = sections[elf.readUInt16LE(62)]
  for (const section of sections) section.name = text(names.offset + section.name)
  const symbolTable = sections.find(({ name }) => name === '.symtab')
  const symbolNames = sections[symbolTable.link]
  const symbols = Array.from({ length: symbolTable.size / 24 }, (_, i) =>
    text(symbolNames.offset + elf.readUInt32LE(symbolTable.offset + 24 * i)),
  )
  return { sections, symbols }
}

// Registers, static shared memory and stack (local memory, spills) of each kernel. `.nv.info` is a list of attributes:
// format, code, then for format 4 a length and as many bytes, which are here a symbol and a number.
function kernelsOf(file) {
  const elf = cubinOf(file)
  const { sections, symbols } = readElf(elf)
  const kernels = {}
  for (const { name } of sections) {
    if (!name.startsWith('.text.')) continue
    const kernel = name.slice('.text.'.length)
    const shared = sections.find((section) => section.name === `.nv.shared.${kernel}`)
    const capacity = SHARED_BYTES[architectureOf(file)]
    kernels[kernel] = { registers: 0, sharedBytes: shared?.size ?? 0, localBytes: 0, capacity }
  }
  const { offset, size } = sections.find(({ name }) => name === '.nv.info')
  const [sized, registers, frameSize, stackSize] = [4, 0x2f, 0x11, 0x12]
  for (let at = offset; at < offset + size;) {
    const [format, attribute, length] = [elf[at], elf[at + 1], elf.readUInt16LE(at + 2)]
    const kernel = format === sized && length === 8 ? kernels[symbols[elf.readUInt32LE(at + 4)]] : undefined
    if (kernel !== undefined) {
      const value = elf.readUInt32LE(at + 8)
      if (attribute === registers) kernel.registers = value
      if (attribute === frameSize || attribute === stackSize)
        kernel.localBytes = Math.max(kernel.localBytes, value)
    }
    at += 4 + (format === sized ? length : 0)
  }
  return kernels
}

// Registers are given out to a warp in units of 256.
function blocksPerMultiprocessor(registers, threads, sharedBytes, capacity) {
  const registersOfBlock = (Math.ceil((registers * 32) / 256) * 256 * threads) / 32
  return Math.min(
    Math.floor(REGISTERS / registersOfBlock),
    Math.floor(capacity / (sharedBytes + SHARED_BYTES_OF_BLOCK)),
    Math.floor(THREADS / threads),
    32,
  )
}

const budgets = JSON.parse(fs.readFileSync(table, 'utf8'))
const sources = fs.readdirSync(path.dirname(table)).filter((file) => /^[^.]+(\.sm90a)?\.cu$/.test(file))
const kernels = Object.assign({}, ...sources.map((file) => kernelsOf(file.replace(/\.cu$/, '.fatbin'))))
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
    const blocks = blocksPerMultiprocessor(kernel.registers, budget.threads, shared, kernel.capacity)
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
