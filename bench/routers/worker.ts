/**
 * A process that trains one run after another for the study. It stops at a checkpoint when it is interrupted, and at
 * once when the study is gone: whoever starts the study again goes on from the last checkpoint.
 */
import { SoftMoEError } from '../../lib/index.js'
import type { RunReply, RunRequest } from './messages.js'
import { completeRun } from './runs.js'
import { SYSTEMS } from './systems.js'

const interrupted = new AbortController()
process.on('SIGINT', () => interrupted.abort())
process.on('SIGTERM', () => interrupted.abort())
process.on('disconnect', () => process.exit())

async function reply({ system: name, seed, options }: RunRequest): Promise<RunReply> {
  const system = SYSTEMS.find((candidate) => candidate.name === name)
  if (system === undefined) return { failure: `no system is named '${name}'` }
  try {
    return { complete: await completeRun(system, seed, options, interrupted.signal) }
  } catch (error) {
    return { failure: SoftMoEError.is(error) ? `${error.code}: ${error.message}` : String(error) }
  }
}

process.on('message', (request) => {
  void reply(request as RunRequest).then((answer) => process.send?.(answer))
})
