/**
 * Training on disks that fill up, vanish or are made read-only. The error must be ERR_FILE_WRITE with the reason, what
 * was written before must be readable, the process must go on, and the run must end with the uninterrupted bits once
 * the disk is well again. Mounting needs root on Linux.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SoftMoEError, train, type TrainHooks, type TrainOptions } from '../../lib/index.js'
import { TINY_MODEL, tinyData } from '../training/tiny-run.js'
import { equalBits, readRunFiles, tensorBits } from './run-files.js'
import { check, figure, quick } from './tally.js'

const OPTIONS = {
  data: tinyData(),
  model: TINY_MODEL,
  batchSize: 8,
  steps: 12,
  evalEvery: 4,
  checkpointEvery: 2,
  keep: 3,
  device: 'cpu',
} as const satisfies TrainOptions

/** Trains and returns the error, or undefined at the end of a run. */
async function outcome(options: TrainOptions, hooks: TrainHooks = {}): Promise<unknown> {
  try {
    const { model } = await train({ ...OPTIONS, ...options }, hooks)
    model.dispose()
    return undefined
  } catch (error) {
    return error
  }
}

function isRefusal(error: unknown, reason: RegExp): boolean {
  return SoftMoEError.is(error) && error.code === 'ERR_FILE_WRITE' && reason.test(error.message)
}

function system(command: string, ...args: string[]): boolean {
  return spawnSync(command, args).status === 0
}

/** Resumes a run, or starts it where it has no checkpoint, and compares it with the uninterrupted one. */
async function goesOnTo(wanted: ReadonlyMap<string, string>, out: string): Promise<boolean> {
  const resume = (await readRunFiles(out)).checkpoints > 0
  const error = await outcome({ out, resume })
  return error === undefined && equalBits(await tensorBits(join(out, 'model.safetensors')), wanted)
}

async function withFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'softmoe-faults-'))
  try {
    await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function wholeRun(folder: string): Promise<ReadonlyMap<string, string>> {
  const out = join(folder, 'whole')
  const error = await outcome({ out })
  check(error === undefined, `the uninterrupted run ends well: ${String(error)}`)
  return tensorBits(join(out, 'model.safetensors'))
}

/** Kilobytes that the disk has: from nothing to all that a run needs. */
const SIZES = quick
  ? [4, 40, 120]
  : [4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 288]

export function fillDisks(): Promise<void> {
  return withFolder(async (folder) => {
    const wanted = await wholeRun(folder)
    const disk = join(folder, 'disk')
    mkdirSync(disk)
    if (!system('mount', '-t', 'tmpfs', '-o', 'size=4k', 'tmpfs', disk)) {
      figure('  skipped: mounting a tmpfs needs root on Linux')
      return
    }
    let full = 0
    let ended = 0
    let files = 0
    try {
      for (const size of SIZES) {
        system('mount', '-o', `remount,size=${size}k`, disk)
        const out = join(disk, 'run')
        const error = await outcome({ out })
        if (error === undefined) ended += 1
        else full += 1
        check(
          error === undefined || isRefusal(error, /the disk is full; free space or choose another folder/),
          `a disk of ${size} kB gives ERR_FILE_WRITE: ${String(error)}`,
        )
        const found = await readRunFiles(out)
        files += found.files
        check(
          found.unreadable.length === 0 && found.temporaries.length === 0,
          `a disk of ${size} kB holds whole files: ${[...found.unreadable, ...found.temporaries].join('; ')}`,
        )
        system('mount', '-o', 'remount,size=16m', disk)
        check(await goesOnTo(wanted, out), `the run goes on once the disk of ${size} kB has space`)
        rmSync(out, { recursive: true, force: true })
      }
    } finally {
      system('umount', disk)
    }
    figure(
      `  ${SIZES.length} sizes of disk from ${SIZES[0]} kB: ${full} full, ${ended} large enough; ${files} files left, all readable`,
    )
  })
}

export function removeFolders(): Promise<void> {
  return withFolder(async (folder) => {
    const wanted = await wholeRun(folder)
    let refused = 0
    const faults: Readonly<Record<string, (out: string) => void>> = {
      'the run folder removed': (out) => rmSync(out, { recursive: true }),
      'its checkpoints removed': (out) => rmSync(join(out, 'checkpoints'), { recursive: true }),
      'a file in place of its checkpoints': (out) => {
        rmSync(join(out, 'checkpoints'), { recursive: true })
        writeFileSync(join(out, 'checkpoints'), '')
      },
    }
    for (const [name, harm] of Object.entries(faults)) {
      for (let step = 0; step < OPTIONS.steps; step += quick ? 5 : 1) {
        const out = join(folder, 'run')
        const error = await outcome(
          { out },
          {
            onStep: (record) => {
              if (record.step === step) harm(out)
            },
          },
        )
        refused += 1
        check(
          isRefusal(error, /its folder does not exist; create it first|a part of its path is no folder/),
          `${name} after step ${step} gives ERR_FILE_WRITE: ${String(error)}`,
        )
        rmSync(out, { recursive: true, force: true })
      }
    }
    check(await goesOnTo(wanted, join(folder, 'run')), 'the process trains on after the folders were removed')
    figure(`  ${refused} runs whose folder went away, each with ERR_FILE_WRITE; the process trained on`)
  })
}

export function refuseWriting(): Promise<void> {
  return withFolder(async (folder) => {
    const wanted = await wholeRun(folder)
    const disk = join(folder, 'disk')
    mkdirSync(disk)
    if (!system('mount', '-t', 'tmpfs', '-o', 'size=16m,ro', 'tmpfs', disk)) {
      figure('  skipped: mounting a tmpfs needs root on Linux')
      return
    }
    try {
      const error = await outcome({ out: join(disk, 'run') })
      check(
        isRefusal(error, /the file system is read-only; choose another folder/),
        `read-only: ${String(error)}`,
      )
      system('mount', '-o', 'remount,rw', disk)
      // A file system of their own for the checkpoints can be made read-only while the run writes its metrics.
      const out = join(folder, 'run')
      const checkpoints = join(out, 'checkpoints')
      mkdirSync(checkpoints, { recursive: true })
      system('mount', '--bind', disk, checkpoints)
      const later = await outcome(
        { out },
        {
          onStep: ({ step }) => {
            if (step === 6)
              check(system('mount', '-o', 'remount,ro', disk), 'the file system is made read-only')
          },
        },
      )
      check(
        isRefusal(later, /the file system is read-only; choose another folder/),
        `read-only later: ${String(later)}`,
      )
      const found = await readRunFiles(out)
      check(
        found.unreadable.length === 0 && found.checkpoints > 0,
        `earlier checkpoints stay: ${found.checkpoints}`,
      )
      system('mount', '-o', 'remount,rw', disk)
      check(await goesOnTo(wanted, out), 'the run goes on once the file system is writable')
      system('umount', checkpoints)
      figure(
        '  a file system read-only from the start, and from the middle of a run: ERR_FILE_WRITE, and on from there',
      )
    } finally {
      system('umount', disk)
    }
  })
}
