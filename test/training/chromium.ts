import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { temporaryFolder } from '../data/temporary-folder.js'

const candidates = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
]

/** The browser to look at pages with; undefined where none is installed. */
export const chromium = candidates.find((path) => path !== undefined && existsSync(path))

if (chromium === undefined) {
  console.warn(
    'tests of the report in a browser are skipped: no Chromium found (Debian: apt-get install chromium)',
  )
}

interface View {
  readonly scheme: 'light' | 'dark'
  readonly width: number
  readonly height: number
}

/** Opens a file in headless Chromium; returns what it printed for `--dump-dom`, or writes a screenshot. */
export function look(file: string, { scheme, width, height }: View, screenshot?: string): string {
  const flags = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--hide-scrollbars',
    `--user-data-dir=${join(temporaryFolder(), 'profile')}`,
    `--blink-settings=preferredColorScheme=${scheme === 'dark' ? 0 : 1}`,
    '--virtual-time-budget=3000',
    `--window-size=${width},${height}`,
    screenshot === undefined ? '--dump-dom' : `--screenshot=${screenshot}`,
  ]
  const { stdout, stderr, status } = spawnSync(chromium ?? '', [...flags, pathToFileURL(file).href], {
    encoding: 'utf8',
    timeout: 60_000,
    maxBuffer: 2 ** 26,
  })
  if (status !== 0) throw new Error(`Chromium ended with status ${status}: ${stderr}`)
  return stdout
}
