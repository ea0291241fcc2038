// Runs small programs against the library in processes of their own.
import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The file URL of the library's entry, for programs in child processes and workers. */
export const libraryUrl = pathToFileURL(`${root}lib/index.ts`).href

/** The module whose register() lets a worker thread import TypeScript. */
export const typescriptLoaderUrl = new URL(
  'dist/esm/api/index.mjs',
  pathToFileURL(createRequire(import.meta.url).resolve('tsx/package.json')),
).href

export interface ChildResult {
  /** null when a signal ended it. */
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/**
 * Runs an ECMAScript module given as text, with TypeScript imports, until it ends by itself or `timeoutMs` have passed
 * (then with signal SIGKILL).
 */
export function runModule(
  text: string,
  {
    env = {},
    timeoutMs = 40_000,
  }: { readonly env?: Readonly<Record<string, string>>; readonly timeoutMs?: number } = {},
): Promise<ChildResult> {
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', text], {
    cwd: root,
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}
