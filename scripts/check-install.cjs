'use strict'
// Packs this package (built before by `npm run build`), installs it as a dependent would, in temporary folders, and
// loads it as ESM and as CommonJS: from its prebuilt addon with no install script run, and built by node-gyp from the
// packed sources. Install scripts run without a network, where Linux lets us take it away, and without the headers that
// other builds left at home. Ends with `N passed, N failed`.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { checkSystemSymbols } = require('./system-symbols.cjs')

const root = path.join(__dirname, '..')
const { version } = require('../package.json')
const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'softmoe-install-'))
const counts = { passed: 0, failed: 0 }

function check(statement, action) {
  const start = Date.now()
  try {
    action()
    counts.passed += 1
    console.log(`ok      ${statement} (${((Date.now() - start) / 1000).toFixed(1)} s)`)
  } catch (error) {
    counts.failed += 1
    console.log(`FAILED  ${statement}\n${error.message}`)
  }
}

function run(command, args, { cwd, env = {} }) {
  // A dependent's npm must not inherit what npm told this script about this package.
  const inherited = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(?!config_cache$)/.test(name)),
  )
  const child = spawnSync(command, args, {
    cwd,
    env: { ...inherited, ...env },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  if (child.status === 0) return child.stdout
  throw new Error(`$ ${command} ${args.join(' ')}\n${child.stdout}\n${child.stderr}`)
}

/** The command line in front of another that has no network then; empty where none can be had. */
function findOffline() {
  // Even its own address is out of reach for a process without a network.
  const probe = `require('node:net').connect(9, '127.0.0.1').on('error', ({ code }) =>
    process.exit(code === 'ENETUNREACH' ? 0 : 1))`
  for (const words of [
    ['unshare', '--net'],
    ['unshare', '--map-root-user', '--net'],
  ]) {
    const child = spawnSync(words[0], [...words.slice(1), process.execPath, '-e', probe], { timeout: 30_000 })
    if (child.status === 0) return words
  }
  console.log('skipped: taking the network away from install scripts needs `unshare --net`; they run with it')
  return []
}
const offline = findOffline()

/** Runs a command without a network, from an empty home. */
function runOffline(command, args, { cwd, env = {} }) {
  const home = path.join(temporary, 'home')
  fs.mkdirSync(home, { recursive: true })
  const [first, ...rest] = [...offline, command, ...args]
  return run(first, rest, { cwd, env: { ...env, HOME: home } })
}

function pack(name, { withPrebuilt }) {
  const folder = path.join(temporary, name)
  fs.mkdirSync(folder)
  // The packed folder is a copy, so that leaving out the prebuilt addon does not touch the checkout.
  const copy = path.join(folder, 'package')
  const { files } = require('../package.json')
  for (const file of [...files, 'package.json', 'README.md', 'LICENSE']) {
    if (file === 'prebuilds' && !withPrebuilt) continue
    fs.cpSync(path.join(root, file), path.join(copy, file), { recursive: true })
  }
  run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: copy })
  return path.join(folder, `softmoe-${version}.tgz`)
}

function installed(name, tarball) {
  const folder = path.join(temporary, name)
  fs.mkdirSync(folder)
  fs.writeFileSync(path.join(folder, 'package.json'), '{ "name": "dependent", "private": true }')
  run('npm', ['install', '--prefer-offline', '--ignore-scripts', tarball], { cwd: folder })
  return folder
}

function loadBothWays(folder) {
  const esm = "import * as softmoe from 'softmoe'; console.log(softmoe.version)"
  const cjs = "console.log(require('softmoe').version)"
  for (const [type, code] of [
    ['module', esm],
    ['commonjs', cjs],
  ]) {
    const printed = run(process.execPath, [`--input-type=${type}`, '-e', code], { cwd: folder }).trim()
    if (printed !== version) throw new Error(`${type}: printed ${printed} instead of ${version}`)
  }
}

function builtBy(folder) {
  const code = "console.log(require('node-gyp-build')('node_modules/softmoe').builtBy)"
  return run(process.execPath, ['-e', code], { cwd: folder }).trim()
}

function expectEqual(actual, wanted) {
  if (actual !== wanted) throw new Error(`got ${actual}, wanted ${wanted}`)
}

try {
  check('the addon asks for nothing of its system that the README does not name', () => {
    expectEqual(checkSystemSymbols(path.join(root, 'build', 'Release', 'softmoe.node')), null)
  })

  let prebuilt
  check('the packed package loads from its prebuilt addon where no install script runs', () => {
    prebuilt = installed('prebuilt', pack('packed', { withPrebuilt: true }))
    loadBothWays(prebuilt)
    expectEqual(builtBy(prebuilt), 'cmake')
  })

  check('the install script of the packed package takes the prebuilt addon and builds nothing', () => {
    runOffline('npm', ['rebuild', 'softmoe', '--foreground-scripts'], { cwd: prebuilt })
    expectEqual(fs.existsSync(path.join(prebuilt, 'node_modules', 'softmoe', 'build')), false)
  })

  let fromSource
  check('the packed sources build by node-gyp and load, and nothing is downloaded', () => {
    fromSource = installed('from-source', pack('sources', { withPrebuilt: false }))
    // Whether the sources build and load does not depend on how fast they run: -O0 halves the time of this check.
    const env = { SOFTMOE_BUILD: 'gyp', CXXFLAGS: '-O0' }
    runOffline('npm', ['rebuild', 'softmoe', '--foreground-scripts'], { cwd: fromSource, env })
    loadBothWays(fromSource)
    expectEqual(builtBy(fromSource), 'node-gyp')
  })

  check('cmake-js configures the packed sources, and nothing is downloaded', () => {
    const folder = path.join(fromSource, 'node_modules', 'softmoe')
    const cmakeJs = require.resolve('cmake-js/bin/cmake-js', { paths: [folder] })
    const args = ['configure', '--out', path.join(temporary, 'configured')]
    runOffline(process.execPath, [cmakeJs, ...args], { cwd: folder })
  })

  check('the packed package without an addon explains what to do', () => {
    const script = "import('softmoe').catch((error) => console.log(error.code, error.message))"
    fs.rmSync(path.join(fromSource, 'node_modules', 'softmoe', 'build'), { recursive: true })
    const printed = run(process.execPath, ['-e', script], { cwd: fromSource })
    for (const wanted of ['ERR_NATIVE_LOAD', 'Tried:', 'Possible solutions:']) {
      if (!printed.includes(wanted)) throw new Error(`no "${wanted}" in:\n${printed}`)
    }
  })
} finally {
  fs.rmSync(temporary, { recursive: true, force: true })
}
console.log(`${counts.passed} passed, ${counts.failed} failed`)
process.exitCode = counts.failed > 0 ? 1 : 0
