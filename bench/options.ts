/** The command line of the benchmark. */
import { Command, InvalidArgumentError } from 'commander'
import { type FloatDType } from '../lib/index.js'
import type { Extent } from './cases.js'
import { PEERS } from './peers/peer.js'

const PEER_NAMES = PEERS.map(({ name }) => name)

/** What to run, and where the results go. */
export interface BenchOptions {
  readonly extent: Extent
  readonly only?: RegExp
  readonly list: boolean
  readonly dtypes: readonly FloatDType[]
  /** Null: all of the machine's, and 1. */
  readonly threads: readonly number[] | null
  /** About how long each case is timed. */
  readonly seconds: number
  readonly limits: boolean
  /** Names of the peers to compare with; all if it is left out. */
  readonly peers?: readonly string[]
  readonly json?: string
  readonly charts?: string
}

function pattern(text: string): RegExp {
  try {
    return new RegExp(text, 'i')
  } catch (error) {
    throw new InvalidArgumentError(`not a regular expression: ${(error as Error).message}`)
  }
}

function counts(text: string): readonly number[] {
  const values = text.split(',').map(Number)
  if (values.every((value) => Number.isInteger(value) && value >= 1 && value <= 256)) return values
  throw new InvalidArgumentError('wanted whole numbers from 1 to 256, like 2 or 1,2')
}

function positive(text: string): number {
  const value = Number(text)
  if (value > 0 && Number.isFinite(value)) return value
  throw new InvalidArgumentError('wanted a number over 0')
}

function dtypeList(text: string): readonly FloatDType[] {
  if (text === 'float32' || text === 'bfloat16') return [text]
  throw new InvalidArgumentError('wanted float32 or bfloat16')
}

function peerNames(text: string): readonly string[] {
  const names = text.split(',')
  if (names.every((name) => PEER_NAMES.includes(name))) return names
  throw new InvalidArgumentError(`wanted some of ${PEER_NAMES.join(',')}`)
}

/** @param argv - the arguments, without node and the script */
export function parseOptions(argv: readonly string[], configure?: (program: Command) => void): BenchOptions {
  const program = new Command('bench')
    .description(
      'Times the layers of the papers against the limits of this machine and against other libraries.',
    )
    .option('--quick', 'the smallest rows, for a first look')
    .option('--all', 'every row: all sizes and batches, 1 thread as well (hours)')
    .option('--only <pattern>', 'the rows whose line in --list matches this regular expression', pattern)
    .option('--list', 'print the rows and end')
    .option('--dtype <dtype>', 'float32 or bfloat16; default both', dtypeList)
    .option('--threads <n>', 'threads of all rows, or several counts: 1,2', counts)
    .option('--seconds <n>', 'about how long each row is timed', positive)
    .option('--no-limits', 'do not measure the peak and the bandwidth of this machine')
    .option('--peers <names>', `only these of ${PEER_NAMES.join(',')}`, peerNames)
    .option('--json <file>', 'also write one JSON object a line')
    .option('--charts <folder>', 'also draw SVG charts there')
  configure?.(program)
  const options = program.parse(argv, { from: 'user' }).opts<{
    quick?: true
    all?: true
    only?: RegExp
    list?: true
    dtype?: readonly FloatDType[]
    threads?: readonly number[]
    seconds?: number
    limits: boolean
    peers?: readonly string[]
    json?: string
    charts?: string
  }>()
  const extent = options.all === true ? 'all' : options.quick === true ? 'quick' : 'standard'
  return {
    extent,
    list: options.list ?? false,
    dtypes: options.dtype ?? ['float32', 'bfloat16'],
    threads: options.threads ?? null,
    seconds: options.seconds ?? (options.quick === true ? 0.3 : 1),
    limits: options.limits,
    ...(options.only === undefined ? {} : { only: options.only }),
    ...(options.peers === undefined ? {} : { peers: options.peers }),
    ...(options.json === undefined ? {} : { json: options.json }),
    ...(options.charts === undefined ? {} : { charts: options.charts }),
  }
}
