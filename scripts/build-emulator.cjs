'use strict'
// Builds the emulated CUDA driver in build-emulator/ and prints the absolute path of its library as the last line:
//   SOFTMOE_CUDA_DRIVER=$(npm run --silent build:emulator | tail -n 1) npm test
// `--tests` builds its tests as well. Needs cmake and a C++ compiler; nvcc only for some of the tests.
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const root = path.join(__dirname, '..')
const folder = path.join(root, 'build-emulator')
const targets = process.argv.includes('--tests') ? ['cuda_emulated', 'emulator_tests'] : ['cuda_emulated']

function run(command, args) {
  // What the tools print goes to stderr, so that the path stands alone on stdout.
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] })
  if (result.error) console.error(`build-emulator: cannot run ${command}: ${result.error.message}`)
  if (result.status !== 0) process.exit(result.status ?? 1)
}

run('cmake', ['-S', 'test/emulator', '-B', folder, '-DCMAKE_BUILD_TYPE=Release'])
run('cmake', ['--build', folder, '--parallel', '2', '--target', ...targets])
console.log(path.join(folder, 'libcuda_emulated.so'))
