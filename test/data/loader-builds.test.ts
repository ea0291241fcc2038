import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'
import { expect, it } from 'vitest'

const dist = resolve(import.meta.dirname, '../../dist')
const data = `{ images: new Uint8Array(64).map((_, at) => at), labels: new Int32Array(16), count: 16, height: 2, width: 2,
  channels: 1, classNames: ['a'], name: 'x' }`
const body = `
  let sum = 0
  for await (const batch of loadImages(${data}, { batchSize: 4, end: 8 })) sum += batch.indices.reduce((a, b) => a + b)
  console.log(sum)`

it.each([
  ['esm', '--input-type=module', `import { loadImages } from '${join(dist, 'esm/data/loader.js')}'\n${body}`],
  ['cjs', '--input-type=commonjs', `const { loadImages } = require('${join(dist, 'cjs/data/loader.js')}');(async () => {${body}})()`],
])("the loader's worker thread runs in the %s build", (_, type, script) => {
  const { stdout, stderr, status } = spawnSync(process.execPath, [type, '--eval', script], {
    encoding: 'utf8',
    timeout: 30_000,
  })
  expect(stderr).toBe('')
  expect(stdout).toBe(`${2 * 120}\n`)
  expect(status).toBe(0)
})
