import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, relative, resolve, sep } from 'node:path'
import { expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
const require = createRequire(import.meta.url)

function read(name: string): string {
  return readFileSync(join(root, name), 'utf8')
}

function filesNamedBy(value: unknown): string[] {
  if (typeof value === 'string') return [value]
  return Object.values(value as object).flatMap(filesNamedBy)
}

const manifest = JSON.parse(read('package.json')) as {
  version: string
  main: string
  types: string
  exports: object
  bin?: object
  files: string[]
}

test('every file that package.json names is there after a build', () => {
  const { main, types, exports, bin = {}, files } = manifest
  const named = [main, types, ...filesNamedBy(exports), ...filesNamedBy(bin), ...files]
  expect(named.filter((name) => name !== 'prebuilds' && !existsSync(join(root, name)))).toEqual([])
})

test('import and require give the same names and the version of package.json', async () => {
  const name = 'softmoe'
  const imported = (await import(name)) as Record<string, unknown>
  const required = require(name) as Record<string, unknown>
  expect(Object.keys(imported).sort()).toEqual(Object.keys(required).sort())
  expect([imported.version, required.version]).toEqual([manifest.version, manifest.version])
})

test('the packed scripts that the install script and binding.gyp run are in the list of files', () => {
  const used = [...read('binding.gyp').matchAll(/scripts\/[\w-]+\.cjs/g)].map(([name]) => name)
  expect(manifest.files).toEqual(expect.arrayContaining(['scripts/install.cjs', ...used]))
})

test('no file names the host of a package registry', () => {
  const made = ['.git', 'node_modules', 'build', 'dist', 'prebuilds', 'coverage', 'runs']
  const sources = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter((name) => !made.includes(name.split(sep)[0] ?? ''))
  expect(sources).toContain('package-lock.json')
  const host = /\b(registry|registry-\w+)\.[\w-]+\.(org|com|net|io|dev)\b/
  const naming = sources.filter((name) => host.test(read(name)))
  expect(naming).toEqual([])
  expect(read('package-lock.json')).not.toContain('"resolved"')
})

test('binding.gyp and CMake build the same instruction sets', () => {
  const cmake = read('cmake/InstructionSets.cmake')
  const gyp = new Set(
    [...read('binding.gyp').matchAll(/"target_name": "kernels_(\w+)"/g)].map((match) => match[1]),
  )
  const inCmake = [/"(\w+)=[\w,-]+"/g, /set\(SOFTMOE_ISAS (\w+)\)/g].flatMap((pattern) =>
    [...cmake.matchAll(pattern)].map((match) => match[1]),
  )
  expect(new Set(inCmake)).toEqual(gyp)
})
