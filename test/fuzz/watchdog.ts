/** Ends the process where one call never comes back: a loop that blocks JavaScript is beyond every other limit. */
import { Worker } from 'node:worker_threads'

const PROGRAM = `
  const { parentPort, workerData } = require('node:worker_threads')
  let timer
  parentPort.on('message', (call) => {
    clearTimeout(timer)
    timer = setTimeout(() => {
      require('node:fs').writeSync(2, 'no end after ' + workerData + ' ms: ' + call + '\\n')
      process.kill(process.pid, 'SIGKILL')
    }, workerData)
  })`

export class Watchdog {
  readonly #worker: Worker

  constructor(limitMs: number) {
    this.#worker = new Worker(PROGRAM, { eval: true, workerData: limitMs })
    this.#worker.unref()
  }

  /** Says which call comes next; the one before has ended. */
  watch(call: string): void {
    this.#worker.postMessage(call)
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }
}
