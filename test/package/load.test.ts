import { expect, test } from 'vitest'
import { native, nativeFile, version } from '../../lib/native.js'

test('the addon that is loaded was built from this version of the package', () => {
  expect(native.version).toBe(version)
  expect(nativeFile).toMatch(/softmoe.*\.node$/)
})
