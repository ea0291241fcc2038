'use strict'
// Prints the native sources of one group for binding.gyp, one path a line, as CMakeLists.txt globs them.
const fs = require('node:fs')
const path = require('node:path')

const groups = {
  host: ['native/core', 'native/ops', 'native/cpu', 'native/cuda', 'native/addon'],
  kernels: ['native/cpu/kernels'],
}
const root = path.join(__dirname, '..')
for (const folder of groups[process.argv[2]]) {
  const absolute = path.join(root, folder)
  if (!fs.existsSync(absolute)) continue
  for (const name of fs.readdirSync(absolute).sort()) {
    if (name.endsWith('.cc')) console.log(`${folder}/${name}`)
  }
}
