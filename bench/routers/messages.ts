/** What the study and the processes that train for it say to each other. */
import type { RunOptions } from './runs.js'

/** To a worker: train this. */
export interface RunRequest {
  readonly system: string
  readonly seed: number
  readonly options: RunOptions
}

/** From a worker: the run is complete, was stopped, or failed. */
export type RunReply = { readonly complete: boolean } | { readonly failure: string }
