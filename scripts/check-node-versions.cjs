'use strict'
// Runs the suite with other versions of Node.js against the addon that is built already: one binary serves all, because
// it uses Node-API alone. The runtimes come from npm's packages node-<platform>-<architecture> into a temporary folder.
//
//   node scripts/check-node-versions.cjs [--versions=20,22,24] [files of tests …]
//
// Without files the whole suite runs, with a fifth of the random cases. A version that cannot be had is skipped and
// said so. Ends with `N passed, N failed`.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const words = process.argv.slice(2)
const versions = (words.find((word) => word.startsWith('--versions=')) ?? '--versions=20,22,24')
  .slice('--versions='.length)
  .split(',')
const files = words.filter((word) => !word.startsWith('--'))
const runtime = `node-${process.platform}-${process.arch}`
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'softmoe-node-'))

let passed = 0
let failed = 0
const skipped = []

/** The path of the executable, or why there is none. */
function obtain(version) {
  const place = path.join(folder, version)
  fs.mkdirSync(place)
  fs.writeFileSync(path.join(place, 'package.json'), '{"private":true}')
  const args = ['install', '--no-audit', '--no-fund', '--ignore-scripts', `${runtime}@${version}`]
  const child = spawnSync('npm', args, { cwd: place, encoding: 'utf8' })
  const executable = path.join(place, 'node_modules', runtime, 'bin', 'node')
  if (child.status === 0 && fs.existsSync(executable)) return { executable }
  return { reason: (child.stderr ?? '').trim().split('\n')[0] || `npm ended with ${child.status}` }
}

function test(version) {
  const { executable, reason } = obtain(version)
  if (!executable) {
    skipped.push(`Node.js ${version}: ${reason}`)
    return
  }
  const actual = spawnSync(executable, ['--version'], { encoding: 'utf8' }).stdout.trim()
  const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs')
  const child = spawnSync(executable, [vitest, 'run', '--project=softmoe', ...files], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28,
    env: {
      SOFTMOE_TEST_RUNS: '0.2',
      ...process.env,
      PATH: `${path.dirname(executable)}${path.delimiter}${process.env.PATH}`,
    },
  })
  const line = child.stdout.trimEnd().split('\n').at(-1)
  const counts = /^(\d+) passed, (\d+) failed$/.exec(line)
  console.log(`${actual}: ${counts ? line : 'the suite broke off'}`)
  passed += Number(counts?.[1] ?? 0)
  failed += Number(counts?.[2] ?? 1)
  if (child.status !== 0) {
    if (counts?.[2] === '0') failed += 1
    console.error(child.stdout.slice(-8000))
  }
}

try {
  for (const version of versions) test(version)
} finally {
  fs.rmSync(folder, { recursive: true, force: true })
}
for (const line of skipped) console.log(`skipped: ${line}`)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
