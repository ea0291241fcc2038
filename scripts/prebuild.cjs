'use strict'
// Copies build/Release/softmoe.node, stripped, to prebuilds/<platform>-<arch>/softmoe.<libc>.node, where the loader
// finds it. Warns of a build that asks for more of its system than the README promises.
// npm runs this also before `npm run build`, because of its name: a build leaves all that `npm pack` needs.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { checkSystemSymbols } = require('./system-symbols.cjs')

const root = path.join(__dirname, '..')
const built = path.join(root, 'build', 'Release', 'softmoe.node')

function libcTag() {
  if (process.platform !== 'linux') return ''
  return process.report.getReport().header.glibcVersionRuntime ? '.glibc' : '.musl'
}

function warn(message) {
  console.error(`softmoe: ${message}`)
}

function fail(message) {
  warn(message)
  process.exit(1)
}

if (!fs.existsSync(built)) fail('build/Release/softmoe.node does not exist; run `npm run build` first')
const { version } = require('../package.json')
const addon = require(built)
if (addon.version !== version)
  fail(`the addon is of version ${addon.version}, the package of ${version}; build it again`)

const folder = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)
const file = path.join(folder, `softmoe${libcTag()}.node`)
fs.mkdirSync(folder, { recursive: true })
fs.copyFileSync(built, file)
const stripArgs = process.platform === 'darwin' ? ['-x', file] : ['--strip-unneeded', file]
if (spawnSync('strip', stripArgs, { stdio: 'ignore' }).status !== 0)
  warn('`strip` does not run, the file keeps its symbols')
const problem = checkSystemSymbols(file)
if (problem) warn(`${problem}; do not publish this file`)
console.error(
  `softmoe: wrote ${path.relative(root, file)} (${(fs.statSync(file).size / 1024).toFixed(0)} KiB)`,
)
