'use strict'
// The worker's file, beside this one: JavaScript in the builds, TypeScript in the sources. CommonJS in both builds,
// because only there `__dirname` exists.
const fs = require('node:fs')
const path = require('node:path')

const built = path.join(__dirname, 'batch-worker.js')
module.exports = fs.existsSync(built) ? built : path.join(__dirname, 'batch-worker.ts')
