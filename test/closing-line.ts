import type { Reporter, SerializedError, TestModule } from 'vitest/node'

/** Ends the output of a test run with `N passed, N failed`. A file that cannot be run counts as one failure. */
export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    let passed = 0
    let failed = unhandledErrors.length
    let skipped = 0
    for (const module of modules) {
      failed += module.errors().length
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        if (state === 'passed') passed += 1
        else if (state === 'failed') failed += 1
        else skipped += 1
      }
    }
    // Other reporters print their summary after this call.
    process.once('exit', () => {
      if (skipped > 0) console.log(`${skipped} skipped`)
      console.log(`${passed} passed, ${failed} failed`)
    })
  }
}
