/**
 * Training where the system refuses memory or threads, or the driver a call. Every allocation of the addon and every call
 * of the emulated CUDA driver is made to fail in turn, once and from there on; real limits of address space and threads
 * are set on processes that then go on.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { packageUrl, programPath, run } from './processes.js'
import { check, figure, quick } from './tally.js'

interface TaskFaults {
  readonly name: string
  readonly calls: number
  readonly faults: number
  readonly refused: number
  readonly unnoticed: number
  readonly wrong: readonly string[]
}

/** Builds the shim; null where that cannot be done. */
function buildShim(folder: string): string | null {
  const shim = join(folder, 'fail_calls.so')
  const source = resolve(import.meta.dirname, 'shim/fail_calls.c')
  const built = spawnSync(
    'cc',
    ['-O1', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', source, '-o', shim, '-ldl'],
    {
      encoding: 'utf8',
    },
  )
  if (built.status === 0) return shim
  figure(`  skipped: the shim needs a C compiler and glibc: ${built.stderr ?? ''}`)
  return null
}

/** Fails each call of a kind in turn, on a device, and judges what `programs/failing-calls.mjs` says. */
async function failCalls(
  device: 'cpu' | 'cuda',
  kind: string,
  stride: number,
  control: string,
  env: Readonly<Record<string, string>>,
): Promise<void> {
  writeFileSync(control, Buffer.alloc(32))
  const { status, signal, stdout, stderr } = await run(
    process.execPath,
    ['--expose-gc', programPath('failing-calls'), packageUrl, device, kind, String(stride)],
    { env: { SOFTMOE_FAIL_CALLS: control, ...env }, timeoutMs: 3_000_000 },
  )
  const what = `${kind} on ${device}`
  check(
    status === 0,
    `the process lives through every failure of ${what}: ${String(signal)} ${stderr.slice(0, 500)}`,
  )
  const tasks = stdout
    .trim()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as TaskFaults)
  check(tasks.length === 3, `all tasks are run under ${what}`)
  for (const { name, calls, faults, refused, unnoticed, wrong } of tasks) {
    if (calls === 0) continue
    figure(
      `  ${what} in ${name}: ${calls} calls, ${faults} faults: ${refused} refused with a code, ${unnoticed} made good, ` +
        `${wrong.length} wrong`,
    )
    check(wrong.length === 0, `${what} in ${name}: ${wrong.slice(0, 5).join('; ')}`)
  }
}

export async function failAllocations(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'softmoe-allocations-'))
  const shim = buildShim(folder)
  if (shim !== null) {
    for (const kind of ['aligned_alloc', 'malloc'])
      await failCalls('cpu', kind, quick ? 7 : 1, join(folder, 'control'), { LD_PRELOAD: shim })
  }
  rmSync(folder, { recursive: true })
}

/** What lets the package open the emulated GPU; null, with the reason printed, where it cannot. */
function emulatedGpu(): Readonly<Record<string, string>> | null {
  const built = spawnSync(
    process.execPath,
    [resolve(import.meta.dirname, '../../scripts/build-emulator.cjs')],
    {
      encoding: 'utf8',
    },
  )
  if (built.status !== 0) {
    figure(`  skipped: the emulated driver could not be built: ${built.stderr.slice(-500)}`)
    return null
  }
  const env = {
    SOFTMOE_CUDA_DRIVER: built.stdout.trim().split('\n').at(-1) ?? '',
    // What they look for is found by the tests of the kernels.
    SOFTMOE_EMULATOR_CHECKS: 'none',
  }
  const opens = `import { openDevice } from ${JSON.stringify(packageUrl)}; openDevice('cuda')`
  const opened = spawnSync(process.execPath, ['--input-type=module', '-e', opens], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  })
  if (opened.status === 0) return env
  const reason = /SoftMoEError.*/.exec(opened.stderr)?.[0] ?? opened.stderr
  figure(`  skipped: there is no emulated GPU: ${reason}`)
  return null
}

export async function failDriverCalls(): Promise<void> {
  const gpu = emulatedGpu()
  if (gpu === null) return
  const folder = mkdtempSync(join(tmpdir(), 'softmoe-driver-'))
  const control = join(folder, 'control')
  await failCalls('cuda', 'driver', quick ? 151 : 1, control, {
    ...gpu,
    SOFTMOE_EMULATOR_FAIL_CONTROL: control,
  })
  const shim = buildShim(folder)
  if (shim !== null) await failCalls('cuda', 'malloc', quick ? 61 : 1, control, { ...gpu, LD_PRELOAD: shim })
  rmSync(folder, { recursive: true })
}

