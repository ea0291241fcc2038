'use strict'
// Builds the benchmark of the CPU kernels in build-bench/ and runs it: [ISA [THREADS [WORDS ...]]].
const { spawnSync } = require('node:child_process')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const build = path.join(root, 'build-bench')

function run(command, args, stdio) {
  const child = spawnSync(command, args, { cwd: root, stdio })
  if (child.status !== 0) process.exit(child.status ?? 1)
}

const quiet = ['ignore', 'ignore', 'inherit']
run('cmake', ['-B', build, '-DSOFTMOE_CUDA=OFF'], quiet)
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism())
run('cmake', ['--build', build, '--target', 'softmoe_native_bench', '--parallel', jobs], quiet)
run(path.join(build, 'softmoe_native_bench'), process.argv.slice(2), 'inherit')
