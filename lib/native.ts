import { loadAddon } from './native-loader.js'
import packageRoot from './package-root.cjs'

/** What the native addon exports. */
export interface NativeAddon {
  /** The package version that the addon was built from. */
  readonly version: string
  /** `cmake` (CPU, and CUDA where nvcc was found) or `node-gyp` (CPU only). */
  readonly builtBy: string
}

const loaded = loadAddon(packageRoot)

/** The loaded addon. */
export const native = loaded.addon as NativeAddon

/** The file it was loaded from. */
export const nativeFile: string = loaded.file

/** The version of this package. */
export const version: string = loaded.version
