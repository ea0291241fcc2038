/** The built package in processes of their own. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const root = resolve(import.meta.dirname, '../..')

/** The built package's entry and command. */
export const packageUrl = pathToFileURL(resolve(root, 'dist/esm/index.js')).href
export const commandPath = resolve(root, 'dist/esm/cli/softmoe.js')

/** A program of `test/stress/programs`. */
export function programPath(name: string): string {
  return resolve(import.meta.dirname, 'programs', `${name}.mjs`)
}

/** How a process ended. */
export interface Ending {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** How a process is run. */
export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Ends the process with this signal when the promise resolves. */
  readonly end?: { readonly signal: NodeJS.Signals; readonly afterMs: number }
  readonly timeoutMs?: number
}

/** Runs a command until it ends; after `timeoutMs` (default 5 minutes) with SIGKILL. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Ending> {
  const { env = {}, end, timeoutMs = 300_000 } = options
  const child = spawn(command, args, { cwd: root, env: { ...process.env, NODE_OPTIONS: '', ...env } })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()))
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
  const limit = setTimeout(() => child.kill('SIGKILL'), timeoutMs)
  const ending = end && setTimeout(() => child.kill(end.signal), end.afterMs)
  return new Promise((done, reject) => {
    child.once('error', reject)
    child.once('close', (status, signal) => {
      clearTimeout(limit)
      clearTimeout(ending)
      done({ status, signal, stdout, stderr })
    })
  })
}

/** Runs the built command. */
export function softmoe(args: readonly string[], options: RunOptions = {}): Promise<Ending> {
  return run(process.execPath, [commandPath, ...args], options)
}

/** A number of `/proc/self/status`, in its own unit (kB for memory), or NaN where there is none. */
export function processStatus(name: 'VmRSS' | 'Threads' | 'VmSize'): number {
  try {
    return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))?.[1])
  } catch {
    return Number.NaN
  }
}
