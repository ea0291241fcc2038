// Words the error of an addon that does not load: what was tried, then what to do on this very machine. The facts of
// the machine come in as data, so that every case can be tested on any machine.
import { accessSync, constants, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** The facts on which the advice depends. */
export interface Machine {
  readonly platform: NodeJS.Platform
  readonly arch: string
  /** `glibc 2.36`, `musl`, or null where there is no such choice. */
  readonly libc: string | null
  /** The `ID` and `ID_LIKE` words of /etc/os-release: `debian`, `alpine`, … */
  readonly distribution: readonly string[]
  readonly nodeVersion: string
  /** The package manager that runs this process, as in `npm/12.2.0`, or null. */
  readonly packageManager: string | null
  readonly hasCompiler: boolean
  readonly hasCmake: boolean
  /** Whether node-gyp could build: python and make are on PATH. */
  readonly hasMakeAndPython: boolean
}

/** What happened. */
export interface LoadFailure {
  readonly root: string
  readonly version: string
  readonly problem: string
  readonly tried: readonly string[]
}

function isOnPath(program: string): boolean {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function currentLibc(): string | null {
  if (process.platform !== 'linux') return null
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
  const glibc = report.header?.glibcVersionRuntime
  return glibc === undefined ? 'musl' : `glibc ${glibc}`
}

function currentDistribution(): string[] {
  try {
    const text = readFileSync('/etc/os-release', 'utf8')
    return [...text.matchAll(/^ID(?:_LIKE)?=(.*)$/gm)].flatMap((match) =>
      match[1].replaceAll('"', '').split(' '),
    )
  } catch {
    return []
  }
}

/** The machine that this process runs on. */
export function currentMachine(): Machine {
  return {
    platform: process.platform,
    arch: process.arch,
    libc: currentLibc(),
    distribution: currentDistribution(),
    nodeVersion: process.version,
    packageManager: /^\w+\/[\d.]+/.exec(process.env.npm_config_user_agent ?? '')?.[0] ?? null,
    hasCompiler: ['c++', 'g++', 'clang++'].some(isOnPath),
    hasCmake: isOnPath('cmake'),
    hasMakeAndPython: isOnPath('make') && isOnPath('python3'),
  }
}

function isSupported({ platform, arch }: Machine): boolean {
  return (platform === 'linux' || platform === 'darwin') && (arch === 'x64' || arch === 'arm64')
}

function toolsCommand({ platform, distribution }: Machine): string {
  if (platform === 'darwin') return 'xcode-select --install && brew install cmake'
  const commands: readonly (readonly [string, string])[] = [
    ['debian', 'apt-get install -y g++ make cmake python3'],
    ['ubuntu', 'apt-get install -y g++ make cmake python3'],
    ['alpine', 'apk add g++ make cmake python3 linux-headers'],
    ['fedora', 'dnf install -y gcc-c++ make cmake python3'],
    ['rhel', 'dnf install -y gcc-c++ make cmake python3'],
    ['arch', 'pacman -S --needed gcc make cmake python'],
    ['suse', 'zypper install -y gcc-c++ make cmake python3'],
  ]
  const known = commands.find(([name]) => distribution.includes(name))
  return known?.[1] ?? 'install g++, make, cmake and python3 with the package manager of this system'
}

/** How to let the package manager at hand build it, where it refuses to run install scripts by itself. */
function approvalCommand({ packageManager }: Machine): string {
  const [name, version = ''] = (packageManager ?? '').split('/')
  if (name === 'pnpm') return 'pnpm approve-builds (choose softmoe), then: pnpm rebuild softmoe'
  if (name === 'bun') return 'bun pm trust softmoe'
  if (name === 'yarn')
    return 'set dependenciesMeta.softmoe.built to true in package.json, then: yarn rebuild softmoe'
  const approveThenBuild = 'npm install-scripts approve softmoe && npm rebuild softmoe'
  const build = 'npm rebuild softmoe --foreground-scripts'
  if (name === 'npm') return Number.parseInt(version, 10) >= 12 ? approveThenBuild : build
  return `${build} (npm 12 and newer run no install script without approval: ${approveThenBuild})`
}

function solutions(failure: LoadFailure, machine: Machine): string[] {
  const list: string[] = []
  const installScript = `node ${JSON.stringify(join(failure.root, 'scripts', 'install.cjs'))}`
  const text = failure.tried.join('\n')
  if (machine.platform === 'win32') {
    return ['Windows itself is not supported: install Node.js and softmoe inside WSL 2.']
  }
  if (!isSupported(machine)) {
    return [
      `There are no kernels for ${machine.platform}-${machine.arch}: use Linux or macOS on x64 or arm64.`,
    ]
  }
  if (/GLIBC_[\d.]+' not found/.test(text)) {
    list.push(
      `This file needs a newer C library than this system has (${machine.libc ?? 'unknown'}): build it here, as below, ` +
        'or use a newer base image.',
    )
  }
  if (/invalid ELF header|wrong ELF class|incompatible architecture|file too short/.test(text)) {
    list.push(
      'The file is damaged or of another platform (node_modules copied between machines?): build it here.',
    )
  }
  if (machine.libc === 'musl') {
    list.push(
      'There is no prebuilt addon for musl: build it here, or use an image with glibc (node:20-slim).',
    )
  }
  if (!machine.hasCompiler || (!machine.hasCmake && !machine.hasMakeAndPython)) {
    list.push(`The tools to build it are not installed here: ${toolsCommand(machine)}`)
  } else if (!machine.hasCmake) {
    list.push(`Without CMake only the CPU backend can be built; for the GPU: ${toolsCommand(machine)}`)
  }
  list.push(`Build it: ${installScript}`)
  list.push(`Or through the package manager: ${approvalCommand(machine)}`)
  return list
}

/** The text of the error: the problem, what was tried, and numbered solutions for this machine. */
export function describeLoadFailure(failure: LoadFailure, machine: Machine): string {
  const where = [`${machine.platform}-${machine.arch}`, machine.libc, `Node.js ${machine.nodeVersion}`]
  return [
    `softmoe ${failure.version}: ${failure.problem} (${where.filter((fact) => fact !== null).join(', ')}).`,
    'Tried:',
    ...failure.tried.map((line) => `  - ${line}`),
    'Possible solutions:',
    ...solutions(failure, machine).map((line, index) => `  ${index + 1}. ${line}`),
  ].join('\n')
}
