/** Drives the built command as a user would, with a tiny model on a tiny data set. */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { encodePng } from '../../lib/data/png.js'
import { SafetensorsFile } from '../../lib/training/safetensors.js'
import { temporaryFolder } from '../data/temporary-folder.js'
import { chromium, look } from '../training/chromium.js'
import { tinyData, writeTinyData } from '../training/tiny-run.js'

const root = resolve(import.meta.dirname, '../..')
const program = join(root, 'dist', 'esm', 'cli', 'softmoe.js')

interface Result {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

function softmoe(...args: string[]): Result {
  return spawnSync(process.execPath, [program, ...args], { encoding: 'utf8', timeout: 60_000 })
}

/** Starts the command and sends it a signal when it has trained some steps. */
async function signalled(signal: NodeJS.Signals, metrics: string, args: readonly string[]): Promise<Result> {
  const child = spawn(process.execPath, [program, ...args])
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()))
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
  const poll = setInterval(() => {
    if (!existsSync(metrics) || readFileSync(metrics, 'utf8').split('\n').length < 8) return
    clearInterval(poll)
    child.kill(signal)
  }, 5)
  const status = await new Promise<number | null>((done) => child.on('close', done))
  clearInterval(poll)
  return { status, stdout, stderr }
}

async function modelBytes(run: string): Promise<Record<string, string>> {
  const file = await SafetensorsFile.open(join(run, 'model.safetensors'))
  const found: Record<string, string> = {}
  for (const name of file.tensors.keys()) found[name] = Buffer.from(await file.read(name)).toString('base64')
  await file.close()
  return found
}

let data = ''
let folder = ''
/** A run of enough steps that it can be interrupted, and what it gives when it is not. */
const LONG = ['--steps', '200', '--eval-every', '100', '--checkpoint-every', '5', '--keep', '3']
let common: readonly string[] = []
let uninterrupted: Record<string, string> = {}

beforeAll(async () => {
  data = temporaryFolder()
  folder = temporaryFolder()
  writeTinyData(data)
  common = [
    'train',
    '--data',
    data,
    '--model',
    join(data, 'model.json'),
    '--batch-size',
    '8',
    '--device',
    'cpu',
  ]
  const out = join(folder, 'whole')
  const { status, stderr, stdout } = softmoe(...common, ...LONG, '--out', out)
  expect(stderr).toBe('')
  expect(status).toBe(0)
  expect(stdout).toMatch(/data: .*48 images to train, 24 to test/)
  expect(stdout).toMatch(/step 200\/200, loss [\d.]+, accuracy [\d.]+ %, \d+ images\/s, 0 s left/)
  expect(stdout).toMatch(/step 200: test accuracy [\d.]+ %/)
  expect(stdout).toMatch(/test accuracy [\d.]+ % after 200 steps/)
  uninterrupted = await modelBytes(out)
}, 60_000)

