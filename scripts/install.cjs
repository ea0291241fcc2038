'use strict'
// npm's install script: gets the native addon ready and says how.
//
//   SOFTMOE_BUILD=auto      a prebuilt file if one loads, else cmake, else gyp (default)
//                 prebuilt  only a prebuilt file
//                 cmake     build by CMake: CPU, and CUDA where nvcc is found
//                 gyp       build by node-gyp: CPU only; needs python, make and a C++ compiler
//                 skip      nothing
//
// `npm install --build-from-source` tries cmake, then gyp. An argument overrides the variable. The CMake build also
// reads SOFTMOE_CUDA, SOFTMOE_CUDA_ARCHS, SOFTMOE_CUDA_LINEINFO and SOFTMOE_WERROR. Nothing is ever downloaded.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const fromSource = process.env.npm_config_build_from_source
const mode = process.argv[2] ?? process.env.SOFTMOE_BUILD ?? (fromSource ? 'source' : 'auto')
const modes = ['auto', 'prebuilt', 'cmake', 'gyp', 'skip']

function log(message) {
  console.error(`softmoe: ${message}`)
}

/** Loads the addon in a child process: a file that crashes must not take the installer with it. */
function tryToLoad({ prebuiltOnly }) {
  const code = `
    try {
      const { version } = require('./package.json')
      const addon = require('node-gyp-build')(${JSON.stringify(root)})
      if (addon.version !== version) throw new Error('it is of version ' + addon.version + ', not ' + version)
    } catch (error) {
      console.error(error.message.split('\\n')[0])
      process.exit(1)
    }`
  const env = { ...process.env }
  delete env.PREBUILDS_ONLY
  if (prebuiltOnly) env.PREBUILDS_ONLY = '1'
  const child = spawnSync(process.execPath, ['-e', code], { cwd: root, env, encoding: 'utf8' })
  if (child.status === 0) return { loads: true, reason: '' }
  if (child.signal === 'SIGILL')
    return { loads: false, reason: 'this processor lacks an instruction set it needs' }
  if (child.signal) return { loads: false, reason: `it crashed (${child.signal})` }
  return { loads: false, reason: child.stderr.trim() || `exit status ${child.status}` }
}

function run(command, args, extraEnv) {
  log(`$ ${[command, ...args].map((word) => (path.isAbsolute(word) ? path.basename(word) : word)).join(' ')}`)
  const child = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...extraEnv },
  })
  return child.status === 0
}

function cmakeVersion() {
  const child = spawnSync('cmake', ['--version'], { encoding: 'utf8' })
  return child.status === 0 ? (/\d+\.\d+(\.\d+)?/.exec(child.stdout)?.[0] ?? 'unknown') : null
}

function resolveOrNull(request) {
  try {
    return require.resolve(request, { paths: [root] })
  } catch {
    return null
  }
}

/** Returns why it failed, or null. */
function buildByCmake() {
  const cmakeJs = resolveOrNull('cmake-js/bin/cmake-js')
  if (!cmakeJs) return 'CMake: the package cmake-js is not installed'
  const version = cmakeVersion()
  if (!version) return 'CMake: there is no cmake on PATH'
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism())
  if (!run(process.execPath, [cmakeJs, 'build'], { CMAKE_BUILD_PARALLEL_LEVEL: jobs })) {
    return `CMake: the build with cmake ${version} failed, see above`
  }
  const result = tryToLoad({ prebuiltOnly: false })
  if (!result.loads) return `CMake: the addon was built but does not load: ${result.reason}`
  const list = path.join(root, 'build', 'fatbins', 'fatbin_list.h')
  const kernelFiles = (fs.readFileSync(list, 'utf8').match(/\bX\(\w+, /g) ?? []).length
  log(
    kernelFiles > 0
      ? `built with CMake: CPU and CUDA (${kernelFiles} kernel files)`
      : 'built with CMake: CPU ONLY, this build cannot use a GPU (no nvcc, or SOFTMOE_CUDA=OFF)',
  )
  return null
}

