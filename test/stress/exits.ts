/** Short processes that end in every way while their device works; each must have the exit status of its way. */
import { availableParallelism } from 'node:os'
import { packageUrl, programPath, run } from './processes.js'
import { Xorshift } from './random.js'
import { check, figure, quick, seed } from './tally.js'

const PROCESSES = quick ? 24 : 1000
const LATEST_MS = 60

/** The ways of `programs/exit.mjs`, with the status or signal that each ends with. */
const WAYS: readonly (readonly [way: string, status: number | NodeJS.Signals])[] = [
  ['end', 0],
  ['end after results', 0],
  ['exit at once', 3],
  ['exit inside a callback', 5],
  ['exit in training', 7],
  ['exit with a worker at work', 9],
  ['work queued while exiting', 11],
  ['throw', 1],
  ['reject without a handler', 1],
  ['SIGTERM', 'SIGTERM'],
  ['SIGINT', 'SIGINT'],
  ['SIGTERM with a handler', 13],
]

export async function exitInEveryWay(): Promise<void> {
  const random = new Xorshift(seed)
  const wrong: string[] = []
  let next = 0
  const endings = new Map<string, number>()
  const work = async (): Promise<void> => {
    for (let number = next++; number < PROCESSES; number = next++) {
      if (number > 0 && number % 200 === 0)
        figure(`  ${number} processes, ${wrong.length} ended wrongly so far`)
      const [way, wanted] = WAYS[number % WAYS.length]
      const delay = String(random.below(LATEST_MS))
      const ending = await run(process.execPath, [programPath('exit'), packageUrl, way, delay], {
        timeoutMs: 60_000,
      })
      const got = ending.signal ?? ending.status
      endings.set(String(got), (endings.get(String(got)) ?? 0) + 1)
      const speaks = way === 'throw' || way === 'reject without a handler'
      const quiet = speaks ? ending.stderr.includes('on purpose') : ending.stderr === ''
      if (got !== wanted || !quiet) {
        wrong.push(
          `"${way}" after ${delay} ms ended with ${String(got)} and ${JSON.stringify(ending.stderr)}`,
        )
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, work))
  const counts = [...endings].map(([status, times]) => `${status}: ${times}`).join(', ')
  figure(`  ${PROCESSES} processes in ${WAYS.length} ways, ${wrong.length} ended wrongly (${counts})`)
  check(wrong.length === 0, `every process ends with the status of its way: ${wrong.slice(0, 5).join('; ')}`)
}
