// Calls of the public functions and classes with arguments of every kind: plausible, wrong, disposed, foreign, detached,
// huge, NaN, with getters that throw, dispose or answer differently the second time. No call crashes, every error has a
// code, and no memory stays behind. An error that a value's own getter throws passes through as it is.
//
// SOFTMOE_FUZZ_CALLS sets how many calls (`npm run test:fuzz`: 100,000), SOFTMOE_TEST_SEED the seed.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import * as api from '../../lib/index.js'
import { CALLS, NOT_CALLED } from './calls.js'
import { argumentOf, OwnError, Workshop } from './values.js'
import { Watchdog } from './watchdog.js'

const RUNS = Number(process.env.SOFTMOE_FUZZ_CALLS ?? 3000)
const SEED = Number(process.env.SOFTMOE_TEST_SEED ?? 20230801)

// What is asked for beyond this is refused instead of taken from the machine.
process.env.SOFTMOE_CPU_MEMORY_LIMIT = String(2 ** 28)
const device = api.openDevice('cpu')

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

const calls = fc
  .constantFrom(...CALLS)
  .chain(([name, { kinds }]) => fc.tuple(fc.constant(name), fc.tuple(...kinds.map(argumentOf))))

/** What was thrown that should not be. */
const problems = new Map<string, string>()

function judge(name: string, error: unknown): void {
  if (error instanceof OwnError) return
  if (error instanceof api.SoftMoEError && error.code !== 'ERR_INTERNAL') return
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  const where = error instanceof Error ? /lib\/[\w/-]+\.ts:\d+/.exec(error.stack ?? '')?.[0] : undefined
  problems.set(`${name}: ${where ?? 'outside'}`, text)
}

/** Disposes of what a call returned, if it can be. */
function disposeOf(result: unknown): void {
  if (typeof result !== 'object' || result === null) return
  if ('dispose' in result && typeof result.dispose === 'function') (result.dispose as () => void).call(result)
  else if (Array.isArray(result)) for (const item of result) disposeOf(item)
}

it(`${RUNS} calls`, { timeout: 3_000_000 }, async () => {
  collectGarbage()
  await device.synchronize()
  const before = device.memoryUsage()
  const workshop = new Workshop(device)
  const watchdog = new Watchdog(120_000)
  let done = 0
  let returned = 0
  await fc.assert(
    fc.asyncProperty(calls, async ([name, descriptions]) => {
      const call = CALLS.get(name)
      if (call === undefined) throw new Error(`no call ${name}`)
      watchdog.watch(`${name} ${fc.stringify(descriptions)}`)
      const values = descriptions.map((description) => workshop.make(description))
      try {
        let result: unknown
        api.scope(() => {
          result = call.run(device, values)
          return result instanceof Promise ? undefined : result
        })
        if (result instanceof Promise) result = (await result) as unknown
        returned += 1
        if (!values.includes(result)) disposeOf(result)
      } catch (error) {
        judge(name, error)
      }
      workshop.dispose()
      done += 1
      // Faults of the device come later; the next call must not be blamed for them.
      if (done % 16 === 0) await device.synchronize().catch((error: unknown) => judge('synchronize', error))
    }),
    { numRuns: RUNS, seed: SEED },
  )
  await watchdog.close()
  await device.synchronize().catch((error: unknown) => judge('synchronize', error))
  expect(Object.fromEntries(problems)).toEqual({})
  for (let i = 0; i < 3 && device.memoryUsage().tensors > before.tensors; i++) {
    collectGarbage()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const { tensors, bytes } = device.memoryUsage()
  expect([tensors, bytes]).toEqual([before.tensors, before.bytes])
  // The values are plausible enough to reach the kernels.
  expect(returned / done).toBeGreaterThan(0.15)
  api.setThreads(2)
  console.log(`${done} calls, ${returned} returned, ${done - returned} refused`)
})

it('no export is forgotten', () => {
  const called = [...CALLS.keys()].map((name) => name.split(' ').at(-1)?.split('.')[0])
  const exported = Object.entries(api)
    .filter(([, value]) => typeof value === 'function')
    .map(([name]) => name)
  expect(exported.filter((name) => !called.includes(name) && !NOT_CALLED.has(name))).toEqual([])
})
