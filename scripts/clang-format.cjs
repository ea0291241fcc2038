'use strict'
// Formats the C, C++ and CUDA files, or with --check only says which are not formatted. The version is pinned by the
// npm package, so that every machine agrees; where that package has no binary, the one on PATH is used.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
const check = process.argv.includes('--check')

function sourcesUnder(folder) {
  return fs.readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name)
    if (entry.isDirectory()) return ['build', 'node_modules'].includes(entry.name) ? [] : sourcesUnder(file)
    return /\.(c|cc|h|cu|cuh)$/.test(entry.name) ? [file] : []
  })
}

function pinnedBinary() {
  const folder = path.dirname(require.resolve('clang-format/package.json'))
  const file = path.join(folder, 'bin', `${process.platform}_${process.arch}`, 'clang-format')
  return fs.existsSync(file) ? file : 'clang-format'
}

const folders = ['native', 'test', 'bench']
  .map((name) => path.join(root, name))
  .filter((name) => fs.existsSync(name))
const files = folders.flatMap(sourcesUnder).map((file) => path.relative(root, file))
const args = check ? ['--dry-run', '-Werror'] : ['-i']
const child = spawnSync(pinnedBinary(), ['--style=file', ...args, ...files], { cwd: root, stdio: 'inherit' })
if (child.error) console.error(`clang-format does not run: ${child.error.message}`)
process.exit(child.status ?? 1)
