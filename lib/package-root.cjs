'use strict'
// The folder of softmoe's package.json, or null (in a bundle). CommonJS in both builds, because only there
// `__dirname` exists.
const fs = require('node:fs')
const path = require('node:path')

function findPackageRoot(folder) {
  const file = path.join(folder, 'package.json')
  if (fs.existsSync(file) && JSON.parse(fs.readFileSync(file, 'utf8')).name === 'softmoe') return folder
  const parent = path.dirname(folder)
  return parent === folder ? null : findPackageRoot(parent)
}

module.exports = findPackageRoot(__dirname)
