// The CUDA device from JavaScript: GPUs by index, copies both ways, what is printed, the settings of its environment,
// and why there is no device. What depends on the environment has a process of its own.
import { describe, expect, it } from 'vitest'
import { attention, SoftMoEError } from '../../lib/index.js'
import { type ChildResult, libraryUrl, runModule } from '../support/child.js'
import { device } from '../support/tensors.js'

/** Runs a program that has the library's exports as `lib`. */
function run(text: string, env: Readonly<Record<string, string>> = {}): Promise<ChildResult> {
  const quiet = { SOFTMOE_EMULATOR_LEAKS: 'stderr' }
  return runModule(`const lib = await import(${JSON.stringify(libraryUrl)})\n${text}`, {
    env: { ...quiet, ...env },
    timeoutMs: 50_000,
  })
}

const PRODUCT = `
  const numbers = (count, step) => Float32Array.from({ length: count }, (_, i) => Math.sin(step * i + 1))
  const product = (device) => {
    const a = device.tensor(numbers(96 * 64, 1.3), [96, 64])
    const b = device.tensor(numbers(64 * 80, 0.7), [64, 80])
    return lib.matmul(a, b)
  }
`

describe('GPUs by index', () => {
  it('compute the same, each with its own memory, and do not mix', async () => {
    const result = await run(
      `${PRODUCT}
      const [first, second] = [lib.openDevice('cuda', 0), lib.openDevice('cuda', 1)]
      const indices = [first, second].map(({ description }) => description.index)
      const y = product(second)
      const before = first.memoryUsage().tensors
      const x = product(first)
      const values = await Promise.all([x.data(), y.data()])
      const same = Buffer.compare(Buffer.from(values[0].buffer), Buffer.from(values[1].buffer)) === 0
      let mixed
      try { lib.add(x, y) } catch (error) { mixed = error.code }
      let missing
      try { lib.openDevice('cuda', 2) } catch (error) { missing = [error.code, error.message] }
      console.log(JSON.stringify({ indices, before, same, mixed, missing, again: lib.openDevice('cuda', 1) === second }))`,
      { SOFTMOE_EMULATOR_DEVICES: '2' },
    )
    expect(result).toMatchObject({ code: 0, stderr: '' })
    expect(JSON.parse(result.stdout)).toEqual({
      indices: [0, 1],
      before: 0,
      same: true,
      mixed: 'ERR_DEVICE',
      missing: [
        'ERR_NO_DEVICE',
        expect.stringMatching(/GPU 2 was asked for, but this machine has 2/) as string,
      ],
      again: true,
    })
  })
})

describe('copies', () => {
  const COPIES = `
    const device = lib.openDevice('cuda')
    // Two chunks of an upload, whose source changes as soon as the call returns, and many small ones.
    const large = new Float32Array(1_100_000).fill(1)
    const doubled = []
    for (let round = 1; round <= 3; round++) {
      large.fill(round)
      const x = device.tensor(large)
      large.fill(-1)
      doubled.push(lib.scale(x, 2).data())
      for (let i = 0; i < 40; i++) doubled.push(lib.scale(device.tensor([i]), 2).data())
    }
    const values = await Promise.all(doubled)
    const right = values.every((found, i) => {
      const wanted = i % 41 === 0 ? 2 * (Math.floor(i / 41) + 1) : 2 * (i % 41 - 1)
      return found.every((value) => value === wanted)
    })
    console.log(values.length, right)
  `

  it.each([
    ['through page-locked memory', {}],
    ['while a thread of the driver computes', { SOFTMOE_EMULATOR_ASYNC: 'thread' }],
    ['without page-locked memory', { SOFTMOE_EMULATOR_FAIL: noPinnedMemory() }],
  ])('keep their order both ways: %s', async (_, env) => {
    const result = await run(COPIES, { SOFTMOE_EMULATOR_CHECKS: 'none', ...env })
    expect(result).toMatchObject({ code: 0, stdout: '123 true\n', stderr: '' })
  })
})

function noPinnedMemory(): string {
  return Array.from({ length: 400 }, (_, i) => `cuMemHostAlloc:${i + 1}:2`).join()
}

