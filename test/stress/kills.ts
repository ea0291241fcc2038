/**
 * Ends the built command with SIGKILL at random moments of training, from its first millisecond to the writing of the
 * report, again and again. After every kill each file under its final name must be readable, the run must go on from its
 * newest checkpoint, and what it ends with must be the uninterrupted run's bits.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeTinyData } from '../training/tiny-run.js'
import { softmoe } from './processes.js'
import { Xorshift } from './random.js'
import { equalBits, readRunFiles, tensorBits, trainedSteps } from './run-files.js'
import { check, figure, quick, seed } from './tally.js'

const KILLS = quick ? 8 : 200
const STEPS = 600
/** Moments are drawn up to this factor of the time that a whole run takes; most fall in training. */
const LATEST = 0.5

export async function killTraining(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'softmoe-kills-'))
  try {
    await kill(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function kill(folder: string): Promise<void> {
  writeTinyData(folder)
  const common = [
    '--data',
    folder,
    '--model',
    join(folder, 'model.json'),
    '--batch-size',
    '8',
    '--device',
    'cpu',
  ]
  const often = ['--steps', String(STEPS), '--eval-every', '50', '--checkpoint-every', '2', '--keep', '3']
  const [whole, killed] = [join(folder, 'whole'), join(folder, 'killed')]
  const fresh = ['train', ...common, ...often]
  const startedAt = performance.now()
  const uninterrupted = await softmoe([...fresh, '--out', whole])
  const wholeMs = performance.now() - startedAt
  check(uninterrupted.status === 0, `the uninterrupted run ends well: ${uninterrupted.stderr}`)
  const [wantedBits, wantedSteps] = [
    await tensorBits(join(whole, 'model.safetensors')),
    await trainedSteps(whole),
  ]

  const random = new Xorshift(seed)
  let kills = 0
  let completed = 0
  let files = 0
  let temporaries = 0
  let withCheckpoint = 0
  const refused: string[] = []
  const unreadable: string[] = []
  let wrong = 0
  while (kills < KILLS) {
    const resumes = (await readRunFiles(killed)).checkpoints > 0
    const args = resumes
      ? ['train', '--resume', ...common, '--eval-every', '50', '--checkpoint-every', '2']
      : fresh
    const afterMs = LATEST * wholeMs * random.uniform()
    const { status, signal, stderr } = await softmoe([...args, '--keep', '3', '--out', killed], {
      end: { signal: 'SIGKILL', afterMs },
    })
    const found = await readRunFiles(killed)
    files += found.files
    unreadable.push(...found.unreadable)
    if (signal === 'SIGKILL') {
      kills += 1
      temporaries += found.temporaries.length
      if (found.checkpoints > 0) withCheckpoint += 1
      continue
    }
    if (status !== 0) {
      refused.push(stderr)
      if (refused.length > 5) break
      continue
    }
    completed += 1
    const left = found.temporaries.length > 0
    const same =
      equalBits(await tensorBits(join(killed, 'model.safetensors')), wantedBits) &&
      JSON.stringify([...(await trainedSteps(killed))]) === JSON.stringify([...wantedSteps])
    if (!same || left) wrong += 1
    rmSync(killed, { recursive: true })
  }
  // The last one is brought to its end.
  if (existsSync(killed)) {
    const resumes = (await readRunFiles(killed)).checkpoints > 0
    const last = await softmoe([
      ...(resumes ? ['train', '--resume', ...common] : fresh),
      '--eval-every',
      '50',
      '--out',
      killed,
    ])
    if (last.status === 0) {
      completed += 1
      if (!equalBits(await tensorBits(join(killed, 'model.safetensors')), wantedBits)) wrong += 1
    } else {
      refused.push(last.stderr)
    }
  }
  figure(
    `  ${kills} kills at random moments, ${withCheckpoint} of them with a checkpoint to go on from; ` +
      `${completed} runs came to their end through them`,
  )
  figure(
    `  ${files} files read whole, ${unreadable.length} unreadable; ${temporaries} kills left a temporary file`,
  )
  figure(`  ${refused.length} restarts refused, ${wrong} ends differ from the uninterrupted run`)
  check(
    kills >= KILLS && completed > 0,
    `${kills} kills and ${completed} runs that ended; wanted ${KILLS} and some`,
  )
  check(unreadable.length === 0, `no file is unreadable: ${unreadable.slice(0, 3).join('; ')}`)
  check(refused.length === 0, `every run goes on: ${refused.slice(0, 3).join('; ')}`)
  check(wrong === 0, `${wrong} runs differ from the uninterrupted one or leave temporary files`)
}
