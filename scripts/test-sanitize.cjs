'use strict'
// Builds the addon and the tests of the native code with sanitizers and runs them: AddressSanitizer with
// UndefinedBehaviorSanitizer, then ThreadSanitizer. The whole native suite runs under both, then a share of the
// TypeScript tests on the CPU device with the sanitizer preloaded into node: operations with a few of their random
// cases, lifetimes with work in flight, worker threads that are terminated, processes that exit. Any report is a
// failure; test/sanitizers/*.supp name what is excepted, and why.
//
//   --quick            one instruction set, the native suite under each sanitizer, lifetimes under AddressSanitizer
//   --only=address     one sanitizer
//   SOFTMOE_ONLY_ISAS  instruction sets to build; default sse4 and avx2
//
// Ends with `N passed, N failed`; a step without a count of its own counts as one.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const quick = process.argv.includes('--quick')
const only = process.argv.find((word) => word.startsWith('--only='))?.slice('--only='.length)
const instructionSets = process.env.SOFTMOE_ONLY_ISAS ?? (quick ? 'sse4' : 'sse4,avx2')
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism())
const suppressions = path.join(root, 'test', 'sanitizers')

const LIFETIMES = ['test/core/lifetime.test.ts']
const PROCESSES = ['test/core/processes.test.ts']
const INPUTS = ['test/core/bad-operands.test.ts', 'test/core/bad-input.test.ts']
const OPERATIONS = ['test/conformance/']

// Tests that take the memory away expect a null pointer, not a report.
const AS_THE_C_LIBRARY = ':allocator_may_return_null=1'

const SANITIZERS = {
  address: {
    library: 'libasan.so',
    tests: quick ? LIFETIMES : [...LIFETIMES, ...PROCESSES, ...INPUTS, ...OPERATIONS],
    options: (reports, underNode) => ({
      // V8 never gives its memory back at the end. The native tests have no such excuse.
      ASAN_OPTIONS:
        `log_path=${reports}:detect_leaks=${underNode ? 0 : 1}:halt_on_error=1:abort_on_error=0` +
        AS_THE_C_LIBRARY,
      UBSAN_OPTIONS: `log_path=${reports}:print_stacktrace=1:halt_on_error=1`,
    }),
  },
  thread: {
    library: 'libtsan.so',
    tests: quick ? [] : [...LIFETIMES, ...PROCESSES, 'test/conformance/determinism.test.ts'],
    options: (reports, underNode) => ({
      TSAN_OPTIONS:
        `log_path=${reports}:halt_on_error=0:exitcode=66:second_deadlock_stack=1${AS_THE_C_LIBRARY}` +
        // Node itself is not built with the sanitizer, so its own synchronisation is unseen.
        (underNode
          ? `:ignore_noninstrumented_modules=1:suppressions=${path.join(suppressions, 'thread.supp')}`
          : ''),
    }),
  },
}

let passed = 0
let failed = 0

function check(what, holds) {
  if (holds) passed += 1
  else failed += 1
  if (!holds) console.error(`FAILED: ${what}`)
  return holds
}

function run(command, args, env = {}) {
  const child = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28,
    env: { ...process.env, ...env },
  })
  return { status: child.status, output: child.stdout ?? '' }
}

/** Runs a suite whose last line is `N passed, N failed`; every file of reports is a failure of its own. */
function runSuite(what, sanitizer, underNode, command, args, env = {}) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'softmoe-sanitize-'))
  const reports = path.join(folder, 'report')
  // ThreadSanitizer knows a few layouts of the address space, none of them random.
  const { status, output } = run('setarch', ['-R', command, ...args], {
    ...sanitizer.options(reports, underNode),
    ...env,
  })
  const line = output.trimEnd().split('\n').at(-1) ?? ''
  const counts = /^(\d+) passed, (\d+) failed$/.exec(line)
  if (counts) {
    passed += Number(counts[1])
    failed += Number(counts[2])
  }
  if (!counts || counts[2] !== '0') console.error(output.slice(-6000))
  check(`${what}: exit status ${status}, last line '${line}'`, counts !== null && status === 0)
  const files = fs.readdirSync(folder)
  for (const file of files) console.error(fs.readFileSync(path.join(folder, file), 'utf8').slice(0, 6000))
  check(`${what}: ${files.length} reports`, files.length === 0)
  console.log(`${what}: ${line}, ${files.length} reports`)
  fs.rmSync(folder, { recursive: true })
}

function compilerFile(name) {
  const file = run(process.env.CXX ?? 'c++', [`-print-file-name=${name}`]).output.trim()
  return fs.realpathSync(file)
}

function testUnder(name) {
  const sanitizer = SANITIZERS[name]
  // node-gyp-build looks for build/Release in the folder that SOFTMOE_PREBUILD names.
  const folder = path.join(root, 'build', `sanitize-${name}`)
  const build = path.join(folder, 'build')
  const configured = run('cmake', [
    ...['-S', root, '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DSOFTMOE_CUDA=OFF'],
    ...[`-DSOFTMOE_SANITIZE=${name}`, `-DSOFTMOE_ONLY_ISAS=${instructionSets}`],
  ])
  if (!check(`${name}: configure`, configured.status === 0)) return
  const targets = ['softmoe_native_tests', ...(sanitizer.tests.length > 0 ? ['softmoe'] : [])]
  const built = run('cmake', ['--build', build, '--parallel', jobs, '--target', ...targets])
  if (!check(`${name}: build`, built.status === 0)) {
    console.error(built.output.slice(-6000))
    return
  }
  runSuite(`${name}: native suite`, sanitizer, false, path.join(build, 'softmoe_native_tests'), [])
  if (sanitizer.tests.length === 0) return
  const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs')
  runSuite(
    `${name}: TypeScript tests`,
    sanitizer,
    true,
    process.execPath,
    [
      vitest,
      'run',
      '--project=softmoe',
      '--test-timeout=300000',
      '--no-file-parallelism',
      ...sanitizer.tests,
    ],
    {
      LD_PRELOAD: compilerFile(sanitizer.library),
      SOFTMOE_PREBUILD: folder,
      SOFTMOE_TEST_RUNS: '0.1',
    },
  )
}

if (process.platform !== 'linux') {
  console.log('skipped: the sanitizers are set up for Linux alone')
} else {
  for (const name of Object.keys(SANITIZERS)) if (only === undefined || only === name) testUnder(name)
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