/** Lays the headers of a dependency out as node-gyp wants them; those of Node.js it would download. */
function layOutHeaders(source, folder) {
  const target = path.join(folder, 'include', 'node')
  const settings = { target_defaults: { default_configuration: 'Release', configurations: { Release: {} } } }
  fs.cpSync(source, target, { recursive: true })
  fs.writeFileSync(path.join(target, 'common.gypi'), JSON.stringify(settings))
}

/** Returns why it failed, or null. */
function buildByNodeGyp(reasonsSoFar) {
  const fromNpm = process.env.npm_config_node_gyp
  const nodeGyp = fromNpm && fs.existsSync(fromNpm) ? fromNpm : resolveOrNull('node-gyp/bin/node-gyp.js')
  if (!nodeGyp) return 'node-gyp: not found (npm and pnpm bring one; run this through them)'
  const headers = resolveOrNull('node-api-headers')
  if (!headers) return 'node-gyp: the package node-api-headers is not installed'
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'softmoe-headers-'))
  try {
    layOutHeaders(require(headers).include_dir, folder)
    const args = [nodeGyp, 'rebuild', '--force-process-config', `--nodedir=${folder}`]
    if (!run(process.execPath, args, { JOBS: process.env.JOBS ?? 'max' })) {
      return 'node-gyp: the build failed, see above'
    }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
  const result = tryToLoad({ prebuiltOnly: false })
  if (!result.loads) return `node-gyp: the addon was built but does not load: ${result.reason}`
  const because = reasonsSoFar.length > 0 ? ` (${reasonsSoFar.join('; ')})` : ''
  log(`built with node-gyp: CPU ONLY, this build cannot use a GPU${because}`)
  return null
}

function newestFileUnder(entry) {
  const stat = fs.statSync(entry)
  if (!stat.isDirectory()) return stat.mtimeMs
  return Math.max(
    stat.mtimeMs,
    ...fs.readdirSync(entry).map((name) => newestFileUnder(path.join(entry, name))),
  )
}

/** In a checkout the sources change without the version: there a prebuilt file must be newer than they are. */
function isStale(prebuilds) {
  if (!fs.existsSync(path.join(root, '.git'))) return false
  if (fs.existsSync(path.join(root, 'build', 'Release', 'softmoe.node'))) return true
  const sources = ['native', 'cmake', 'CMakeLists.txt'].map((name) => path.join(root, name))
  return Math.max(...sources.map(newestFileUnder)) > newestFileUnder(prebuilds)
}

function usePrebuilt() {
  const prebuilds = path.join(root, 'prebuilds')
  if (!fs.existsSync(prebuilds)) return 'prebuilt: this copy of the package has none'
  if (mode !== 'prebuilt' && isStale(prebuilds)) return 'prebuilt: it may be older than this checkout'
  const result = tryToLoad({ prebuiltOnly: true })
  if (!result.loads) return `prebuilt: none works here: ${result.reason}`
  log('using the prebuilt addon, nothing to build')
  return null
}

function main() {
  if (mode === 'skip') {
    log('SOFTMOE_BUILD=skip, the native addon is left as it is')
    return 0
  }
  const steps = {
    auto: [usePrebuilt, buildByCmake, buildByNodeGyp],
    source: [buildByCmake, buildByNodeGyp],
    prebuilt: [usePrebuilt],
    cmake: [buildByCmake],
    gyp: [buildByNodeGyp],
  }[mode]
  if (!steps) {
    log(`SOFTMOE_BUILD=${mode} is not known; it is one of ${modes.join(', ')}`)
    return 1
  }
  const reasons = []
  for (const step of steps) {
    const reason = step(reasons)
    if (reason === null) return 0
    reasons.push(reason)
  }
  log(
    `the native addon is not ready:\n  - ${reasons.join('\n  - ')}\n` +
      'Install a C++17 compiler (GCC 12, Clang 14 or newer) and CMake 3.20 or newer, for the GPU backend also the CUDA\n' +
      'toolkit 12.8 or newer, then run: npm rebuild softmoe --foreground-scripts',
  )
  return 1
}

process.exit(main())
