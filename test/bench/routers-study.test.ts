/** The study of the routers goes on where it was cut off, and comes to the same numbers. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { chartOf } from '../../bench/routers/chart.js'
import { type Result, summarise, tableOf } from '../../bench/routers/results.js'
import { Random } from '../../lib/core/random.js'
import { folderOf, temporaryFolder } from '../data/temporary-folder.js'
import { idx } from '../training/tiny-run.js'

const root = join(import.meta.dirname, '..', '..')
/** As many patches as in Fashion-MNIST, and two batches of the study. */
const [SIDE, TRAIN_IMAGES, TEST_IMAGES, CLASSES] = [28, 128, 32, 4]

/** Noise whose brightest quarter is the class. */
function pictures(count: number, stream: number): { readonly images: Buffer; readonly labels: Buffer } {
  const random = new Random(3, stream)
  const pixels = Uint8Array.from({ length: count * SIDE * SIDE }, (_, i) => {
    const [image, row, column] = [
      Math.floor(i / (SIDE * SIDE)),
      Math.floor((i % (SIDE * SIDE)) / SIDE),
      i % SIDE,
    ]
    const quarter = 2 * Number(row >= SIDE / 2) + Number(column >= SIDE / 2)
    return Math.floor(120 * random.uniform(i)) + (quarter === image % CLASSES ? 60 : 0)
  })
  return {
    images: idx([count, SIDE, SIDE], pixels),
    labels: idx(
      [count],
      Uint8Array.from({ length: count }, (_, i) => i % CLASSES),
    ),
  }
}

interface Ended {
  readonly status: number | null
  readonly stderr: string
}

/** Runs the study in a folder, and ends it with a signal once a run has done some steps. */
async function study(
  args: readonly string[],
  end?: { readonly signal: NodeJS.Signals; readonly metrics: string; readonly steps: number },
): Promise<Ended> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'bench/routers/study.ts', ...args], { cwd: root })
  let stderr = ''
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
  child.stdout.resume()
  const poll = setInterval(() => {
    if (end === undefined || !existsSync(end.metrics)) return
    if (readFileSync(end.metrics, 'utf8').split('\n').length <= end.steps) return
    clearInterval(poll)
    child.kill(end.signal)
  }, 5)
  // The processes that it started hold its stderr: all have ended at `close`.
  const status = await new Promise<number | null>((done) => child.once('close', done))
  clearInterval(poll)
  return { status, stderr }
}

function filesOf(out: string): Record<string, string> {
  const names = ['results.json', 'table.md', join('soft', 'seed-0', 'model.safetensors')]
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(out, name)).toString('base64')]))
}

it('comes to the same numbers after an interrupt and a kill', async () => {
  const [train, test] = [pictures(TRAIN_IMAGES, 1), pictures(TEST_IMAGES, 2)]
  const data = folderOf({
    'train-images-idx3-ubyte': train.images,
    'train-labels-idx1-ubyte': train.labels,
    't10k-images-idx3-ubyte': test.images,
    't10k-labels-idx1-ubyte': test.labels,
  })
  const [whole, cut] = [temporaryFolder(), temporaryFolder()]
  const common = [
    '--data',
    data,
    '--seeds',
    '1',
    '--threads',
    '1',
    '--checkpoint-every',
    '10',
    '--steps',
    '120',
  ]
  const only = ['--only', 'soft', 'tokens-choice-k1']
  const { stderr } = await study([...common, ...only, '--processes', '2', '--out', whole])
  expect(stderr).toBe('soft, seed 0\ntokens-choice-k1, seed 0\n')

  const metrics = join(cut, 'soft', 'seed-0', 'metrics.jsonl')
  const again = [...common, ...only, '--out', cut]
  const interrupted = await study(again, { signal: 'SIGINT', metrics, steps: 15 })
  expect(interrupted.stderr).toMatch(/stopped; run the same command again to go on/)
  expect(interrupted.status).toBe(130)
  const killed = await study(again, { signal: 'SIGKILL', metrics, steps: 36 })
  expect(killed.status).toBe(null)
  expect(existsSync(join(cut, 'soft', 'seed-0', 'evaluation.json'))).toBe(false)
  expect((await study(again)).status).toBe(0)
  expect(filesOf(cut)).toEqual(filesOf(whole))

  const results = JSON.parse(readFileSync(join(whole, 'results.json'), 'utf8')) as Result[]
  expect(results.map(({ system, seed }) => `${system} ${seed}`)).toEqual(['soft 0', 'tokens-choice-k1 0'])
  expect(results.map(({ droppedFraction }) => droppedFraction === null)).toEqual([true, false])
  for (const { accuracy } of results) expect(accuracy).toBeGreaterThan(0.5)

  const other = await study([...common.slice(0, -1), '61', ...only, '--out', whole])
  expect(other.stderr).toMatch(/study\.json says that the runs there have other settings/)
  expect(other.status).toBe(1)
}, 400_000)

it('tabulates and draws means and deviations over the seeds, best first', () => {
  const run = (system: string, seed: number, accuracy: number): Result => ({
    system,
    seed,
    accuracy,
    placesPerToken: 1,
    loss: 1,
    droppedFraction: system === 'dense' ? null : 0.25,
  })
  const times = ['dense', 'soft'].map((system) => ({
    system,
    millisecondsPerStep: 20,
    millisecondsPerImage: 0.1,
  }))
  const runs = [run('dense', 0, 0.8), run('dense', 1, 0.82), run('soft', 0, 0.9), run('identity', 0, 0.1)]
  const summaries = summarise(runs, times)
  expect(tableOf(summaries).split('\n').slice(2)).toEqual([
    '| soft | 1 | 90.00 % | 1 | 25.00 % | 20.0 | 0.100 |',
    '| dense | 1 | 81.00 % ± 1.41 % | 2 | – | 20.0 | 0.100 |',
    '| identity | 1 | 10.00 % | 1 | 25.00 % | – | – |',
    '',
  ])
  const chart = chartOf(summaries, 500)
  expect([...new Set(chart.match(/<title>[^<]*/g))]).toEqual([
    '<title>soft: 90.00 %',
    '<title>dense: 81.00 %',
  ])
  expect(chart).not.toContain('NaN')
})
