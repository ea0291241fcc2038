// Driver calls that fail, one after another, under a forward pass, a training step, a captured function and a
// checkpoint: errors with a code, no crash, no leak, and a device that is usable afterwards or clearly lost.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ChildResult, libraryUrl, runModule } from '../support/child.js'

/** Every function of the driver that the library calls. */
const functions = [
  ...readFileSync(new URL('../../native/cuda/driver.h', import.meta.url), 'utf8').matchAll(/"(cu[A-Z]\w+)"/g),
].map(([, name]) => name)

/** Those that give something back: when they fail, it stays with the driver. */
const releasing = functions.filter((name) => /Free|Destroy|Unload|Release/.test(name))

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'softmoe-faults-'))
})
afterAll(() => {
  rmSync(folder, { recursive: true })
})

/** Makes attempts until three in a row succeed, or `limit` were made; prints their outcomes and what is left over. */
const program = (limit: number): string => `
  import { setFlagsFromString } from 'node:v8'
  import { runInNewContext } from 'node:vm'
  const lib = await import(${JSON.stringify(libraryUrl)})
  setFlagsFromString('--expose-gc')
  const collectGarbage = runInNewContext('gc')
  const path = ${JSON.stringify(join(folder, 'model.safetensors'))}
  const config = { imageSize: 8, channels: 1, patchSize: 4, width: 16, depth: 2, numHeads: 2, mlpDim: 32 }

  async function attempt() {
    const device = lib.openDevice('cuda')
    const owned = []
    const own = (resource) => { owned.push(resource); return resource }
    try {
      const model = own(new lib.VisionTransformer(
        { ...config, numClasses: 3, dropoutRate: 0.1, moe: { router: 'soft', numExperts: 2 } },
        { device, dtype: 'bfloat16', random: new lib.RandomSource(3) },
      ))
      const optimizer = own(new lib.AdamW(model.parameters(), { learningRate: 0.1 }))
      const images = own(device.tensor(Float32Array.from({ length: 128 }, (_, i) => Math.sin(i)), [2, 8, 8, 1]))
      let total = 0
      for (let step = 0; step < 2; step++) {
        total += (await optimizer.step(() => lib.crossEntropy(model.forward(images), Int32Array.of(0, 2)))).loss
      }
      model.eval()
      const logits = await own(lib.noGrad(() => model.forward(images))).data()
      const captured = own(await lib.capture((x) => model.forward(x), images))
      const repeated = await own(captured.run(images)).data()
      if (logits.join() !== repeated.join()) throw new Error('the captured function gives other logits')
      await lib.saveCheckpoint(path, { model, optimizer })
      // Enough rows an expert for the products by wgmma, which ask the driver to describe their operands.
      const router = lib.tokensChoice({ k: 2, capacityFactor: 2 })
      const sparse = own(new lib.SparseMoE(
        { dim: 16, hiddenDim: 32, numExperts: 2, router },
        { device, dtype: 'bfloat16', random: new lib.RandomSource(4) },
      ))
      sparse.eval()
      const tokens = own(device.normal([1, 256, 16], { dtype: 'bfloat16', key: { seed: 1, stream: 1 } }))
      const rows = await own(lib.noGrad(() => sparse.forward(tokens))).data()
      device.emptyCache()
      return 'ok ' + total + ' ' + logits.join() + ' ' + rows.slice(-3).join()
    } finally {
      for (const resource of owned.reverse()) resource.dispose()
    }
  }

  const outcomes = []
  while (outcomes.length < ${limit} && !(outcomes.length > 2 && outcomes.slice(-3).every((o) => o.startsWith('ok')))) {
    try {
      outcomes.push(await attempt())
    } catch (error) {
      if (!lib.SoftMoEError.is(error)) throw error
      outcomes.push(error.code + ' ' + error.message)
      // What failed in the queue behind it is told by the next waits.
      for (let waits = 0; waits < 20; waits++) {
        try { await lib.openDevice('cuda').synchronize(); break } catch { continue }
      }
    }
  }
  let tensors = -1
  try {
    collectGarbage()
    await new Promise((resolve) => setTimeout(resolve, 20))
    tensors = lib.openDevice('cuda').memoryUsage().tensors
  } catch { /* a device that never opened */ }
  console.log(JSON.stringify({ outcomes, tensors }))
`

