'use strict'
// Builds the emulated CUDA driver with its tests, runs every test program that CTest knows, and ends with their sum as
// `N passed, N failed`. A program without such a line of its own counts as one failure. An argument picks the
// programs whose name contains it.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')
const folder = path.join(root, 'build-emulator')
const filter = process.argv[2] ?? ''

const built = spawnSync(process.execPath, [path.join(__dirname, 'build-emulator.cjs'), '--tests'], {
  cwd: root,
  stdio: ['ignore', 'ignore', 'inherit'],
})
if (built.status !== 0) {
  console.log('the emulator does not build\n0 passed, 1 failed')
  process.exit(1)
}

const listed = spawnSync('ctest', ['--show-only=json-v1'], { cwd: folder, encoding: 'utf8' })
const tests = JSON.parse(listed.stdout).tests.filter(({ name }) => name.includes(filter))
let passed = 0
let failed = 0
for (const { name, command } of tests) {
  const start = Date.now()
  const result = spawnSync(command[0], command.slice(1), {
    cwd: folder,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 600_000,
  })
  const seconds = ((Date.now() - start) / 1000).toFixed(1)
  console.log(`--- ${name} (${seconds} s)\n${result.stdout.trimEnd()}`)
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(result.stdout)
  if (!counts) {
    console.log(`${name} ended with ${result.signal ?? result.status} and without counts`)
    failed += 1
    continue
  }
  passed += Number(counts[1])
  failed += Number(counts[2])
  if (result.status !== 0 && counts[2] === '0') failed += 1
}
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
