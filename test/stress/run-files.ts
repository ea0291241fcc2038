/** What a run's folder holds after a process was killed in the middle of it. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readCheckpointInfo, readMetrics, SafetensorsFile, type TrainRecord } from '../../lib/index.js'

/** Every tensor of a safetensors file, in base 64. */
export async function tensorBits(path: string): Promise<ReadonlyMap<string, string>> {
  const file = await SafetensorsFile.open(path)
  try {
    const bits = new Map<string, string>()
    for (const name of file.tensors.keys())
      bits.set(name, Buffer.from(await file.read(name)).toString('base64'))
    return bits
  } finally {
    await file.close()
  }
}

/** Whether two models have the same tensors with the same bits. */
export function equalBits(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  return a.size === b.size && [...a].every(([name, bits]) => b.get(name) === bits)
}

/** Files under their final names, by what reads them. */
const READERS: readonly (readonly [pattern: RegExp, read: (path: string) => unknown])[] = [
  [
    /^checkpoints\/step-\d+\.safetensors$/,
    async (path) => [await tensorBits(path), await readCheckpointInfo(path)],
  ],
  [/^model\.safetensors$/, tensorBits],
  [/^metrics\.jsonl$/, readMetrics],
  [/^(configuration|evaluation)\.json$/, (path) => JSON.parse(readFileSync(path, 'utf8')) as unknown],
  [
    /^report\.html$/,
    (path) => {
      if (!readFileSync(path, 'utf8').trimEnd().endsWith('</html>')) throw new Error('the page is cut off')
    },
  ],
]

/** What was found in a run's folder. */
export interface Findings {
  /** Files read whole. */
  readonly files: number
  /** Checkpoints among them. */
  readonly checkpoints: number
  /** Temporary files that a killed writer left. */
  readonly temporaries: readonly string[]
  /** Files that cannot be read, or that a run does not write, with the reason. */
  readonly unreadable: readonly string[]
}

/** Reads every file of a run's folder. */
export async function readRunFiles(folder: string): Promise<Findings> {
  let files = 0
  let checkpoints = 0
  const temporaries: string[] = []
  const unreadable: string[] = []
  const names = existsSync(folder) ? readdirSync(folder, { recursive: true, encoding: 'utf8' }) : []
  for (const name of names) {
    if (name === 'checkpoints') continue
    if (/(^|\/)\.[^/]+\.tmp$/.test(name)) {
      temporaries.push(name)
      continue
    }
    const reader = READERS.find(([pattern]) => pattern.test(name))
    try {
      if (reader === undefined) throw new Error('a run writes no such file')
      await reader[1](join(folder, name))
      files += 1
      if (name.startsWith('checkpoints/')) checkpoints += 1
    } catch (error) {
      unreadable.push(`${name}: ${String(error)}`)
    }
  }
  return { files, checkpoints, temporaries, unreadable }
}

/** Losses and gradient norms by step; throws when a step is recorded twice. */
export async function trainedSteps(folder: string): Promise<ReadonlyMap<number, string>> {
  const steps = new Map<number, string>()
  const records = await readMetrics(join(folder, 'metrics.jsonl'))
  for (const record of records.filter((one): one is TrainRecord => one.kind === 'train')) {
    if (steps.has(record.step)) throw new Error(`step ${record.step} is recorded twice`)
    steps.set(record.step, `${record.loss} ${record.gradNorm} ${record.accuracy}`)
  }
  return steps
}
