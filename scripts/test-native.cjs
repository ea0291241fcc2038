'use strict'
// Builds the tests of the native code beside the addon and runs them; arguments are parts of test names.
// Ends with `N passed, N failed`.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const build = path.join(root, 'build')

function run(command, args) {
  const child = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (child.status !== 0) process.exit(child.status ?? 1)
}

if (!fs.existsSync(path.join(build, 'CMakeCache.txt'))) {
  run(process.execPath, [path.join(__dirname, 'install.cjs'), 'cmake'])
}
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism())
run('cmake', ['--build', build, '--target', 'softmoe_native_tests', '--parallel', jobs])
if (process.platform === 'linux' && process.arch === 'x64') {
  run('sh', [path.join(root, 'test', 'native', 'check-isa-objects.sh'), build])
}
run(path.join(build, 'softmoe_native_tests'), process.argv.slice(2))
