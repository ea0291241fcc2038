/** The peers, each a process that computes the same layer on demand and times itself. */
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { LineProcess } from '../line-process.js'
import type { Problem } from './problem.js'

const here = fileURLToPath(new URL('.', import.meta.url))

/** Whom softmoe is compared with. */
export interface Peer {
  readonly name: string
  /** What it computes; `experts`: only the experts' products of a Soft MoE layer. */
  readonly part: 'layer' | 'experts'
  /** Whether it can compute this at all. */
  readonly supports: (problem: Problem) => boolean
  /** The command without the problem, or why there is none. */
  readonly command: (folder: string) => readonly string[] | { readonly skipped: string }
}

const isInference = ({ dtype, pass }: Problem): boolean => dtype === 'float32' && pass === 'forward'

/** Compiles the oneDNN worker, once. */
function onednnCommand(folder: string): readonly string[] | { readonly skipped: string } {
  const binary = join(folder, 'onednn')
  const flags = ['-O2', '-std=c++17', '-fopenmp', join(here, 'onednn.cc'), '-ldnnl', '-o', binary]
  const compiler = process.env.CXX ?? 'c++'
  const child = spawnSync(compiler, flags, { encoding: 'utf8' })
  if (child.status === 0) return [binary]
  const reason = child.error?.message ?? child.stderr.split('\n').find((line) => line.includes('error'))
  return { skipped: `not built (it needs ${compiler} and oneDNN's headers): ${reason ?? 'no reason given'}` }
}

/** All peers; float32 forward passes meet all of them. */
export const PEERS: readonly Peer[] = [
  {
    name: 'onnxruntime-node',
    part: 'layer',
    supports: isInference,
    command: () => [process.execPath, join(here, 'onnxruntime.mjs')],
  },
  {
    name: 'tfjs-wasm',
    part: 'layer',
    supports: isInference,
    command: () => [process.execPath, join(here, 'tfjs.mjs')],
  },
  {
    name: 'PyTorch',
    part: 'layer',
    supports: () => true,
    command: () => [process.env.PYTHON ?? 'python3', join(here, 'pytorch.py')],
  },
  {
    name: 'oneDNN',
    part: 'experts',
    supports: ({ pass }) => pass === 'forward',
    command: onednnCommand,
  },
]

/** Whether a line answers a question; libraries write remarks between them. */
const isReply = (line: string): boolean => /^(ready|skip|times|written)\b/.test(line)

/** A running peer. */
export class PeerProcess {
  /** With its version. */
  readonly name: string
  readonly #process: LineProcess

  private constructor(name: string, process: LineProcess) {
    this.name = name
    this.#process = process
  }

  /** Starts a peer and waits until it has computed once; or says why it cannot. */
  static async start(
    command: readonly string[],
    problem: readonly string[],
  ): Promise<PeerProcess | { readonly skipped: string }> {
    const child = new LineProcess([...command, ...problem], here, isReply)
    const first = await child.reply()
    const [word, ...rest] = first?.split(' ') ?? []
    if (word === 'ready') return new PeerProcess(rest.join(' '), child)
    child.kill()
    if (word === 'skip') return { skipped: rest.join(' ') }
    const lastError = child.errors.split('\n').findLast((line) => /error/i.test(line))
    return { skipped: `it failed: ${lastError ?? first ?? 'no output'}` }
  }

  /** Times of some runs in milliseconds. */
  async time(runs: number): Promise<number[]> {
    return (await this.#process.ask(`run ${runs}`)).split(' ').slice(1).map(Number)
  }

  /** All outputs, one after the other. */
  async outputs(folder: string): Promise<Float32Array> {
    const path = join(folder, 'output.bin')
    await this.#process.ask(`output ${path}`)
    const bytes = readFileSync(path)
    rmSync(path)
    return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
  }

  async stop(): Promise<void> {
    await this.#process.stop()
  }
}
