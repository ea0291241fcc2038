/** A row with its peers: each in turns with ours. */
import { mkdtempSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Device } from '../../lib/index.js'
import type { RoundLimits } from '../limits.js'
import { peerResult, type PeerResult, type SkippedPeer } from '../rows.js'
import { compareWith } from './compare.js'
import type { Peer } from './peer.js'
import { type Problem, ProblemRun } from './problem.js'

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
   * @param limits - measured in every round
   * @returns our times in all rounds, and what each peer took
   */
  async time(
    problem: Problem,
    device: Device,
    seconds: number,
    limits: RoundLimits,
    onPeer: (name: string) => void,
  ): Promise<{ readonly times: readonly number[]; readonly peers: readonly (PeerResult | SkippedPeer)[] }> {
    const run = new ProblemRun(device, problem)
    try {
      const files = await run.write(this.#folder)
      const times: number[] = []
      const peers: (PeerResult | SkippedPeer)[] = []
      for (const peer of this.#peers) {
        if (!peer.supports(problem)) continue
        onPeer(peer.name)
        const result = await compareWith(peer, run, problem, device, files, this.#folder, seconds, limits)
        if ('skipped' in result) {
          peers.push({ name: peer.name, skipped: result.skipped })
          continue
        }
        times.push(...result.ours)
        peers.push(peerResult(result))
      }
      return { times, peers }
    } finally {
      run.dispose()
      device.emptyCache()
    }
  }

  /** Removes the files. */
  close(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
