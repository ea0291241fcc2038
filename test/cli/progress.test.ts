import { describe, expect, it } from 'vitest'
import { barLine, createProgress, duration, type BarState } from '../../lib/cli/progress.js'
import type { TrainRecord } from '../../lib/training/metrics.js'

const STATE: BarState = {
  step: 1240,
  steps: 3000,
  loss: 0.4567,
  accuracy: 0.8412,
  imagesPerSecond: 2704.4,
  secondsLeft: 140,
}

describe('the bar', () => {
  it('says step, loss, accuracy, speed and time left beside the bar', () => {
    expect(barLine(STATE, 80)).toBe(
      '██████░░░░░░░░ 1240/3000  loss 0.457  accuracy 84.1 %  2704 images/s  2:20 left',
    )
  })

  it.each([
    ['a start', { step: 0, loss: 0, accuracy: 0, imagesPerSecond: 0, secondsLeft: Infinity }],
    ['an end', { step: 3000, accuracy: 1, imagesPerSecond: 99_999, secondsLeft: 0 }],
    ['a long run', { step: 10_000, steps: 99_999, loss: 10.5, accuracy: 1, secondsLeft: 359_999 }],
  ])('fits 80 columns at %s', (_, change) => {
    for (let columns = 80; columns <= 200; columns++) {
      const line = barLine({ ...STATE, ...change }, columns)
      expect(line.length).toBeLessThan(columns)
      expect(line).toMatch(/^([█░]{3,40} )?\d+\/\d+ {2}loss/)
    }
  })

  it('gives way to the text where the terminal is narrow', () => {
    expect(barLine(STATE, 40)).toMatch(/^1240\/3000/)
  })
})

describe('progress without a terminal', () => {
  it('prints a line at the first and the last step, and every evaluation', () => {
    const lines: string[] = []
    const progress = createProgress({ steps: 3, start: 0, batchSize: 10 }, (line) => lines.push(line), false)
    const record: TrainRecord = {
      kind: 'train',
      step: 0,
      epoch: 0,
      loss: 2,
      accuracy: 0.5,
      gradNorm: 1,
      learningRate: 0.1,
      imagesPerSecond: 5,
      seconds: 2,
    }
    for (const step of [0, 1, 2]) progress.step({ ...record, step })
    progress.evaluation({ kind: 'eval', step: 3, epoch: 1, loss: 1, accuracy: 0.75, images: 20, seconds: 6 })
    progress.stop()
    expect(lines).toEqual([
      'step 1/3, loss 2.000, accuracy 50.0 %, 5 images/s, 4 s left',
      'step 3/3, loss 2.000, accuracy 50.0 %, 5 images/s, 0 s left',
      'step 3: test accuracy 75.0 %, loss 1.000 (20 images)',
    ])
  })
})

it.each([
  [0.4, '0 s'],
  [65, '1 min 05 s'],
  [3660, '1 h 01 min'],
  [Number.NaN, '?'],
])('a duration of %d s is %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text)
})
