import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SoftMoEError } from '../../lib/core/errors.js'
import { MetricsWriter, readMetrics, type MetricsRecord } from '../../lib/training/metrics.js'
import { temporaryFolder } from '../data/temporary-folder.js'

const train = (step: number, loss = 1 / (step + 1)): MetricsRecord => ({
  kind: 'train',
  step,
  epoch: step / 10,
  loss,
  accuracy: 0.5,
  learningRate: 1e-3,
  gradNorm: 2,
  imagesPerSecond: 1000,
  seconds: step,
})
const evaluated = (step: number): MetricsRecord => ({
  kind: 'eval',
  step,
  epoch: step / 10,
  loss: 0.5,
  accuracy: 0.8,
  images: 100,
  seconds: step,
})
const routed = (step: number): MetricsRecord => ({
  kind: 'router',
  step,
  layers: [{ layer: 3, router: 'soft', metrics: { dispatchEntropy: 1.5, maxLogit: Infinity } }],
})

async function written(path: string, records: readonly MetricsRecord[], resumeAt?: number): Promise<void> {
  const writer = await MetricsWriter.open(path, resumeAt)
  for (const record of records) await writer.write(record)
  await writer.close()
}

describe('metrics.jsonl', () => {
  it('returns the records that were written, numbers that are not finite included', async () => {
    const path = join(temporaryFolder(), 'metrics.jsonl')
    const records = [train(0), train(1, Number.NaN), evaluated(2), routed(2), train(2, -Infinity)]
    await written(path, records)
    expect(await readMetrics(path)).toEqual(records)
    expect(readFileSync(path, 'utf8').trim().split('\n')).toHaveLength(5)
  })

  it('is emptied by a new run and continued by a resumed one', async () => {
    const path = join(temporaryFolder(), 'metrics.jsonl')
    await written(path, [train(0), train(1), evaluated(2), train(2), train(3), evaluated(4), routed(4)])
    await written(path, [train(2, 9)], 2)
    expect(await readMetrics(path)).toEqual([train(0), train(1), evaluated(2), train(2, 9)])
    await written(path, [train(0)])
    expect(await readMetrics(path)).toEqual([train(0)])
  })

  it('loses only the last line when that was cut off', async () => {
    const path = join(temporaryFolder(), 'metrics.jsonl')
    await written(path, [train(0), train(1)])
    appendFileSync(path, '{"kind":"train","step":2,"lo')
    expect(await readMetrics(path)).toEqual([train(0), train(1)])
    await written(path, [train(2)], 2)
    expect(await readMetrics(path)).toEqual([train(0), train(1), train(2)])
  })

  it.each([
    ['{"kind":"train","step":1}'],
    ['{"kind":"other","step":1}'],
    ['{"kind":"router","step":1,"layers":[{}]}'],
    ['[1]'],
    ['null'],
    [''],
  ])('names the line of %j', async (line) => {
    const path = join(temporaryFolder(), 'metrics.jsonl')
    await written(path, [train(0)])
    appendFileSync(path, `${line}\n`)
    await expect(readMetrics(path)).rejects.toThrow(/line 2 is no metrics record/)
  })

  it('takes any text without anything but records or a SoftMoEError', async () => {
    const path = join(temporaryFolder(), 'metrics.jsonl')
    const line = fc.oneof(fc.json(), fc.string(), fc.constant(JSON.stringify(train(0))))
    await fc.assert(
      fc.asyncProperty(fc.array(line), async (lines) => {
        writeFileSync(path, lines.join('\n'))
        try {
          for (const { step } of await readMetrics(path)) expect(Number.isInteger(step)).toBe(true)
        } catch (error) {
          expect(SoftMoEError.is(error), String(error)).toBe(true)
        }
      }),
      { numRuns: 200 },
    )
  })
})
