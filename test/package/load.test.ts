import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SoftMoEError } from '../../lib/core/errors.js'
import { describeLoadFailure, type Machine } from '../../lib/native-diagnosis.js'
import { loadAddon } from '../../lib/native-loader.js'
import { native, nativeFile, version } from '../../lib/native.js'

test('the addon that is loaded was built from this version of the package', () => {
  expect(native.version).toBe(version)
  expect(['cmake', 'node-gyp']).toContain(native.builtBy)
  expect(nativeFile).toMatch(/softmoe.*\.node$/)
})

describe('an addon that cannot be used', () => {
  let root: string

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'softmoe-load-'))
    writeFileSync(join(root, 'package.json'), JSON.stringify({ name: 'softmoe', version }))
  })

  afterEach(() => {
    rmSync(root, { recursive: true })
  })

  function errorOf(folder: string | null): SoftMoEError {
    try {
      loadAddon(folder)
    } catch (error) {
      if (SoftMoEError.is(error)) return error
      throw error
    }
    throw new Error('the addon was loaded')
  }

  function addonFile(name: string): string {
    const file = join(root, name)
    mkdirSync(dirname(file), { recursive: true })
    return file
  }

  test('is missing: the error lists every folder that was searched', () => {
    const error = errorOf(root)
    expect(error.code).toBe('ERR_NATIVE_LOAD')
    expect(error.message).toContain('no native addon fits this machine')
    expect(error.message).toContain(`${join(root, 'build/Release')}: no such folder`)
    expect(error.message).toContain(join(root, `prebuilds/${process.platform}-${process.arch}`))
    expect(error.message).toContain(`node "${join(root, 'scripts/install.cjs')}"`)
  })

  test('is damaged: the error names the file and the reason of the system', () => {
    const file = addonFile('build/Release/softmoe.node')
    writeFileSync(file, 'not a shared library')
    const error = errorOf(root)
    expect(error.code).toBe('ERR_NATIVE_LOAD')
    expect(error.message).toContain('the native addon does not load')
    expect(error.message).toContain(file)
    expect(error.cause).toBeInstanceOf(Error)
  })

  test('is of another version: the error names both', () => {
    copyFileSync(nativeFile, addonFile('build/Release/softmoe.node'))
    writeFileSync(join(root, 'package.json'), JSON.stringify({ name: 'softmoe', version: '99.0.0' }))
    const error = errorOf(root)
    expect(error.code).toBe('ERR_NATIVE_LOAD')
    expect(error.message).toContain(
      `the native addon is of version ${version}, the JavaScript of version 99.0.0`,
    )
  })

  test('was left behind by a bundler: the error says to keep the package external', () => {
    expect(errorOf(null)).toMatchObject({
      code: 'ERR_NATIVE_LOAD',
      message: expect.stringContaining('Mark it as external') as string,
    })
  })
})

describe('possible solutions', () => {
  const debian: Machine = {
    platform: 'linux',
    arch: 'x64',
    libc: 'glibc 2.36',
    distribution: ['debian'],
    nodeVersion: 'v20.20.2',
    packageManager: null,
    hasCompiler: true,
    hasCmake: true,
    hasMakeAndPython: true,
  }
  const failure = {
    root: '/app/node_modules/softmoe',
    version: '1.2.3',
    problem: 'it is missing',
    tried: ['here: nothing'],
  }

  test('the text holds the machine, what was tried and numbered solutions', () => {
    expect(describeLoadFailure(failure, { ...debian, packageManager: 'npm/11.19.1' })).toBe(
      [
        'softmoe 1.2.3: it is missing (linux-x64, glibc 2.36, Node.js v20.20.2).',
        'Tried:',
        '  - here: nothing',
        'Possible solutions:',
        '  1. Build it: node "/app/node_modules/softmoe/scripts/install.cjs"',
        '  2. Or through the package manager: npm rebuild softmoe --foreground-scripts',
      ].join('\n'),
    )
  })

  test.each([
    ['npm/12.2.0', 'npm install-scripts approve softmoe && npm rebuild softmoe'],
    ['pnpm/10.1.0', 'pnpm approve-builds'],
    ['bun/1.3.0', 'bun pm trust softmoe'],
    ['yarn/4.9.0', 'dependenciesMeta.softmoe.built'],
  ])('%s is told how to allow the build', (packageManager, advice) => {
    expect(describeLoadFailure(failure, { ...debian, packageManager })).toContain(advice)
  })

  test('an unknown package manager is told of the approval that npm 12 asks for', () => {
    expect(describeLoadFailure(failure, debian)).toContain(
      'npm 12 and newer run no install script without approval',
    )
  })

  test.each([
    [['debian'], 'apt-get install -y g++ make cmake python3'],
    [['ubuntu', 'debian'], 'apt-get install -y'],
    [['alpine'], 'apk add g++ make cmake python3 linux-headers'],
    [['rocky', 'rhel', 'centos', 'fedora'], 'dnf install -y gcc-c++'],
    [['nixos'], 'with the package manager of this system'],
  ])('without a compiler, %j is told what to install', (distribution, advice) => {
    expect(describeLoadFailure(failure, { ...debian, distribution, hasCompiler: false })).toContain(advice)
  })

  test('without cmake the GPU backend is said to be out of reach', () => {
    expect(describeLoadFailure(failure, { ...debian, hasCmake: false })).toContain(
      'Without CMake only the CPU backend can be built',
    )
  })

  test('macOS is told of the command line tools', () => {
    const mac: Machine = {
      ...debian,
      platform: 'darwin',
      arch: 'arm64',
      libc: null,
      distribution: [],
      hasCompiler: false,
    }
    const text = describeLoadFailure(failure, mac)
    expect(text).toContain('(darwin-arm64, Node.js')
    expect(text).toContain('xcode-select --install')
  })

  test('musl is told that nothing prebuilt fits', () => {
    expect(describeLoadFailure(failure, { ...debian, libc: 'musl', distribution: ['alpine'] })).toContain(
      'no prebuilt addon for musl',
    )
  })

  test('an old C library is named as the reason', () => {
    const tried = ["softmoe.glibc.node: /lib/libc.so.6: version `GLIBC_2.35' not found"]
    const text = describeLoadFailure({ ...failure, tried }, { ...debian, libc: 'glibc 2.31' })
    expect(text).toContain('needs a newer C library than this system has (glibc 2.31)')
  })

  test('Windows and unknown processors are told that they are not supported, and nothing else', () => {
    const windows = describeLoadFailure(failure, { ...debian, platform: 'win32', libc: null })
    expect(windows).toContain('WSL 2')
    expect(windows).not.toContain('2. ')
    const riscv = describeLoadFailure(failure, { ...debian, arch: 'riscv64' })
    expect(riscv).toContain('There are no kernels for linux-riscv64')
    expect(riscv).not.toContain('2. ')
  })
})
