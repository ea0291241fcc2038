/** Peak and bandwidth of this machine, measured by the native benchmark whenever they are asked for. */
import { fileURLToPath } from 'node:url'
import { LineProcess } from './line-process.js'
import { boundsOf, type Formats, LIMIT_NAMES, type LimitName, type Limits, percentile } from './rows.js'

const root = fileURLToPath(new URL('..', import.meta.url))

/** Reads an answer like `float32 470.1 bandwidth 51.2`. */
export function readLimits(answer: string): Partial<Limits> {
  const pairs = [...answer.matchAll(/(\w+) ([\d.]+)/g)].map(([, name, value]) => [name, Number(value)])
  return Object.fromEntries(pairs) as Partial<Limits>
}

/** A process that measures with some threads, and sleeps in between. */
export class LimitProbe {
  readonly #process: LineProcess
  /** Measured for longer than those of a round. */
  readonly atStart: Limits

  private constructor(process: LineProcess, atStart: Limits) {
    this.#process = process
    this.atStart = atStart
  }

  /** Starts it; null, with the reason on stderr, where the native benchmark cannot be built or has no limits. */
  static async start(instructionSet: string, threads: number): Promise<LimitProbe | null> {
    const args = ['scripts/native-bench.cjs', instructionSet, String(threads), 'probe']
    const child = new LineProcess([process.execPath, ...args], root, () => true)
    try {
      const measured = readLimits(await child.ask(LIMIT_NAMES.join(' ')))
      if (LIMIT_NAMES.every((name) => name in measured)) return new LimitProbe(child, measured as Limits)
      console.error('no limits: the native benchmark has no way to measure those of this machine')
    } catch (error) {
      console.error(`no limits: the native benchmark could not be built or run\n${(error as Error).message}`)
    }
    await child.stop()
    return null
  }

  /** Takes 10 to 30 ms for each. */
  async measure(names: readonly LimitName[]): Promise<Partial<Limits>> {
    return readLimits(await this.#process.ask(names.join(' ')))
  }

  async stop(): Promise<void> {
    await this.#process.stop()
  }
}

/** The limits that bound some rows, measured anew in each of their rounds, as a machine's speed changes. */
export class RoundLimits {
  readonly #probe: Pick<LimitProbe, 'measure'> | null
  readonly #names: readonly LimitName[]
  readonly #rounds: Partial<Limits>[] = []

  /** @param probe - null: the limits stay unknown */
  constructor(probe: Pick<LimitProbe, 'measure'> | null, rows: readonly Formats[]) {
    this.#probe = probe
    this.#names = [...new Set(rows.flatMap(boundsOf))]
  }

  /** To be called once a round. */
  async measure(): Promise<void> {
    if (this.#probe !== null) this.#rounds.push(await this.#probe.measure(this.#names))
  }

  /** Over the rounds so far; null if nothing was measured. */
  median(): Partial<Limits> | null {
    if (this.#rounds.length === 0) return null
    const medianOf = (name: LimitName): number => {
      const values = this.#rounds.map((round) => round[name] ?? Number.NaN)
      return percentile(
        values.toSorted((a, b) => a - b),
        0.5,
      )
    }
    return Object.fromEntries(this.#names.map((name) => [name, medianOf(name)]))
  }
}
