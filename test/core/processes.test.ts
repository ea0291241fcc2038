// Process exit, worker threads, and faults that need a process of their own.
import { spawnSync } from 'node:child_process'
import { describe, expect, it } from 'vitest'
import { libraryUrl, runModule, typescriptLoaderUrl } from '../support/child.js'
import { device } from '../support/tensors.js'

const kind = JSON.stringify(device.kind)

/** Extent and number of the products that `work()` queues: a good part of a second, on an emulated GPU, too. */
const [extent, products] = device.kind === 'cpu' ? [512, 60] : [64, 20]

/** Opens the device under test as `device`. */
const prelude = `
  const { openDevice, linear, scale, Tape, sum, experts } = await import(${JSON.stringify(libraryUrl)})
  const device = openDevice(${kind})
  const work = () => {
    let x = device.ones([${extent}, ${extent}])
    for (let i = 0; i < ${products}; i++) x = linear(x, x)
    return x
  }
`

describe('a process', () => {
  it('ends by itself when nothing waits', async () => {
    const result = await runModule(`${prelude} device.ones([3]); console.log('done')`)
    expect(result).toMatchObject({ code: 0, stdout: 'done\n', stderr: '' })
  })

  it('ends by itself with work in the queue that nobody waits for', async () => {
    const result = await runModule(`${prelude} work(); console.log('done')`)
    expect(result).toMatchObject({ code: 0, stdout: 'done\n', stderr: '' })
  })

  it('lives until a result that is awaited is there', async () => {
    const result = await runModule(`${prelude} work().data().then((values) => console.log(values.length))`)
    expect(result).toMatchObject({ code: 0, stdout: `${extent * extent}\n`, stderr: '' })
  })

  it('may exit in the middle of the work', async () => {
    const result = await runModule(`${prelude} work(); work().data(); setTimeout(() => process.exit(7), 20)`)
    expect(result).toMatchObject({ code: 7, signal: null })
  })

  it('may end by an uncaught error in the middle of the work', async () => {
    const result = await runModule(`${prelude} work().data(); throw new Error('stop')`)
    expect(result).toMatchObject({ code: 1, signal: null })
    expect(result.stderr).toContain('stop')
  })

  it('keeps its event loop free while the device works', async () => {
    const result = await runModule(`${prelude}
      let ticks = 0
      const timer = setInterval(() => { ticks += 1 }, 1)
      const values = await work().data()
      clearInterval(timer)
      console.log(ticks > 3)
    `)
    expect(result).toMatchObject({ code: 0, stdout: 'true\n', stderr: '' })
  })
})

/** A worker's program: computes with the library and answers with one number. */
const workerProgram = `
  import { parentPort, workerData } from 'node:worker_threads'
  const { register } = await import(${JSON.stringify(typescriptLoaderUrl)})
  register()
  ${prelude}
  parentPort.postMessage('ready')
  if (workerData.forever) {
    for (;;) { const x = work(); await x.data() }
  }
  const x = device.tensor([1, 2, 3], [3], { requiresGrad: true })
  const tape = new Tape()
  const loss = tape.record(() => sum(scale(x, workerData.factor)))
  tape.backward(loss)
  parentPort.postMessage((await x.grad.data())[0])
`

const workers = `
  import { Worker } from 'node:worker_threads'
  ${prelude}
  const program = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(workerProgram)}))
  const start = (workerData) => new Worker(program, { workerData })
  const message = (worker, wanted) =>
    new Promise((resolve, reject) => {
      worker.on('message', (value) => { if (wanted(value)) resolve(value) })
      worker.once('error', reject)
    })
`

describe('worker threads', () => {
  it('compute side by side, each with its own device', async () => {
    const result = await runModule(`${workers}
      const main = work()
      const started = [2, 3, 4].map((factor) => start({ factor }))
      const answers = await Promise.all(started.map((worker) => message(worker, (value) => value !== 'ready')))
      await main.data()
      await Promise.all(started.map((worker) => worker.terminate()))
      console.log(answers.join(), (await scale(device.ones([1]), 5).data())[0])
    `)
    expect(result).toMatchObject({ code: 0, stdout: '2,3,4 5\n', stderr: '' })
  })

  it('may be terminated in the middle of their work, again and again', async () => {
    const result = await runModule(`${workers}
      for (let round = 0; round < 3; round++) {
        const worker = start({ forever: true })
        await message(worker, (value) => value === 'ready')
        await new Promise((resolve) => setTimeout(resolve, 30 * round))
        await worker.terminate()
      }
      console.log((await scale(device.ones([1]), 5).data())[0])
    `)
    expect(result).toMatchObject({ code: 0, stdout: '5\n', stderr: '' })
  })

  it('end by themselves', async () => {
    const result = await runModule(`${workers}
      const worker = start({ factor: 1 })
      console.log(await new Promise((resolve) => worker.once('exit', resolve)))
    `)
    expect(result).toMatchObject({ code: 0, stdout: '0\n', stderr: '' })
  })
})