describe('softmoe train', () => {
  it('lists its options', () => {
    const { stdout, status } = softmoe('train', '--help')
    expect(status).toBe(0)
    for (const name of [
      '--data',
      '--router',
      '--experts',
      '--epochs',
      '--precision',
      '--resume',
      '--config',
    ]) {
      expect(stdout).toContain(name)
    }
    expect(stdout).toContain('tokens-choice')
    expect(stdout).toContain('softmoe train --resume')
  })

  it.each([
    [['--rooter', 'soft'], 2, /unknown option '--rooter'\n\(Did you mean --router\?\)/],
    [['--router', 'sotf'], 2, /Did you mean soft\?/],
    [['--data', '/nowhere'], 1, /\/nowhere does not exist; check the path \(ERR_FILE_NOT_FOUND\)/],
    [['--data', join(root, '.ci')], 1, /holds no data set: wanted IDX files/],
    [
      ['--out', join(root, 'package.json', 'run')],
      1,
      /run cannot be written: a part of its path is no folder/,
    ],
    [['--model', 'huge'], 2, /the model is 'huge'; give tiny/],
    [['--batch-size', '512'], 2, /batchSize is 512, but .* has only 48/],
    [['--resume', '--out', '/nowhere'], 1, /\/nowhere holds no checkpoint to resume/],
  ])('refuses %j with status %d', (args, status, message) => {
    const result = softmoe(...common, '--out', join(folder, 'refused'), ...args)
    expect(result.stderr).toMatch(message)
    expect(result.status).toBe(status)
    expect(existsSync(join(folder, 'refused', 'checkpoints', 'step-00000001.safetensors'))).toBe(false)
  })

  it.skipIf(!existsSync('/proc/self'))('says at once that no run can be kept under /proc', () => {
    const { status, stderr } = softmoe(...common, '--out', '/proc/softmoe/run')
    expect(stderr).toMatch(/\/proc\/softmoe cannot be made: .* takes no new folders.* \(ERR_FILE_WRITE\)/)
    expect(status).toBe(1)
  })

  it('draws a bar within 80 columns on a terminal', ({ skip }) => {
    const out = join(folder, 'terminal')
    const train = [process.execPath, program, ...common, '--steps', '40', '--eval-every', '20', '--out', out]
    const command = `stty cols 80; ${train.map((word) => `'${word}'`).join(' ')}`
    const { error, status, stdout } = spawnSync('script', ['-qec', command, '/dev/null'], {
      encoding: 'utf8',
      timeout: 60_000,
    })
    skip(error !== undefined, 'a terminal needs the command script')
    expect(status).toBe(0)
    const drawn = stdout
      .split('\u001b')
      .flatMap((piece) => piece.replace(/^\[[\d;?]*[A-Za-z]/, '').split(/[\r\n]+/))
    const bars = drawn.filter((line) => /^[█░]+ \d+\/40 {2}loss [\d.]+ {2}accuracy .* left$/.test(line))
    expect(bars.length).toBeGreaterThan(2)
    expect(Math.max(...bars.map((line) => line.length))).toBeLessThan(80)
    // The cursor goes back to the bar's own line at the end, not over what was printed since the start.
    expect(stdout.lastIndexOf('\u001b7')).toBeGreaterThan(stdout.indexOf('step 40: test accuracy'))
    for (const step of [20, 40]) {
      expect(drawn).toContainEqual(expect.stringMatching(new RegExp(`^step ${step}: test accuracy`)))
    }
  })

  it('writes a report, and what the other commands read', () => {
    const run = join(folder, 'whole')
    expect(readFileSync(join(run, 'report.html'), 'utf8')).toContain('Training report')
    const { stdout } = softmoe('eval', run, '--json', '--few-shot', '4', '--device', 'cpu')
    const evaluation = JSON.parse(stdout) as { accuracy: number; images: number; fewShot: { shots: number } }
    expect(evaluation).toMatchObject({ images: 24, fewShot: { shots: 4 } })
    expect(evaluation.accuracy).toBeGreaterThan(0.6)
    const { test } = tinyData()
    const picture = join(folder, 'picture.png')
    writeFileSync(
      picture,
      encodePng({ pixels: test.images.slice(64, 128), height: 8, width: 8, channels: 1 }),
    )
    const line = softmoe('predict', run, picture, '--top', '1', '--device', 'cpu')
    expect(line.stdout).toMatch(/picture\.png: 1 [\d.]+ %\n/)
    const written = readFileSync(join(run, 'evaluation.json'), 'utf8')
    for (const weights of ['float32', 'bfloat16', 'int8']) {
      const frozen = ['--weights', weights, '--device', 'cpu']
      const measured = JSON.parse(softmoe('eval', run, '--json', ...frozen).stdout) as { accuracy: number }
      expect(Math.abs(measured.accuracy - evaluation.accuracy)).toBeLessThan(0.1)
      const predicted = softmoe('predict', run, picture, '--top', '1', ...frozen)
      expect(predicted.stdout).toMatch(/picture\.png: 1 [\d.]+ %\n/)
    }
    // What frozen weights give is not the run's own result.
    expect(readFileSync(join(run, 'evaluation.json'), 'utf8')).toBe(written)
    expect(softmoe('predict', run, join(data, 'model.json')).stderr).toMatch(/is no usable PNG file/)
    expect(softmoe('eval', data).stderr).toMatch(/holds no model and no checkpoint/)
  })

  it.skipIf(chromium === undefined)('writes a report that a browser draws', () => {
    const page = look(join(folder, 'whole', 'report.html'), { scheme: 'dark', width: 1240, height: 900 })
    const charts = page.match(/<figure class="chart">/g)?.length ?? 0
    expect(charts).toBeGreaterThan(10)
    expect(page.match(/<div class="uplot/g)).toHaveLength(charts)
    for (const title of ['Accuracy by class', 'Confusion', 'Sample predictions', 'Total dispatch weight']) {
      expect(page).toContain(title)
    }
    expect(page).toMatch(/Layer\s+1,\s+soft\s+router,\s+2\s+experts/)
  })

  it('trains on class folders of PNG images, changed by every augmentation', () => {
    const images = join(folder, 'images')
    const { train } = tinyData()
    train.classNames.forEach((name, label) => {
      mkdirSync(join(images, name), { recursive: true })
      for (let i = 0; i < 5; i++) {
        const at = 64 * (label + train.classNames.length * i)
        const pixels = train.images.slice(at, at + 64)
        writeFileSync(join(images, name, `${i}.png`), encodePng({ pixels, height: 8, width: 8, channels: 1 }))
      }
    })
    const options = ['--data', images, '--crop', '1', '--flip', '--rand-augment', '--batch-size', '4']
    const { status, stderr, stdout } = softmoe(
      ...['train', ...options, '--steps', '3', '--device', 'cpu', '--out', join(folder, 'folder-run')],
    )
    expect([status, stderr]).toEqual([0, ''])
    expect(stdout).toMatch(/data: images, 12 images to train, 3 to test\nmodel: soft, 8 experts/)
    expect(stdout).toMatch(/run: 3 steps of 4 images \(1\.00 epochs\)/)
  })

  it('finishes the step at an interrupt, says how to go on, and does so bit for bit', async () => {
    const out = join(folder, 'interrupted')
    const result = await signalled('SIGINT', join(out, 'metrics.jsonl'), [...common, ...LONG, '--out', out])
    expect(result.stderr).toMatch(/finishing this step and writing a checkpoint/)
    expect(result.stderr).toMatch(/interrupted after step \d+.* softmoe train --resume --out \S+interrupted/)
    expect(result.status).toBe(130)
    expect(existsSync(join(out, 'model.safetensors'))).toBe(false)
    expect(softmoe('train', '--resume', '--out', out, '--device', 'cpu')).toMatchObject({
      status: 0,
      stderr: '',
    })
    expect(await modelBytes(out)).toEqual(uninterrupted)
  })

  it('goes on after kill -9 from its last checkpoint, bit for bit', async () => {
    const out = join(folder, 'killed')
    const result = await signalled('SIGKILL', join(out, 'metrics.jsonl'), [...common, ...LONG, '--out', out])
    expect(result.status).toBe(null)
    for (const name of readdirSync(join(out, 'checkpoints')).filter((file) => !file.startsWith('.'))) {
      const file = await SafetensorsFile.open(join(out, 'checkpoints', name))
      await file.close()
    }
    const { stdout, stderr, status } = softmoe('train', '--resume', '--out', out, '--device', 'cpu')
    expect([status, stderr]).toEqual([0, ''])
    expect(stdout).toMatch(/going on after step \d*[05]\n/)
    expect(await modelBytes(out)).toEqual(uninterrupted)
  })
})

/** Mounts a small file system; false where that is not allowed. */
function mountDisk(disk: string, options: string): boolean {
  mkdirSync(disk)
  return (
    process.platform === 'linux' &&
    spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', disk]).status === 0
  )
}

describe('softmoe train on a read-only disk', () => {
  it('says so', ({ skip }) => {
    const disk = join(folder, 'read-only')
    skip(!mountDisk(disk, 'ro'), 'mounting a tmpfs needs root on Linux')
    try {
      const { status, stderr } = softmoe(...common, '--out', join(disk, 'run'))
      expect(stderr).toMatch(/run cannot be written: the file system is read-only; choose another folder/)
      expect(status).toBe(1)
    } finally {
      spawnSync('umount', [disk])
    }
  })
})

describe('softmoe train on a full disk', () => {
  it('says so, and leaves the earlier checkpoints whole', async ({ skip }) => {
    const disk = join(folder, 'disk')
    skip(!mountDisk(disk, 'size=192k'), 'mounting a small tmpfs needs root on Linux')
    try {
      const out = join(disk, 'run')
      const { status, stderr } = softmoe(
        ...[...common, '--steps', '400', '--checkpoint-every', '1', '--keep', '99', '--out', out],
      )
      expect(stderr).toMatch(/cannot be written: the disk is full; free space or choose another folder/)
      expect(status).toBe(1)
      const names = readdirSync(join(out, 'checkpoints'))
      expect(names.length).toBeGreaterThan(0)
      for (const name of names) {
        expect(name).toMatch(/^step-\d+\.safetensors$/)
        const file = await SafetensorsFile.open(join(out, 'checkpoints', name))
        await file.close()
      }
    } finally {
      spawnSync('umount', [disk])
    }
  })
})
