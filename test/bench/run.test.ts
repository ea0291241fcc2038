import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LineProcess } from '../../bench/line-process.js'
import { RoundLimits } from '../../bench/limits.js'
import { compareWith, relativeDifference, TOLERANCE } from '../../bench/peers/compare.js'
import { type Peer, PeerProcess } from '../../bench/peers/peer.js'
import { type Problem, ProblemRun } from '../../bench/peers/problem.js'
import type { Row } from '../../bench/rows.js'
import { openDevice } from '../../lib/index.js'
import { barChart, lineChart, linearTicks, logTicks } from '../../bench/svg.js'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'softmoe-bench-test-'))
})
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

describe('the benchmark', () => {
  it('writes a row for each case, and charts', () => {
    const [json, charts] = [join(folder, 'rows.jsonl'), join(folder, 'charts')]
    const argv = ['--import', 'tsx', 'bench/run.ts', '--quick', '--no-limits', '--seconds', '0.05']
    const child = spawnSync(process.execPath, [...argv, '--json', json, '--charts', charts], {
      encoding: 'utf8',
    })
    expect(child.stderr).toBe('')
    expect(child.status).toBe(0)
    const rows = readFileSync(json, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Row)
    expect(rows.map(({ name, dtype }) => `${name} ${dtype}`)).toEqual([
      'dense MLP S/16 B=8 float32',
      'Soft MoE 128x1 S/16 B=8 float32',
      'dense MLP S/16 B=8 bfloat16',
      'Soft MoE 128x1 S/16 B=8 bfloat16',
    ])
    for (const row of rows) {
      expect(child.stdout).toContain(row.name)
      expect(row.medianMs).toBeGreaterThan(0)
      expect(row.limits).toBeNull()
      expect(row.gflops).toBeGreaterThan(0)
      expect(row.p10Ms).toBeLessThanOrEqual(row.medianMs)
      expect(row.p90Ms).toBeGreaterThanOrEqual(row.medianMs)
    }
    // Without limits there is no floor to draw.
    expect(readdirSync(charts)).toEqual([])
  })
})

describe('a process that is asked by lines', () => {
  const start = (script: string): LineProcess =>
    new LineProcess([process.execPath, '-e', script], folder, (line) => line.startsWith('answer'))

  it('answers until it is stopped, and remarks are passed over', async () => {
    const child = start(`process.stdin.on('data', (data) => console.log('a remark\\nanswer to ' + data))`)
    expect(await child.ask('one')).toBe('answer to one')
    expect(await child.ask('two')).toBe('answer to two')
    await child.stop()
    await child.stop()
    await expect(child.ask('three')).rejects.toThrow(/ended when it was asked 'three'/)
  })

  it('says why it ended', async () => {
    const broken = start(`throw new Error('broken')`)
    await expect(broken.ask('one')).rejects.toThrow(/Error: broken/)
    await broken.stop()
    const missing = new LineProcess([join(folder, 'no-such-program')], folder, () => true)
    await expect(missing.ask('one')).rejects.toThrow(/ENOENT/)
    await missing.stop()
  })
})

