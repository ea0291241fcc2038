import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'

const folder = mkdtempSync(path.join(tmpdir(), 'softmoe-roofline-'))
afterAll(() => rmSync(folder, { recursive: true }))

const counters = {
  warpInstructions: 1000,
  mma: 64,
  mmaFlops: 262_144,
  globalLoadRequests: 10,
  globalLoadSectors: 160,
  globalLoadBytes: 4096,
  globalStoreRequests: 6,
  globalStoreSectors: 32,
  globalStoreBytes: 1024,
  sharedRequests: 20,
  sharedWavefronts: 50,
}

function written(name: string, text: string): string {
  const file = path.join(folder, name)
  writeFileSync(file, text)
  return file
}

function roofline(...files: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, ['scripts/roofline.cjs', ...files], {
    cwd: path.join(import.meta.dirname, '../..'),
    encoding: 'utf8',
  })
}

/** The numbers of the line of a figure: what was counted, the minimum, their ratio. */
function figure(output: string, name: string): number[] {
  const line = output.split('\n').find((text) => text.trim().startsWith(`${name} `)) ?? ''
  return [...line.matchAll(/[\d.]+/g)].map(([text]) => Number(text))
}

const launches = (...kernels: string[]): string =>
  ['not JSON', ...kernels.map((kernel) => JSON.stringify({ kernel, counters }))].join('\n')

describe('the roofline view', () => {
  it('sums the launches of a kernel and keeps kernels apart', () => {
    const { status, stdout } = roofline(written('two.jsonl', launches('gemm', 'gemm', 'copy')))
    expect(status).toBe(0)
    const [gemm = '', copy = ''] = stdout.split('copy: 1 launch\n')
    expect(gemm).toContain('gemm: 2 launches')
    expect(figure(gemm, 'globalBytes')).toEqual([10_240])
    expect(figure(gemm, 'globalSectors')).toEqual([384])
    expect(figure(gemm, 'mma')).toEqual([128])
    expect(figure(copy, 'globalBytes')).toEqual([5120])
  })

  it('sets the counts beside the minimum, of each launch where they differ', () => {
    const minima = written(
      'minima.json',
      JSON.stringify({ gemm: [{ globalBytes: 4096 }, { globalBytes: 6144 }] }),
    )
    const { stdout } = roofline(written('minima.jsonl', launches('gemm', 'gemm')), minima)
    expect(figure(stdout, 'globalBytes')).toEqual([10_240, 10_240, 1])
    expect(figure(stdout, 'mma')).toEqual([128])
  })

  it('tells the shape of the accesses and predicts the time by the slower of memory and tensor work', () => {
    const { stdout } = roofline(written('shape.jsonl', launches('gemm')))
    expect(stdout).toContain(
      'sectors a request 12.00, bytes a sector 26.67, wavefronts a shared request 2.50',
    )
    // 192 sectors of 32 bytes at 3.35 TB/s take longer than 262,144 FLOP at 989 TFLOP/s.
    expect(stdout).toContain(`predicted ${(((192 * 32) / 3.35e12) * 1e6).toFixed(2)} us`)
    const busy = { kernel: 'gemm', counters: { ...counters, mmaFlops: 1e9 } }
    const { stdout: tensor } = roofline(written('busy.jsonl', JSON.stringify(busy)))
    expect(tensor).toContain(`predicted ${((1e9 / 989e12) * 1e6).toFixed(2)} us`)
  })

  it('says how it is used when no file is named', () => {
    const { status, stderr } = roofline()
    expect(status).toBe(2)
    expect(stderr).toContain('usage: node scripts/roofline.cjs')
  })
})
