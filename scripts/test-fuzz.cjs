'use strict'
// The fuzz tests at length: 100,000 calls of the public API and 4,000 damaged files of each format, from a seed that
// SOFTMOE_TEST_SEED replaces. Ends with `N passed, N failed`.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')
const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs')
const child = spawnSync(
  process.execPath,
  [vitest, 'run', '--project=softmoe', 'test/fuzz', ...process.argv.slice(2)],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      SOFTMOE_FUZZ_CALLS: '100000',
      SOFTMOE_FUZZ_FILES: '4000',
      ...process.env,
    },
  },
)
process.exitCode = child.status ?? 1
