'use strict'
const { spawnSync } = require('node:child_process')
const path = require('node:path')
const root = path.join(__dirname, '..')
const result = spawnSync(process.execPath, [require.resolve('cmake-js/bin/cmake-js'), 'build'], {
  cwd: root,
  stdio: 'inherit',
})
process.exit(result.status ?? 1)
