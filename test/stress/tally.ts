/** What every stress program ends with: its figures, what failed, and a line `N passed, N failed`. */
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, seed: { type: 'string', default: '1' } },
})

/** `--quick`: a share that fits into continuous integration. */
export const quick = values.quick

/** `--seed N`: what is random depends on it alone, but for the moments at which the system runs what. */
export const seed = Number(values.seed)

let passed = 0
let failed = 0

/** Counts one statement; says it where it does not hold. */
export function check(holds: boolean, statement: string): void {
  if (holds) {
    passed += 1
    return
  }
  failed += 1
  console.log(`FAILED  ${statement}`)
}

/** Prints a line of figures. */
export function figure(text: string): void {
  console.log(text)
}

/** Runs the parts in order, each under its name, and ends the process with the closing line. */
export async function runParts(parts: Readonly<Record<string, () => Promise<void>>>): Promise<void> {
  for (const [name, part] of Object.entries(parts)) {
    const startedAt = performance.now()
    console.log(`\n${name}`)
    try {
      await part()
    } catch (error) {
      check(false, `${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
    }
    console.log(`  (${((performance.now() - startedAt) / 1000).toFixed(0)} s)`)
  }
  console.log(`\n${passed} passed, ${failed} failed`)
  process.exitCode = failed > 0 ? 1 : 0
}