interface Report {
  readonly child: ChildResult
  readonly outcomes: readonly string[]
  readonly tensors: number
}

async function attempts(limit: number, env: Readonly<Record<string, string>>): Promise<Report> {
  const child = await runModule(program(limit), {
    env: {
      SOFTMOE_CUDA_WGMMA: '1',
      SOFTMOE_EMULATOR_CHECKS: 'none',
      SOFTMOE_EMULATOR_LEAKS: 'stderr',
      ...env,
    },
    timeoutMs: 280_000,
  })
  expect(child, child.stderr).toMatchObject({ code: 0, signal: null })
  return { child, ...(JSON.parse(child.stdout) as Pick<Report, 'outcomes' | 'tensors'>) }
}

/** What is printed and left in the folder when nothing fails. */
let clean: Report
beforeAll(async () => {
  clean = await attempts(3, {})
  expect(clean.child.stderr).toBe('')
  expect(new Set(clean.outcomes).size).toBe(1)
  expect(clean.outcomes[0]).toMatch(/^ok /)
  expect(clean.tensors).toBe(0)
}, 300_000)

/** Fails calls of each function in turn: the first ones and some later ones. */
const faults = (names: readonly string[], code: number): string =>
  names.flatMap((name) => [1, 3, 7, 19, 61, 257].map((n) => `${name}:${n}:${code}`)).join()

function expectUsableAfterwards({ outcomes, tensors }: Report, codes: RegExp): void {
  const failed = outcomes.filter((outcome) => !outcome.startsWith('ok '))
  expect(failed.filter((outcome) => !codes.test(outcome))).toEqual([])
  // Whoever succeeds is right to the last bit.
  expect(new Set(outcomes.filter((outcome) => outcome.startsWith('ok ')))).toEqual(new Set(clean.outcomes))
  expect(outcomes.slice(-3)).toEqual(clean.outcomes)
  expect(tensors).toBe(0)
  expect(readdirSync(folder)).toEqual(['model.safetensors'])
  expect(failed.length).toBeGreaterThan(0)
}

describe('a driver call that fails', () => {
  it('of any function costs one attempt, and the next ones succeed', async () => {
    const names = functions.filter((name) => !releasing.includes(name))
    expect(names.length).toBeGreaterThan(30)
    const report = await attempts(400, { SOFTMOE_EMULATOR_FAIL: faults(names, 999) })
    expectUsableAfterwards(report, /^ERR_(DRIVER|FILE_WRITE) .*(cu[A-Z]|CUDA)/)
    expect(report.child.stderr).toBe('')
  }, 300_000)

  it('for want of memory is ERR_OUT_OF_MEMORY', async () => {
    const report = await attempts(100, { SOFTMOE_EMULATOR_FAIL: faults(['alloc'], 2) })
    expectUsableAfterwards(report, /^ERR_OUT_OF_MEMORY .*smaller batch/)
    expect(report.child.stderr).toBe('')
  }, 300_000)

  it('of a function that gives something back is of no consequence', async () => {
    const { outcomes } = await attempts(100, { SOFTMOE_EMULATOR_FAIL: faults(releasing, 999) })
    expect(outcomes.slice(-3)).toEqual(clean.outcomes)
  }, 300_000)

  it.each(['launch:1:719', 'launch:200:700', '*:150:700', '*:1500:719', 'cuMemcpyDtoHAsync_v2:20:700'])(
    'with %s loses the device, which every later wait says',
    async (fault) => {
      const { outcomes, child } = await attempts(4, { SOFTMOE_EMULATOR_FAIL: fault })
      const lost = outcomes.findIndex((outcome) => !outcome.startsWith('ok '))
      expect(lost).toBeGreaterThanOrEqual(0)
      for (const outcome of outcomes.slice(lost)) {
        expect(outcome).toMatch(/^ERR_LAUNCH .*unusable until the process restarts/)
      }
      expect(child.stderr).not.toContain('leak')
    },
    300_000,
  )
})
