/** Processes that share the runs of a study: each takes the next one when it is done with the last. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { RunReply, RunRequest } from './messages.js'

function ask(worker: ChildProcess, request: RunRequest): Promise<RunReply> {
  return new Promise((resolve) => {
    const onMessage = (answer: unknown): void => {
      worker.off('exit', onExit)
      resolve(answer as RunReply)
    }
    const onExit = (code: number | null, signal: NodeJS.Signals | null): void => {
      worker.off('message', onMessage)
      resolve({ failure: `the process that trained it ended with ${signal ?? `code ${code}`}` })
    }
    worker.once('message', onMessage)
    worker.once('exit', onExit)
    worker.send(request)
  })
}

/**
 * Has every request answered, each by one of `processes` workers.
 *
 * @param onComplete - called after each run that is complete
 * @returns whether all are complete; false when they were interrupted
 * @throws (rejects) with the first failure, once the runs under way have ended
 */
export async function runAll(
  requests: readonly RunRequest[],
  processes: number,
  onComplete: (request: RunRequest) => Promise<void>,
): Promise<boolean> {
  const left = [...requests]
  let failure: Error | undefined
  let stopped = false
  const work = async (): Promise<void> => {
    const worker = fork(fileURLToPath(new URL('worker.ts', import.meta.url)))
    const stop = (signal: NodeJS.Signals): void => {
      stopped = true
      worker.kill(signal)
    }
    process.on('SIGINT', stop)
    process.on('SIGTERM', stop)
    try {
      while (!stopped && failure === undefined) {
        const request = left.shift()
        if (request === undefined) return
        console.error(`${request.system}, seed ${request.seed}`)
        const answer = await ask(worker, request)
        if ('failure' in answer) {
          if (!stopped) failure ??= new Error(`${request.system}, seed ${request.seed}: ${answer.failure}`)
        } else if (answer.complete) {
          await onComplete(request)
        } else {
          stopped = true
        }
      }
    } finally {
      process.off('SIGINT', stop)
      process.off('SIGTERM', stop)
      worker.disconnect()
    }
  }
  await Promise.all(Array.from({ length: Math.min(processes, requests.length) }, work))
  if (failure !== undefined) throw failure
  return !stopped
}
