import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Diagnosis } from '../../lib/cli/doctor.js'
import { temporaryFolder } from '../data/temporary-folder.js'
import { writeSampleRun } from '../training/sample-run.js'

const root = resolve(import.meta.dirname, '../..')

interface Result {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs the built command as a user would. */
function softmoe(
  args: readonly string[],
  format: 'esm' | 'cjs' = 'esm',
  environment: NodeJS.ProcessEnv = {},
): Result {
  const program = join(root, 'dist', format, 'cli', 'softmoe.js')
  return spawnSync(process.execPath, [program, ...args], {
    encoding: 'utf8',
    timeout: 60_000,
    env: { ...process.env, ...environment },
  })
}

let runs = ''
beforeAll(async () => {
  runs = temporaryFolder()
  for (const name of ['a', 'b']) {
    mkdirSync(join(runs, name))
    await writeSampleRun(join(runs, name), { seed: 1, steps: 120 })
  }
})

describe.each(['esm', 'cjs'] as const)('softmoe, built as %s', (format) => {
  it('prints help and version', () => {
    const help = softmoe(['--help'], format)
    expect(help).toMatchObject({ status: 0, stderr: '' })
    expect(help.stdout).toMatch(/report .*runs[\s\S]*doctor/)
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
    expect(softmoe(['--version'], format)).toMatchObject({ status: 0, stdout: `${version}\n` })
    expect(softmoe(['report', '--help'], format).stdout).toContain('softmoe report runs/soft runs/dense')
  })

  it('writes a report into the run, or where it is told', () => {
    const page = join(runs, 'a', 'report.html')
    expect(softmoe(['report', join(runs, 'a')], format)).toMatchObject({
      status: 0,
      stdout: `${page}\n`,
      stderr: '',
    })
    expect(existsSync(page)).toBe(true)
    const both = join(runs, `${format}.html`)
    softmoe(['report', join(runs, 'a'), join(runs, 'b'), '--out', both], format)
    expect(readFileSync(both, 'utf8')).toContain('Comparison of 2 runs')
  })

  it('says what the machine can do', () => {
    const { stdout, stderr, status } = softmoe(['doctor', '--json'], format)
    expect(stderr).toBe('')
    const found = JSON.parse(stdout) as Diagnosis
    expect(found).toMatchObject({ node: process.version, platform: `${process.platform}-${process.arch}` })
    expect(found.cores).toBeGreaterThan(0)
    expect(status).toBe('unusable' in found.addon || 'unusable' in found.cpu ? 1 : 0)
    expect(softmoe(['doctor'], format).stdout).toMatch(
      /^softmoe .*\nsystem: .*\nprocessor: .*\nmemory: .* GiB/,
    )
  })
})

describe('softmoe', () => {
  it.each([
    [['reprot'], 2, /unknown command 'reprot'\n\(Did you mean report\?\)/],
    [['report'], 2, /missing required argument 'runs'/],
    [['report', 'x', '--output', 'y'], 2, /unknown option '--output'\n\(Did you mean --out\?\)/],
    [
      ['report', '/nowhere'],
      1,
      /^softmoe: \/nowhere does not exist; check the path \(ERR_FILE_NOT_FOUND\)\n$/,
    ],
    [['report', 'test'], 1, /test holds neither metrics.jsonl nor evaluation.json/],
    [['report', 'package.json'], 1, /package.json is no folder/],
  ])('refuses %j with status %d', (args, status, message) => {
    const result = softmoe(args)
    expect(result.stderr).toMatch(message)
    expect(result).toMatchObject({ status, stdout: '' })
  })

  it('names a page that cannot be written', () => {
    const { stderr, status } = softmoe(['report', join(runs, 'a'), '--out', join(runs, 'missing', 'x.html')])
    expect(stderr).toMatch(
      /x.html cannot be written: its folder does not exist; create it first \(ERR_FILE_WRITE\)/,
    )
    expect(status).toBe(1)
  })

  it('shows where an error came from when SOFTMOE_DEBUG is set', () => {
    expect(softmoe(['report', '/nowhere']).stderr).not.toMatch(/\n {4}at /)
    expect(softmoe(['report', '/nowhere'], 'esm', { SOFTMOE_DEBUG: '1' }).stderr).toMatch(/\n {4}at /)
  })
})
