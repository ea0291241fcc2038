/**
 * What the workers of JavaScript peers share: the problem from the command line, its tensors from the files, and the
 * talk with the benchmark. A worker is started with `key=value` arguments, says `ready NAME` or `skip REASON`, and then
 * answers lines: `run N` with N times in milliseconds, `output FILE` by writing the layer's output as float32.
 */
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { createInterface } from 'node:readline'

/** Every tensor of the weight file starts at a multiple of this. */
const ALIGNMENT = 4096

/** @returns the problem: kind, dtype, pass, files and sizes */
export function readProblem() {
  const entries = process.argv.slice(2).map((argument) => {
    const at = argument.indexOf('=')
    const value = argument.slice(at + 1)
    return [argument.slice(0, at), /^\d+$/.test(value) ? Number(value) : value]
  })
  return Object.fromEntries(entries)
}

/** Name, shape and byte offset of each tensor of the weight file. */
export function weightLayout({ kind, dim, hidden, experts, slots }) {
  const layout = [
    { name: 'w1', shape: [experts, dim, hidden] },
    { name: 'b1', shape: [experts, hidden] },
    { name: 'w2', shape: [experts, hidden, dim] },
    { name: 'b2', shape: [experts, dim] },
  ]
  if (kind === 'soft') {
    layout.push({ name: 'phi', shape: [dim, experts * slots] }, { name: 'scale', shape: [1] })
  }
  let offset = 0
  return layout.map(({ name, shape }) => {
    const count = shape.reduce((product, extent) => product * extent, 1)
    const entry = { name, shape, count, offset }
    offset += Math.ceil((4 * count) / ALIGNMENT) * ALIGNMENT
    return entry
  })
}

/** `count` float32 values from a file. */
export function readFloats(path, offset, count) {
  const values = new Float32Array(count)
  const file = openSync(path)
  const bytes = new Uint8Array(values.buffer)
  const chunk = 1 << 30
  for (let at = 0; at < bytes.length;) {
    const read = readSync(file, bytes, at, Math.min(chunk, bytes.length - at), offset + at)
    if (read === 0) throw new Error(`${path} ends at byte ${offset + at}`)
    at += read
  }
  closeSync(file)
  return values
}

/** Phi with columns of length `scale`, as the layer normalises it: x / sqrt(|x|^2 + 1e-6). */
export function normalisedPhi(phi, scale, dim, slots) {
  const result = new Float32Array(phi.length)
  for (let slot = 0; slot < slots; slot++) {
    let squares = 1e-6
    for (let i = 0; i < dim; i++) squares += phi[i * slots + slot] ** 2
    for (let i = 0; i < dim; i++)
      result[i * slots + slot] = (scale * phi[i * slots + slot]) / Math.sqrt(squares)
  }
  return result
}

/** Answers the benchmark until it closes the pipe. */
export async function serve(name, { run, output }) {
  console.log(`ready ${name}`)
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, argument] = line.split(' ')
    if (command === 'run') {
      const times = []
      for (let i = 0; i < Number(argument); i++) {
        const start = performance.now()
        await run()
        times.push(performance.now() - start)
      }
      console.log(`times ${times.join(' ')}`)
    } else if (command === 'output') {
      const values = await output()
      writeFileSync(argument, new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
      console.log('written')
    } else {
      break
    }
  }
}

/** Tells the benchmark why there is nothing to time, and ends. */
export function skip(reason) {
  console.log(`skip ${String(reason).split('\n')[0]}`)
  process.exit(0)
}