const canLimitMemory = device.kind === 'cpu' && spawnSync('prlimit', ['--version']).status === 0

describe('the device', () => {
  it.runIf(canLimitMemory)(
    'reports a fault at the next wait, with the operation, once, and works on',
    async () => {
      // The kernel's temporary memory of 400 MB does not fit into the address space that is left to the process.
      const result = await runModule(
        `
        import { execFileSync } from 'node:child_process'
        import { readFileSync } from 'node:fs'
        ${prelude}
        const [x, w1, b1, w2, b2] = [[1, 200000, 1], [1, 1, 512], [1, 512], [1, 512, 1], [1, 1]].map((s) => device.ones(s))
        await device.synchronize()
        const used = Number(/VmSize:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
        execFileSync('prlimit', ['--pid', String(process.pid), '--as=' + (used + (96 << 20))])
        const y = experts(x, { w1, b1, w2, b2 })
        const later = scale(x, 2)
        const outcomes = await Promise.allSettled([y.data(), later.data(), device.synchronize()])
        console.log(JSON.stringify(outcomes.map((o) => o.reason ? [o.reason.name, o.reason.code, o.reason.message] : 'fine')))
        console.log(later.dataSync()[7])
      `,
        // Else the loader of TypeScript reserves gigabytes of addresses for WebAssembly, perhaps after the limit is set.
        { env: { NODE_OPTIONS: '--disable-wasm-trap-handler' } },
      )
      expect(result).toMatchObject({ code: 0, stderr: '' })
      const [outcomes, value] = result.stdout.trim().split('\n')
      expect(JSON.parse(outcomes)).toEqual([
        ['SoftMoEError', 'ERR_OUT_OF_MEMORY', expect.stringMatching(/^experts: .*smaller batch/) as string],
        'fine',
        'fine',
      ])
      expect(value).toBe('2')
    },
  )

  it.runIf(canLimitMemory)(
    'refuses to read a result that JavaScript has no memory for, and works on',
    async () => {
      const result = await runModule(`
      import { execFileSync } from 'node:child_process'
      import { readFileSync } from 'node:fs'
      ${prelude}
      const x = device.zeros([64 << 20])
      await device.synchronize()
      const used = Number(/VmSize:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
      // Enough for the bytes on their way to JavaScript, too little for them and the array.
      execFileSync('prlimit', ['--pid', String(process.pid), '--as=' + (used + (400 << 20))])
      const codes = [await x.data().catch((error) => error.code)]
      try { x.dataSync() } catch (error) { codes.push(error.code, error.message) }
      console.log(codes.join(' '), (await scale(device.ones([1]), 5).data())[0])
    `)
      expect(result).toMatchObject({ code: 0, stderr: '' })
      expect(result.stdout).toMatch(
        /^ERR_OUT_OF_MEMORY ERR_OUT_OF_MEMORY JavaScript has no memory for the 268435456 bytes.* 5\n$/,
      )
    },
  )

  it.runIf(device.kind === 'cpu')(
    'refuses what passes its memory limit, says how much is used, and works on',
    async () => {
      const result = await runModule(
        `${prelude}
        const held = device.zeros([1 << 18])
        try { device.zeros([1 << 20]) } catch (error) { console.log(error.code, error.message) }
        console.log((await scale(device.ones([1]), 5).data())[0])
      `,
        { env: { SOFTMOE_CPU_MEMORY_LIMIT: String(4 << 20) } },
      )
      expect(result.code).toBe(0)
      expect(result.stdout).toMatch(
        /^ERR_OUT_OF_MEMORY .*4194304 bytes.*1048576 bytes are in use by 1 tensors.*smaller batch\n5\n$/,
      )
    },
  )

  it.runIf(device.kind === 'cpu').each([
    ['SOFTMOE_CPU_ISA', 'mmx', /SOFTMOE_CPU_ISA is "mmx".*give one of/],
    ['SOFTMOE_THREADS', 'many', /SOFTMOE_THREADS is "many"/],
    ['SOFTMOE_CPU_MEMORY_LIMIT', '-5', /SOFTMOE_CPU_MEMORY_LIMIT is "-5"/],
  ])('does not open with %s=%s', async (name, value, text) => {
    const result = await runModule(
      `const { openDevice } = await import(${JSON.stringify(libraryUrl)})
       try { const d = openDevice('cpu'); d.ones([1]).dataSync() } catch (error) { console.log(error.code, error.message) }`,
      { env: { [name]: value } },
    )
    expect(result.code).toBe(0)
    expect(result.stdout).toMatch(/^ERR_INVALID_ARGUMENT/)
    expect(result.stdout).toMatch(text)
  })
})