interface Case {
  readonly name: string
  readonly value?: unknown
  readonly code?: string
  readonly message?: string
}

/** Mebibytes of address space that are left to a process. With 64, V8 at times ends it for want of its own heap. */
const ROOMS = quick ? [128] : [96, 128, 256, 512]

export async function limitMemory(): Promise<void> {
  if (process.platform !== 'linux' || spawnSync('prlimit', ['--version']).status !== 0) {
    figure('  skipped: limiting the address space needs prlimit')
    return
  }
  let refused = 0
  for (const room of ROOMS) {
    const { status, signal, stdout, stderr } = await run(process.execPath, [
      programPath('no-memory'),
      packageUrl,
      String(room),
    ])
    check(status === 0, `the process lives with ${room} MiB: ${String(signal)} ${stderr.slice(0, 500)}`)
    const lines = stdout
      .trim()
      .split('\n')
      .filter((line) => line !== '')
    const cases = lines.map((line) => JSON.parse(line) as Case)
    check(cases.length === 9, `the process comes to its end with ${room} MiB`)
    for (const one of cases) {
      const right = one.name.startsWith('fine') ? one.value === true : one.code === 'ERR_OUT_OF_MEMORY'
      check(right, `${one.name} with ${room} MiB: ${JSON.stringify(one)}`)
      if (one.code === 'ERR_OUT_OF_MEMORY') refused += 1
    }
  }
  figure(
    `  ${ROOMS.join(', ')} MiB of address space left: ${refused} requests refused with ERR_OUT_OF_MEMORY, then the same bits`,
  )
}

/** Options of setpriv. */
const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups']

/** Runs `programs/no-threads.mjs` as nobody, setting the limits it asks for. */
function withoutThreads(): Promise<{
  readonly status: number | null
  readonly cases: Case[]
  readonly stderr: string
}> {
  const child = spawn('setpriv', [...nobody, process.execPath, programPath('no-threads'), packageUrl])
  const cases: Case[] = []
  let stderr = ''
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()))
  createInterface(child.stdout).on('line', (line) => {
    const message = JSON.parse(line) as Case & { readonly limit?: number; readonly pid?: number }
    if (message.limit === undefined) {
      cases.push(message)
      return
    }
    spawnSync('setpriv', [...nobody, 'prlimit', '--pid', String(message.pid), `--nproc=${message.limit}:`])
    child.stdin.write('done\n')
  })
  const limit = setTimeout(() => child.kill('SIGKILL'), 120_000)
  return new Promise((done) => {
    child.once('error', (error) => done({ status: null, cases, stderr: String(error) }))
    child.once('close', (status) => {
      clearTimeout(limit)
      done({ status, cases, stderr })
    })
  })
}

export async function refuseThreads(): Promise<void> {
  if (process.getuid?.() !== 0) {
    figure('  skipped: running as a user whose threads are limited needs root')
    return
  }
  if (spawnSync('setpriv', [...nobody, 'test', '-r', fileURLToPath(packageUrl)]).status !== 0) {
    figure('  skipped: another user cannot read this folder')
    return
  }
  const { status, cases, stderr } = await withoutThreads()
  check(status === 0, `the process without threads lives: ${stderr.slice(0, 500)}`)
  const found = new Map(cases.map((one) => [one.name, one]))
  const refusals = cases.filter(({ name, code }) => name.startsWith('no thread') && code === 'ERR_WORKER')
  check(
    found.get('no thread: open')?.code === 'ERR_WORKER' &&
      /could not be started .*raise the limit of threads/.test(found.get('no thread: open')?.message ?? ''),
    `a device that gets no thread says so: ${JSON.stringify(found.get('no thread: open'))}`,
  )
  check(
    found.get('no thread: train')?.code === 'ERR_WORKER',
    `a run whose loader gets no thread says so: ${JSON.stringify(found.get('no thread: train'))}`,
  )
  check(found.get('threads again: train')?.value === 3, 'training goes on once there are threads again')
  const products = ['threads again: product', 'no thread: product', '8 threads: product'].map(
    (name) => found.get(name)?.value,
  )
  check(
    typeof products[0] === 'string' && products.every((value) => value === products[0]),
    'a device that is open computes the same bits with as many threads as it gets',
  )
  figure(
    `  ${cases.length} cases at the limit of threads, ${refusals.length} refused with ERR_WORKER; the process went on`,
  )
}
