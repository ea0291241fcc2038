// The install script in a temporary package whose build tools are stubs: they leave a copy of the real addon, or fail.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { nativeFile, version } from '../../lib/native.js'

const repository = resolve(import.meta.dirname, '../..')
const prebuiltFolder = `prebuilds/${process.platform}-${process.arch}`

let root: string

function write(name: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(join(root, name)), { recursive: true })
  writeFileSync(join(root, name), text, { mode })
}

function addPrebuilt(): void {
  mkdirSync(join(root, prebuiltFolder), { recursive: true })
  copyFileSync(nativeFile, join(root, prebuiltFolder, 'softmoe.node'))
}

/** A build tool that leaves a working addon, or exits with 1. */
function toolThat(outcome: 'builds' | 'fails'): string {
  if (outcome === 'fails') return 'process.exit(1)'
  return `
    const fs = require('node:fs')
    fs.mkdirSync('build/Release', { recursive: true })
    fs.mkdirSync('build/fatbins', { recursive: true })
    fs.copyFileSync(${JSON.stringify(nativeFile)}, 'build/Release/softmoe.node')
    fs.writeFileSync('build/fatbins/fatbin_list.h', '#define SOFTMOE_FATBIN_LIST(X)')`
}

function addCmake(outcome: 'builds' | 'fails'): void {
  write('node_modules/cmake-js/bin/cmake-js', toolThat(outcome))
  write('bin/cmake', '#!/bin/sh\necho cmake version 3.25.1\n', 0o755)
}

function addNodeGyp(outcome: 'builds' | 'fails'): void {
  write('node_modules/node-gyp/bin/node-gyp.js', toolThat(outcome))
}

function install(environment: Record<string, string> = {}): { status: number | null; log: string } {
  const child = spawnSync(process.execPath, [join(root, 'scripts/install.cjs')], {
    cwd: root,
    encoding: 'utf8',
    env: { PATH: join(root, 'bin'), ...environment },
  })
  return { status: child.status, log: child.stderr }
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'softmoe-install-'))
  write('package.json', JSON.stringify({ name: 'softmoe', version }))
  write('CMakeLists.txt', '')
  write('native/core/shape.cc', '')
  write('cmake/CudaKernels.cmake', '')
  mkdirSync(join(root, 'scripts'))
  copyFileSync(join(repository, 'scripts/install.cjs'), join(root, 'scripts/install.cjs'))
  mkdirSync(join(root, 'node_modules'))
  for (const name of ['node-gyp-build', 'node-api-headers']) {
    symlinkSync(join(repository, 'node_modules', name), join(root, 'node_modules', name))
  }
})

afterEach(() => {
  rmSync(root, { recursive: true })
})

