// Finds and loads the native addon: the one built in build/, else a prebuilt file that fits this machine. What it
// exports is typed in native.ts; why it may be missing, and what to do then, is worded in native-diagnosis.ts.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import nodeGypBuild from 'node-gyp-build'
import { SoftMoEError } from './core/errors.js'
import { currentMachine, describeLoadFailure } from './native-diagnosis.js'

/** A loaded addon and where it came from. */
export interface LoadedAddon {
  readonly addon: { readonly version: string }
  readonly file: string
  readonly version: string
}

function readVersion(packageJson: string): string {
  return (JSON.parse(readFileSync(packageJson, 'utf8')) as { version: string }).version
}

function addonsIn(folder: string): string {
  if (!existsSync(folder)) return 'no such folder'
  const names = readdirSync(folder).filter((name) => name.endsWith('.node'))
  return names.length > 0 ? `holds ${names.join(', ')}` : 'holds no .node file'
}

/** The places where an addon is looked for, each with what is there. */
function searchedPlaces(root: string): string[] {
  const folders = ['build/Release', 'build/Debug', `prebuilds/${process.platform}-${process.arch}`]
  return folders.map((folder) => `${join(root, folder)}: ${addonsIn(join(root, folder))}`)
}

function messageOf(error: unknown): string {
  return error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)
}

/**
 * Loads the addon that belongs to the package in `root`.
 *
 * @param root the folder of softmoe's package.json; null if it could not be found, as in a bundle
 * @throws SoftMoEError `ERR_NATIVE_LOAD` with what was tried and what to do on this machine
 */
export function loadAddon(root: string | null): LoadedAddon {
  if (root === null) {
    throw new SoftMoEError(
      'ERR_NATIVE_LOAD',
      'softmoe cannot find its own package folder, because its code was moved into a bundle. Mark it as external in ' +
        'the bundler (esbuild: --external:softmoe, Next.js: serverExternalPackages) and install it beside the bundle.',
    )
  }
  const packageJson = join(root, 'package.json')
  const version = readVersion(packageJson)
  const fail = (tried: readonly string[], problem: string, cause?: unknown): never => {
    throw new SoftMoEError(
      'ERR_NATIVE_LOAD',
      describeLoadFailure({ root, version, tried, problem }, currentMachine()),
      {
        cause,
      },
    )
  }

  let file: string
  try {
    file = nodeGypBuild.resolve(root)
  } catch (error) {
    return fail(searchedPlaces(root), 'no native addon fits this machine', error)
  }

  let addon: { readonly version: string }
  try {
    addon = createRequire(packageJson)(file) as { readonly version: string }
  } catch (error) {
    return fail([`${file}: ${messageOf(error)}`], 'the native addon does not load', error)
  }
  if (addon.version !== version) {
    return fail(
      [`${file}: built from version ${addon.version}`],
      `the native addon is of version ${addon.version}, the JavaScript of version ${version}`,
    )
  }
  return { addon, file, version }
}
