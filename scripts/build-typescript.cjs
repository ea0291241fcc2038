'use strict'
// Compiles lib/ twice, to dist/esm and dist/cjs, with types. Runs as npm's `prepare`, so that a clone is usable after
// `npm ci`; where the development dependencies are absent there is nothing to compile with, and it says so.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

const root = path.join(__dirname, '..')
let compiler
try {
  compiler = require.resolve('typescript/bin/tsc', { paths: [root] })
} catch {
  console.error('softmoe: TypeScript is not installed (--omit=dev), dist/ is left as it is')
  process.exit(0)
}

fs.rmSync(path.join(root, 'dist'), { recursive: true, force: true })
// The first pass checks the types; the second has nothing new to find.
for (const args of [
  ['-p', 'tsconfig.esm.json'],
  ['-p', 'tsconfig.cjs.json', '--noCheck'],
]) {
  const result = spawnSync(process.execPath, [compiler, ...args], { cwd: root, stdio: 'inherit' })
  if (result.status !== 0) process.exit(result.status ?? 1)
}
// tsc leaves out what is written in JavaScript, and the types beside it.
const untranslated = fs
  .readdirSync(path.join(root, 'lib'), { recursive: true })
  .filter((name) => /\.cjs$|\.d\.cts$/.test(name))
for (const name of untranslated) {
  for (const format of ['esm', 'cjs']) {
    fs.copyFileSync(path.join(root, 'lib', name), path.join(root, 'dist', format, name))
  }
}
fs.writeFileSync(path.join(root, 'dist', 'cjs', 'package.json'), '{ "type": "commonjs" }\n')
// npm makes an installed command executable; in a clone nobody else does.
fs.chmodSync(path.join(root, 'dist', 'esm', 'cli', 'softmoe.js'), 0o755)
