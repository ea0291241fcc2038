/** `softmoe doctor`: what this machine and this installation are, for bug reports and for people who wonder. */
import { cpus, freemem, release, totalmem } from 'node:os'
import { readFileSync } from 'node:fs'
import { SoftMoEError } from '../core/errors.js'
import { packageFile } from '../core/package-file.js'

/** A part that may be unusable, with the reason. */
type Finding = Readonly<Record<string, unknown>> | { readonly unusable: string }

/** What the doctor finds. */
export interface Diagnosis {
  readonly softmoe: string
  readonly node: string
  readonly platform: string
  readonly system: string
  readonly libc: string
  readonly processor: string
  readonly cores: number
  readonly memoryGiB: number
  readonly freeMemoryGiB: number
  /** The native addon: file and how it was built. */
  readonly addon: Finding
  readonly cpu: Finding
  readonly cuda: Finding
  /** Variables of the environment that change what the package does. */
  readonly environment: Readonly<Record<string, string>>
}

function reasonOf(error: unknown): { readonly unusable: string } {
  return { unusable: error instanceof Error ? error.message : String(error) }
}

async function attempt(look: () => Promise<Finding>): Promise<Finding> {
  try {
    return await look()
  } catch (error) {
    return reasonOf(error)
  }
}

function libc(): string {
  if (process.platform !== 'linux') return 'none to choose'
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
  const version = report.header?.glibcVersionRuntime
  return version === undefined ? 'musl' : `glibc ${version}`
}

function packageVersion(): string {
  const manifest = JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as { version: string }
  return manifest.version
}

const gibibytes = (bytes: number): number => Math.round((bytes / 2 ** 30) * 10) / 10

/** Examines the machine and the installation. Never throws: what does not work is part of the result. */
export async function diagnose(): Promise<Diagnosis> {
  // Imported here: a missing addon is a finding, not a failure of the command.
  const addon = await attempt(async () => {
    const { native, nativeFile } = await import('../native.js')
    return { file: nativeFile, builtBy: native.builtBy, version: native.version }
  })
  const device = (kind: 'cpu' | 'cuda'): Promise<Finding> =>
    attempt(async () => {
      if ('unusable' in addon) throw new SoftMoEError('ERR_NATIVE_LOAD', 'the native addon does not load')
      const { openDevice } = await import('../core/device.js')
      return openDevice(kind).description
    })
  const processors = cpus()
  return {
    softmoe: packageVersion(),
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    system: release(),
    libc: libc(),
    processor: processors.at(0)?.model ?? 'unknown',
    cores: processors.length,
    memoryGiB: gibibytes(totalmem()),
    freeMemoryGiB: gibibytes(freemem()),
    addon,
    cpu: await device('cpu'),
    cuda: await device('cuda'),
    environment: Object.fromEntries(
      Object.entries(process.env).filter(
        (entry): entry is [string, string] =>
          entry[1] !== undefined && /^(SOFTMOE_|CUDA_VISIBLE)/.test(entry[0]),
      ),
    ),
  }
}

/** `numThreads` → `num threads`. */
function spelledOut(name: string): string {
  return name.replace(/([a-z])([A-Z])/g, '$1 $2').toLowerCase()
}

function describe(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value)
  return JSON.stringify(value)
}

function findingLines(name: string, finding: Finding): string[] {
  if ('unusable' in finding) return [`${name}: not usable: ${String(finding.unusable)}`]
  return [
    `${name}:`,
    ...Object.entries(finding).map(([key, value]) => `  ${spelledOut(key)}: ${describe(value)}`),
  ]
}

/** The diagnosis as lines for people. */
export function formatDiagnosis(diagnosis: Diagnosis): string {
  const { addon, cpu, cuda, environment, ...machine } = diagnosis
  const variables = Object.entries(environment).map(([name, value]) => `  ${name}=${value}`)
  return [
    `softmoe ${machine.softmoe}, Node ${machine.node}, ${machine.platform}`,
    `system: ${machine.system}, ${machine.libc}`,
    `processor: ${machine.processor}, ${machine.cores} cores`,
    `memory: ${machine.memoryGiB} GiB, ${machine.freeMemoryGiB} GiB free`,
    ...findingLines('addon', addon),
    ...findingLines('cpu', cpu),
    ...findingLines('cuda', cuda),
    ...(variables.length > 0 ? ['environment:', ...variables] : []),
  ].join('\n')
}

/** Whether training can run here. */
export function isHealthy({ addon, cpu }: Diagnosis): boolean {
  return !('unusable' in addon) && !('unusable' in cpu)
}
