/** The loader's worker thread: makes the batch of each step number it is sent and hands its memory over. */
import { parentPort, workerData } from 'node:worker_threads'
import { BatchMaker, type BatchPlan, type BatchSource } from './batch.js'

/** What the worker is started with. */
export interface BatchWorkerData {
  readonly source: BatchSource
  readonly plan: BatchPlan
}

const { source, plan } = workerData as BatchWorkerData
const maker = new BatchMaker(source, plan)

parentPort?.on('message', (step: number) => {
  const batch = maker.batch(step)
  parentPort?.postMessage(batch, [
    batch.images.buffer as ArrayBuffer,
    batch.labels.buffer as ArrayBuffer,
    batch.indices.buffer as ArrayBuffer,
  ])
})
