import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'

const repository = resolve(import.meta.dirname, '../..')

/** Runs vitest on test files of its own and returns the lines that it printed. */
function linesOfRun(files: Readonly<Record<string, string>>): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'softmoe-closing-'))
  try {
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
    const vitest = join(repository, 'node_modules/vitest/vitest.mjs')
    const reporter = join(repository, 'test/closing-line.ts')
    const args = [vitest, 'run', '--globals', '--root', folder]
    const child = spawnSync(process.execPath, [...args, '--reporter=default', `--reporter=${reporter}`], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH },
    })
    return child.stdout.trimEnd().split('\n')
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('the last line counts tests, files that cannot be run, and errors outside of tests', () => {
  const lines = linesOfRun({
    'a.test.js':
      "test('holds', () => {}); test('fails', () => { throw new Error('no') }); test.skip('waits', () => {})",
    'b.test.js': "throw new Error('this file cannot be run')",
    'c.test.js': "test('holds', () => { void Promise.reject(new Error('unheard')) })",
  })
  expect(lines.slice(-2)).toEqual(['1 skipped', '2 passed, 3 failed'])
})