describe('SOFTMOE_BUILD=auto', () => {
  test('takes a prebuilt addon that loads and builds nothing', () => {
    addPrebuilt()
    addCmake('fails')
    const { status, log } = install()
    expect(log).toContain('using the prebuilt addon, nothing to build')
    expect(log).not.toContain('cmake-js')
    expect(status).toBe(0)
  })

  test('builds with CMake where no prebuilt addon is shipped, and says that the result is CPU only', () => {
    addCmake('builds')
    addNodeGyp('fails')
    const { status, log } = install()
    expect(log).toContain('built with CMake: CPU ONLY')
    expect(status).toBe(0)
  })

  test('builds where the prebuilt addon is damaged', () => {
    write(`${prebuiltFolder}/softmoe.node`, 'not a shared library')
    addCmake('builds')
    const { status, log } = install()
    expect(log).toContain('built with CMake')
    expect(status).toBe(0)
  })

  test('falls back to node-gyp without cmake and says why', () => {
    addNodeGyp('builds')
    write('node_modules/cmake-js/bin/cmake-js', toolThat('builds'))
    const { status, log } = install()
    expect(log).toContain('built with node-gyp: CPU ONLY')
    expect(log).toContain('there is no cmake on PATH')
    expect(status).toBe(0)
  })

  test('falls back to node-gyp where the CMake build fails', () => {
    addCmake('fails')
    addNodeGyp('builds')
    const { status, log } = install()
    expect(log).toContain('built with node-gyp: CPU ONLY')
    expect(log).toContain('the build with cmake 3.25.1 failed')
    expect(status).toBe(0)
  })

  test('fails with every reason and what to install where nothing works', () => {
    addCmake('fails')
    addNodeGyp('fails')
    const { status, log } = install()
    expect(log).toContain('prebuilt: this copy of the package has none')
    expect(log).toContain('CMake: the build with cmake 3.25.1 failed')
    expect(log).toContain('node-gyp: the build failed')
    expect(log).toContain('npm rebuild softmoe --foreground-scripts')
    expect(status).toBe(1)
  })

  test('builds in a checkout whose sources are newer than the prebuilt addon', () => {
    addPrebuilt()
    addCmake('builds')
    mkdirSync(join(root, '.git'))
    const later = new Date(Date.now() + 60_000)
    utimesSync(join(root, 'native/core/shape.cc'), later, later)
    const { status, log } = install()
    expect(log).toContain('built with CMake')
    expect(status).toBe(0)
  })

  test('takes the prebuilt addon of a checkout while it is newer than the sources', () => {
    mkdirSync(join(root, '.git'))
    addCmake('fails')
    addPrebuilt()
    const later = new Date(Date.now() + 60_000)
    utimesSync(join(root, prebuiltFolder, 'softmoe.node'), later, later)
    expect(install()).toMatchObject({
      status: 0,
      log: expect.stringContaining('using the prebuilt addon') as string,
    })
  })
})

describe('the other modes', () => {
  test('skip leaves everything alone', () => {
    const { status, log } = install({ SOFTMOE_BUILD: 'skip' })
    expect(log).toContain('SOFTMOE_BUILD=skip')
    expect(status).toBe(0)
  })

  test('prebuilt refuses an addon of another version', () => {
    addPrebuilt()
    write('package.json', JSON.stringify({ name: 'softmoe', version: '99.0.0' }))
    const { status, log } = install({ SOFTMOE_BUILD: 'prebuilt' })
    expect(log).toContain(`it is of version ${version}, not 99.0.0`)
    expect(status).toBe(1)
  })

  test('prebuilt never builds', () => {
    addCmake('builds')
    const { status, log } = install({ SOFTMOE_BUILD: 'prebuilt' })
    expect(log).toContain('prebuilt: this copy of the package has none')
    expect(log).not.toContain('built with')
    expect(status).toBe(1)
  })

  test('cmake ignores a prebuilt addon and does not fall back', () => {
    addPrebuilt()
    addCmake('fails')
    addNodeGyp('builds')
    const { status, log } = install({ SOFTMOE_BUILD: 'cmake' })
    expect(log).not.toContain('built with node-gyp')
    expect(status).toBe(1)
  })

  test('gyp does not try CMake', () => {
    addCmake('builds')
    addNodeGyp('builds')
    const { status, log } = install({ SOFTMOE_BUILD: 'gyp' })
    expect(log).toContain('built with node-gyp')
    expect(log).not.toContain('cmake-js')
    expect(status).toBe(0)
  })

  test('npm install --build-from-source ignores a prebuilt addon', () => {
    addPrebuilt()
    addCmake('builds')
    expect(install({ npm_config_build_from_source: 'true' }).log).toContain('built with CMake')
  })

  test('a mistyped mode is refused with the list of modes', () => {
    const { status, log } = install({ SOFTMOE_BUILD: 'cuda' })
    expect(log).toContain('SOFTMOE_BUILD=cuda is not known; it is one of auto, prebuilt, cmake, gyp, skip')
    expect(status).toBe(1)
  })
})
