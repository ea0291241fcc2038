/** Batches made ahead of their use by a worker thread. */
import { existsSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { SoftMoEError } from '../core/errors.js'
import type { Batch, BatchPlan, BatchSource } from './batch.js'
import batchWorkerFile from './batch-worker-file.cjs'
import type { BatchWorkerData } from './batch-worker.js'
import { allocateBytes } from './dataset.js'

interface Waiter {
  readonly resolve: (batch: Batch) => void
  readonly reject: (error: SoftMoEError) => void
}

/**
 * Keeps up to `ahead` batches requested from a worker thread and returns them in the order of their steps. The thread
 * keeps the process alive only while a batch is awaited.
 */
export class Prefetcher {
  readonly #worker: Worker
  readonly #ahead: number
  readonly #end: number
  readonly #ready: Batch[] = []
  #requested: number
  /** Batches requested and not yet returned. */
  #outstanding = 0
  #waiter: Waiter | undefined
  #failure: SoftMoEError | undefined
  #isClosed = false

  /**
   * @param start the first step to be returned
   * @param end the step after the last
   * @throws SoftMoEError `ERR_WORKER` when the worker's file is missing, as in a bundle, or the system gives no thread
   */
  constructor(source: BatchSource, plan: BatchPlan, start: number, end: number, ahead: number) {
    if (!existsSync(batchWorkerFile)) {
      throw new SoftMoEError(
        'ERR_WORKER',
        `the loader's worker ${batchWorkerFile} is missing; keep softmoe external to your bundle, or load with worker: false`,
      )
    }
    const workerData: BatchWorkerData = { source: { ...source, images: shareable(source.images) }, plan }
    this.#worker = startWorker(workerData)
    this.#worker.unref()
    this.#ahead = ahead
    this.#end = end
    this.#requested = start
    this.#worker.on('message', (batch: Batch) => {
      this.#ready.push(batch)
      this.#settle()
    })
    this.#worker.on('error', (cause) => {
      this.fail(new SoftMoEError('ERR_WORKER', `the loader's worker failed: ${String(cause)}`, { cause }))
    })
    this.#worker.on('exit', (status) => {
      this.fail(new SoftMoEError('ERR_WORKER', `the loader's worker ended early with status ${status}`))
    })
    this.#request()
  }

  /** The next batch. One caller at a time. */
  async next(): Promise<Batch> {
    const batch = await new Promise<Batch>((resolve, reject) => {
      this.#waiter = { resolve, reject }
      this.#worker.ref()
      this.#settle()
    })
    this.#outstanding--
    this.#request()
    return batch
  }

  /** Rejects the awaited batch and all later ones. */
  fail(error: SoftMoEError): void {
    if (this.#isClosed) return
    this.#failure ??= error
    this.#settle()
  }

  /** Ends the thread and drops the batches made ahead. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#ready.length = 0
    await this.#worker.terminate()
  }

  #settle(): void {
    const waiter = this.#waiter
    if (!waiter) return
    const batch = this.#failure ? undefined : this.#ready.shift()
    if (batch) waiter.resolve(batch)
    else if (this.#failure) waiter.reject(this.#failure)
    else return
    this.#waiter = undefined
    this.#worker.unref()
  }

  #request(): void {
    while (this.#requested < this.#end && this.#outstanding < this.#ahead) {
      this.#worker.postMessage(this.#requested)
      this.#requested++
      this.#outstanding++
    }
  }
}

function startWorker(workerData: BatchWorkerData): Worker {
  // None of the process's own flags: --input-type, say, would be refused for a file.
  const options = { workerData, execArgv: [] }
  try {
    if (batchWorkerFile.endsWith('.js')) return new Worker(batchWorkerFile, options)
    // Run from the TypeScript sources, as the tests do: tsx translates them inside the thread.
    const script = `require('tsx/cjs'); require(${JSON.stringify(batchWorkerFile)})`
    return new Worker(script, { ...options, eval: true })
  } catch (cause) {
    throw new SoftMoEError(
      'ERR_WORKER',
      `the loader's thread could not be started (${cause instanceof Error ? cause.message : String(cause)}); ` +
        'raise the limit of threads, or load with worker: false',
      { cause },
    )
  }
}

/** Shared memory passes to a thread without a copy; anything else is copied into it once. */
function shareable(bytes: Uint8Array): Uint8Array {
  if (bytes.buffer instanceof SharedArrayBuffer) return bytes
  const shared = allocateBytes(bytes.length, 'the copy of the images for the loader')
  shared.set(bytes)
  return shared
}