describe('a peer', () => {
  const worker = (script: string): readonly string[] => {
    const path = join(folder, `worker-${script.length}.mjs`)
    writeFileSync(path, script)
    return [process.execPath, path]
  }

  it('is asked for times and for its output', async () => {
    const peer = await PeerProcess.start(
      worker(`import { writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
console.log('a remark of the library')
console.log('ready Peer 1.2 ' + process.argv[2])
for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ')
  if (command === 'run') console.log('times' + ' 1.5'.repeat(Number(argument)))
  else if (command === 'output') console.log('written', writeFileSync(argument, new Uint8Array(Float32Array.of(1, 2).buffer)))
  else process.exit(0)
}`),
      ['kind=mlp'],
    )
    if (!(peer instanceof PeerProcess)) throw new Error(peer.skipped)
    expect(peer.name).toBe('Peer 1.2 kind=mlp')
    expect(await peer.time(3)).toEqual([1.5, 1.5, 1.5])
    expect(await peer.outputs(folder)).toEqual(Float32Array.of(1, 2))
    await peer.stop()
  })

  it('says why it is skipped, or what it failed with', async () => {
    expect(await PeerProcess.start(worker("console.log('skip not installed')"), [])).toEqual({
      skipped: 'not installed',
    })
    expect(await PeerProcess.start(worker("throw new Error('broken library')"), [])).toMatchObject({
      skipped: expect.stringContaining('it failed: Error: broken library') as string,
    })
    expect(await PeerProcess.start([join(folder, 'no-such-program')], [])).toMatchObject({
      skipped: expect.stringContaining('ENOENT') as string,
    })
  })

  it.each(['float32', 'bfloat16'] as const)(
    'is compared with plain and frozen weights in %s',
    async (dtype) => {
      const device = openDevice('cpu')
      const experts = { numExperts: 2, slotsPerExpert: 3 }
      const plain = {
        backbone: 'S/16',
        experts,
        weights: null,
        batch: 2,
        dtype,
        pass: 'forward',
        threads: 1,
      } as const
      const problems: Problem[] = [plain, { ...plain, weights: dtype }]
      const written: (readonly string[])[] = []
      const runs: ProblemRun[] = []
      for (const problem of problems) {
        const own = mkdtempSync(join(folder, 'problem-'))
        const run = new ProblemRun(device, problem)
        runs.push(run)
        const files = await run.write(own)
        written.push(files)
        run.freeze()
      }
      const contents = written.map((files) =>
        files
          .filter((file) => /^(weights|input)=/.test(file))
          .map((file) => readFileSync(file.replace(/^\w+=/, ''))),
      )
      expect(contents[0].map(({ length }) => length > 0)).toEqual([true, true])
      expect(contents[1].map((bytes, i) => bytes.equals(contents[0][i]))).toEqual([true, true])

      // It answers with what was stored for it.
      const command = worker(`import { copyFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
console.log('ready Peer 1.2')
for await (const line of createInterface({ input: process.stdin })) {
  const [command, argument] = line.split(' ')
  if (command === 'run') console.log('times' + ' 1.5'.repeat(Number(argument)))
  else console.log('written', copyFileSync(process.argv[2], argument))
}`)
      const compare = (part: Peer['part'], stored: Float32Array): ReturnType<typeof compareWith> => {
        const file = join(folder, 'stored.bin')
        writeFileSync(file, stored)
        const peer: Peer = { name: 'Peer', part, supports: () => true, command: () => command }
        const limits = new RoundLimits(null, [])
        return compareWith(peer, runs, { device, files: [file], folder, seconds: 0.001, limits })
      }
      const stored = { layer: await runs[0].outputs(), experts: await runs[0].expertOutputs() }
      for (const part of ['layer', 'experts'] as const) {
        const results = await compare(part, stored[part][0])
        expect(results).toHaveLength(2)
        for (const result of results) {
          if ('skipped' in result) throw new Error(result.skipped)
          expect(result).toMatchObject({ name: 'Peer 1.2', part })
          expect(result.difference).toBeLessThanOrEqual(TOLERANCE[dtype])
          expect(result.ours.length).toBeGreaterThan(2)
          expect(result.times.every((time) => time === 1.5)).toBe(true)
        }
        // In float32, frozen weights give the bits of the plain ones.
        if (dtype === 'float32')
          expect(results.map((result) => 'difference' in result && result.difference)).toEqual([0, 0])
      }
      const wrong = stored.layer[0].map((value) => value * 1.1)
      for (const result of await compare('layer', wrong)) {
        expect(result).toMatchObject({ skipped: expect.stringContaining('away from ours') as string })
      }
      for (const run of runs) run.dispose()
    },
  )

  it('is refused when its results differ', () => {
    expect(relativeDifference(Float32Array.of(1, -4), Float32Array.of(1, -3))).toBe(0.25)
    expect(relativeDifference(Float32Array.of(1, 2), Float32Array.of(1))).toBe(Number.POSITIVE_INFINITY)
    expect(relativeDifference(Float32Array.of(1, 2), Float32Array.of(Number.NaN, 2))).toBe(
      Number.POSITIVE_INFINITY,
    )
    expect(relativeDifference(new Float32Array(2), new Float32Array(2))).toBe(0)
  })
})

describe('a chart', () => {
  it('has round ticks', () => {
    expect(linearTicks(0, 1)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1])
    expect(linearTicks(0, 430)).toEqual([0, 100, 200, 300, 400])
    expect(linearTicks(0.797, 0.843, 8)).toEqual([0.8, 0.81, 0.82, 0.83, 0.84])
    expect(logTicks(0.9, 60)).toEqual([1, 2, 5, 10, 20, 50])
  })

  it('draws one bar for each value, in proportion, and escapes names', () => {
    const svg = barChart({
      title: 'A & B',
      subtitle: '',
      series: ['<one>', 'two'],
      groups: [
        { name: 'group', values: [1, 2] },
        { name: 'half', values: [null, 1] },
      ],
      format: String,
    })
    const widths = [...svg.matchAll(/<rect x="330" y="[\d.]+" width="([\d.]+)"/g)].map((match) =>
      Number(match[1]),
    )
    expect(widths).toEqual([250, 500, 250])
    expect(svg).toContain('A &#38; B')
    expect(svg).not.toContain('<one>')
  })

  it('puts powers of two at even distances on a log scale', () => {
    const points = [8, 64, 512].map((x) => [x, x] as const)
    const series = [{ name: 'line', dashed: false, colour: 0, points }]
    const svg = lineChart({ title: '', subtitle: '', xLabel: '', yLabel: '', series })
    const places = [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map((match) => Number(match[1]))
    expect(places).toEqual([80, 390, 700])
  })
})
