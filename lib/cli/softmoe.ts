#!/usr/bin/env node
import { createProgram, runProgram, type Terminal } from './program.js'

const terminal: Terminal = {
  out: (text) => process.stdout.write(text),
  error: (text) => process.stderr.write(text),
}

// Set, not exited with: what was printed must reach its pipe.
void runProgram(createProgram(terminal), process.argv.slice(2), terminal).then((status) => {
  process.exitCode = status
})
