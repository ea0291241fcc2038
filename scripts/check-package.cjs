'use strict'
// Packs what npm would publish (dist/ must be built) and lets publint and attw judge it.
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.join(__dirname, '..')
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'softmoe-package-'))

function run(command, args, stdio) {
  const child = spawnSync(command, args, { cwd: root, stdio, encoding: 'utf8' })
  if (child.status !== 0) {
    console.error(`${[path.basename(command), ...args].join(' ')} failed`, child.stderr ?? '')
    process.exitCode = 1
  }
  return child.stdout
}

try {
  // The lifecycle scripts would only compile dist/ again.
  const [packed] = JSON.parse(
    run(
      'npm',
      ['pack', '--json', '--ignore-scripts', '--pack-destination', folder],
      ['ignore', 'pipe', 'inherit'],
    ),
  )
  const tarball = path.join(folder, packed.filename)
  console.log(`${packed.filename}: ${packed.entryCount} files, ${(packed.size / 1024).toFixed(0)} KiB`)
  run(path.join(root, 'node_modules', '.bin', 'publint'), ['run', '--strict', tarball], 'inherit')
  run(
    path.join(root, 'node_modules', '.bin', 'attw'),
    ['--no-emoji', '--format', 'ascii', tarball],
    'inherit',
  )
} finally {
  fs.rmSync(folder, { recursive: true })
}
