/** Rows of the same layer with their peers: each in turns with all of ours. */
import { mkdtempSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Device } from '../../lib/index.js'
import type { RoundLimits } from '../limits.js'
import { peerResult, type PeerResult, type SkippedPeer } from '../rows.js'
import { compareWith } from './compare.js'
import type { Peer } from './peer.js'
import { type Problem, ProblemRun } from './problem.js'

/** A row of ours, and what each peer took in its rounds. */
export interface PeerRow {
  /** Ours in all rounds. */
  readonly times: readonly number[]
  readonly peers: readonly (PeerResult | SkippedPeer)[]
}

/** The peers' files; the weights of a layer are written once. */
export class PeerRuns {
  readonly #folder = mkdtempSync(join(tmpdir(), 'softmoe-bench-'))
  readonly #peers: readonly Peer[]

  constructor(peers: readonly Peer[]) {
    this.#peers = peers
    process.once('exit', () => this.close())
    // A signal without a handler ends the process without its event `exit`.
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => process.exit(128 + constants.signals[signal]))
    }
  }

  /**
   * @param problems - of the same layer, that differ in our weights alone
   * @param limits - measured in every round
   * @returns a row for each problem
   */
  async time(
    problems: readonly Problem[],
    device: Device,
    seconds: number,
    limits: RoundLimits,
    onPeer: (name: string) => void,
  ): Promise<readonly PeerRow[]> {
    const folder = this.#folder
    const runs: ProblemRun[] = []
    try {
      let files: readonly string[] = []
      for (const problem of problems) {
        const run = new ProblemRun(device, problem)
        runs.push(run)
        files = await run.write(folder)
        run.freeze()
      }
      const rows = problems.map(() => ({ times: [] as number[], peers: [] as (PeerResult | SkippedPeer)[] }))
      for (const peer of this.#peers) {
        if (!problems.every((problem) => peer.supports(problem))) continue
        onPeer(peer.name)
        const results = await compareWith(peer, runs, { device, files, folder, seconds, limits })
        for (const [i, result] of results.entries()) {
          if ('skipped' in result) {
            rows[i].peers.push({ name: peer.name, skipped: result.skipped })
          } else {
            rows[i].times.push(...result.ours)
            rows[i].peers.push(peerResult(result))
          }
        }
      }
      return rows
    } finally {
      for (const run of runs) run.dispose()
      device.emptyCache()
    }
  }

  /** Removes the files. */
  close(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