describe('settings of the environment', () => {
  /** Prints the largest error of a product's elements against float64, as a share of the sum of their terms' sizes. */
  const ERROR = `${PRODUCT}
    const values = await product(lib.openDevice('cuda')).data()
    const [a, b] = [numbers(96 * 64, 1.3), numbers(64 * 80, 0.7)]
    let error = 0
    for (let i = 0; i < 96; i++) for (let j = 0; j < 80; j++) {
      let [sum, sizes] = [0, 0]
      for (let k = 0; k < 64; k++) {
        sum += a[i * 64 + k] * b[k * 80 + j]
        sizes += Math.abs(a[i * 64 + k] * b[k * 80 + j])
      }
      error = Math.max(error, Math.abs(values[i * 80 + j] - sum) / sizes)
    }
    console.log(error)
  `

  it('SOFTMOE_CUDA_TF32=1 rounds the operands of float32 products to 11 bits, and nothing else does', async () => {
    const exact = await run(ERROR)
    const rounded = await run(ERROR, { SOFTMOE_CUDA_TF32: '1' })
    expect(exact).toMatchObject({ code: 0, stderr: '' })
    expect(rounded).toMatchObject({ code: 0, stderr: '' })
    expect(Number(exact.stdout)).toBeLessThan(2 ** -22)
    // Each of the two operands is off by up to 2^-11 of itself.
    expect(Number(rounded.stdout)).toBeLessThan(2 ** -10)
    expect(Number(rounded.stdout)).toBeGreaterThan(2 ** -14)
  })

  it('SOFTMOE_DEBUG=1 prints each launch with its configuration and time', async () => {
    const result = await run(`${PRODUCT} await product(lib.openDevice('cuda')).data()`, {
      SOFTMOE_DEBUG: '1',
    })
    expect(result.code).toBe(0)
    const lines = result.stderr.trim().split('\n')
    expect(lines.length).toBeGreaterThan(0)
    for (const line of lines) {
      expect(line).toMatch(
        /^softmoe: \w+ <<<\(\d+, \d+, \d+\), \d+, \d+>>> \d+ registers, \d+ bytes of local memory, \d+\.\d{4} ms$/,
      )
    }
    expect(result.stderr).toMatch(/product/)
  })
})

describe('without a usable GPU', () => {
  const OPEN = `${PRODUCT}
    try {
      await product(lib.openDevice('cuda')).data()
      console.log('fine')
    } catch (error) {
      console.log(lib.SoftMoEError.is(error), error.code, error.message)
    }
    console.log(lib.openDevice('cpu').ones([1]).dataSync()[0])
  `

  it.each([
    [
      'no driver',
      { SOFTMOE_CUDA_DRIVER: '/nowhere/libcuda.so.1' },
      'ERR_NO_DEVICE',
      /install the NVIDIA driver/,
    ],
    ['no GPU', { SOFTMOE_EMULATOR_DEVICES: '0' }, 'ERR_NO_DEVICE', /finds no GPU.*nvidia-smi/],
    ['a library that is no driver', { SOFTMOE_CUDA_DRIVER: 'libm.so.6' }, 'ERR_DRIVER', /no function cuInit/],
    [
      'a driver that is too old',
      { SOFTMOE_EMULATOR_DRIVER_VERSION: '12040' },
      'ERR_DRIVER',
      /supports CUDA 12\.4.*need CUDA 13\.0 or newer: update the NVIDIA driver/,
    ],
    [
      'no kernel image',
      { SOFTMOE_EMULATOR_FAIL: 'cuModuleLoadDataEx:1:209' },
      'ERR_NO_KERNEL_IMAGE',
      /holds no kernels that this GPU and driver can run.*SOFTMOE_CUDA_ARCHS/,
    ],
    [
      'no memory left',
      { SOFTMOE_EMULATOR_FAIL: 'alloc:1:2' },
      'ERR_OUT_OF_MEMORY',
      /allocating \d+ bytes on the GPU \(\d+ of \d+ are free\).*smaller batch/,
    ],
    [
      'a launch that is refused',
      { SOFTMOE_EMULATOR_FAIL: 'launch:1:701' },
      'ERR_LAUNCH',
      /registers or shared memory/,
    ],
    [
      'a kernel that faults',
      { SOFTMOE_EMULATOR_FAIL: 'launch:1:719' },
      'ERR_LAUNCH',
      /unusable until the process restarts.*SOFTMOE_DEBUG=1/,
    ],
  ])('%s has its own code and sentence, and the CPU works', async (_, env, code, sentence) => {
    const result = await run(OPEN, env)
    expect(result).toMatchObject({ code: 0, stderr: '' })
    const [line, one] = result.stdout.trim().split('\n')
    expect(line).toMatch(new RegExp(`^true ${code} `))
    expect(line).toMatch(sentence)
    expect(one).toBe('1')
  })
})

it('refuses heads longer than 256 at the call', () => {
  const [short, long] = [device.ones([1, 2, 1, 256]), device.ones([1, 2, 1, 257])]
  attention(short, short, short).dispose()
  let refusal: unknown
  try {
    attention(long, long, long)
  } catch (error) {
    refusal = error
  }
  expect(SoftMoEError.is(refusal) && [refusal.code, refusal.message]).toEqual([
    'ERR_INVALID_ARGUMENT',
    expect.stringMatching(/headDim is 257; the CUDA kernels take at most 256/),
  ])
  for (const tensor of [short, long]) tensor.dispose()
})
