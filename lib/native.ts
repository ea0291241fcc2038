import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import nodeGypBuild from 'node-gyp-build'
import packageRoot from './package-root.cjs'

/** What the native addon exports. */
export interface NativeAddon {
  /** The package version that the addon was built from. */
  readonly version: string
  /** `cmake` (CPU, and CUDA where nvcc was found) or `node-gyp` (CPU only). */
  readonly builtBy: string
}

const packageJson = join(packageRoot, 'package.json')

function loadNative(): { readonly native: NativeAddon; readonly file: string } {
  const file = nodeGypBuild.resolve(packageRoot)
  const native = createRequire(packageJson)(file) as NativeAddon
  return { native, file }
}

const loaded = loadNative()

/** The loaded addon. */
export const native: NativeAddon = loaded.native

/** The file it was loaded from. */
export const nativeFile: string = loaded.file

/** The version of this package. */
export const version: string = (JSON.parse(readFileSync(packageJson, 'utf8')) as { version: string }).version
