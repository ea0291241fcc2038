import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PNG } from 'pngjs'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Evaluation } from '../../lib/training/evaluation.js'
import { histogram, lineCharts, routerLineCharts, smooth, thin } from '../../lib/training/report-charts.js'
import { readRun, reportPage, writeReport } from '../../lib/training/report.js'
import { temporaryFolder } from '../data/temporary-folder.js'
import { chromium, look } from './chromium.js'
import { writeSampleRun } from './sample-run.js'

let root = ''
let evaluation: Evaluation
const folder = (name: string): string => join(root, name)

beforeAll(async () => {
  root = temporaryFolder()
  for (const name of ['soft', 'dense', 'index']) mkdirSync(folder(name))
  evaluation = await writeSampleRun(folder('soft'), { seed: 1 })
  await writeSampleRun(folder('dense'), { seed: 2, router: 'dense', finalAccuracy: 0.83, steps: 300 })
  await writeSampleRun(folder('index'), { seed: 3, router: 'index' })
})

describe('the numbers of the charts', () => {
  it('are thinned by averages, gaps where nothing is finite', () => {
    const count = 2500
    const x = Array.from({ length: count }, (_, step) => step)
    const thinned = thin(
      x,
      x.map((step) => (step < 3 ? Number.NaN : step)),
    )
    expect(thinned.x).toHaveLength(Math.ceil(count / 3))
    expect(thinned.y.slice(0, 3)).toEqual([null, 4, 7])
    expect(thin([5, 6], [1, 2])).toEqual({ x: [5, 6], y: [1, 2] })
  })

  it('are smoothed without bias at the start, across gaps', () => {
    expect(smooth([3, 3, Number.NaN, 3])).toEqual([3, 3, 3, 3])
    const noisy = smooth(Array.from({ length: 4000 }, (_, step) => (step % 2 ? 1 : -1)))
    expect(Math.abs(noisy[3999])).toBeLessThan(0.02)
  })

  it('count values into bins that hold all of them', () => {
    const { x, y } = histogram([0, 0.1, 0.9, 1], 4)
    expect(x).toEqual([0.125, 0.375, 0.625, 0.875])
    expect(y).toEqual([0.5, 0, 0, 0.5])
  })

  it('show every record of the metrics', async () => {
    const runs = [await readRun(folder('soft'))]
    const charts = [...lineCharts(runs), ...routerLineCharts(runs)]
    expect(charts.map(({ title }) => title)).toEqual([
      'Loss',
      'Accuracy',
      'Learning rate',
      'Gradient norm',
      'Images per second',
      'Entropy of the dispatch weights (1: uniform)',
      'Greatest load of an expert over the mean',
    ])
    const [train, , test] = charts[0].series
    expect(train.x).toHaveLength(600)
    expect(test.x).toEqual([100, 200, 300, 400, 500, 600])
    expect(charts[5].series.map(({ label }) => label)).toEqual(['layer 2', 'layer 3'])
  })
})

describe('the page', () => {
  it('is one file that loads nothing', async () => {
    const page = reportPage([await readRun(folder('soft'))])
    expect(page).not.toMatch(/<link|<script[^>]+src|@import|url\(/)
    const sources = [...page.matchAll(/\ssrc="([^"]{0,22})/g)].map(([, source]) => source)
    expect(new Set(sources)).toEqual(new Set(['data:image/png;base64,']))
    expect(page).toContain('87.00 %')
  })

  it('shows names of the data as text, whatever they contain', async () => {
    const run = await readRun(folder('soft'))
    const nasty = '</script><img src=x onerror=alert(1)>&"\''
    const classNames = [nasty, ...evaluation.classNames.slice(1)]
    const page = reportPage([{ ...run, name: nasty, evaluation: { ...evaluation, classNames } }, run])
    expect(page).not.toContain('<img src=x')
    expect(page.match(/<\/script>/g)).toHaveLength(3)
  })

  it('lists the worst confusions of many classes instead of a table', async () => {
    const run = await readRun(folder('dense'))
    const classNames = Array.from({ length: 100 }, (_, label) => `class ${label}`)
    const confusion = classNames.map((_, row) =>
      classNames.map((__, column): number => (row === column ? 90 : 0)),
    )
    confusion[7][9] = 10
    const page = reportPage([
      { ...run, evaluation: { ...evaluation, classNames, confusion, samples: [], routers: [] } },
    ])
    expect(page).toMatch(/class 7 → class 9\s*<b>10<\/b>/)
    expect(page).toContain('The 40 hardest of 100 classes.')
    expect(page).not.toContain('<table class="confusion">')
  })

  it('is written for a run that has only metrics, and for one that has only an evaluation', async () => {
    for (const [kept, content] of [
      ['metrics.jsonl', 'Loss'],
      ['evaluation.json', 'Confusion'],
    ]) {
      const bare = temporaryFolder()
      writeFileSync(join(bare, kept), readFileSync(join(folder('soft'), kept)))
      await writeReport([bare], join(bare, 'report.html'))
      expect(readFileSync(join(bare, 'report.html'), 'utf8')).toContain(content)
    }
  })

  it.each([
    ['a folder without a run', [], /neither metrics.jsonl nor evaluation.json/],
    ['no folder', [], /does not exist/],
    ['damaged metrics', [['metrics.jsonl', '{"kind":"train"}\n']], /line 1 is no metrics record/],
    ['an evaluation that is cut off', [['evaluation.json', '{"dataset":']], /is not JSON/],
    ['an evaluation of another shape', [['evaluation.json', '{"dataset":"x"}']], /classNames are no strings/],
    [
      'a configuration that is a list',
      [
        ['metrics.jsonl', ''],
        ['configuration.json', '[]'],
      ],
      /no JSON object/,
    ],
  ] as const)('is refused for %s', async (name, files, message) => {
    const made = name === 'no folder' ? join(root, 'nowhere') : temporaryFolder()
    for (const [file, content] of files) writeFileSync(join(made, file), content)
    await expect(writeReport([made], join(root, 'refused.html'))).rejects.toThrow(message)
  })

  it('is refused for no runs and for too many', async () => {
    await expect(writeReport([], 'x')).rejects.toThrow(/0 runs given/)
    await expect(writeReport(Array<string>(9).fill(folder('soft')), 'x')).rejects.toThrow(/9 runs given/)
  })
})

describe.skipIf(chromium === undefined)('the page in Chromium (skipped without it)', () => {
  it.each([
    ['one run', ['soft'], 11, 2],
    ['three runs', ['soft', 'dense', 'index'], 19, 4],
  ])('draws every chart and picture of %s', async (_, names, charts, layers) => {
    const file = join(root, `${names.join('-')}.html`)
    await writeReport(names.map(folder), file)
    const page = look(file, { scheme: 'light', width: 1240, height: 900 })
    expect(page.match(/<div class="uplot/g)).toHaveLength(charts)
    expect(page.match(/<canvas/g)).toHaveLength(charts)
    expect(page.match(/Layer\s+\d,\s+(soft|tokens-choice)\s+router/g)?.length).toBe(layers)
  })

  it.each([
    ['light', [246, 247, 249]],
    ['dark', [16, 20, 26]],
  ] as const)('is drawn for %s screens, curves included', async (scheme, background) => {
    const file = join(root, 'screen.html')
    const shot = join(root, `${scheme}.png`)
    await writeReport([folder('soft')], file)
    look(file, { scheme, width: 1240, height: 1200 }, shot)
    const { data, width, height } = PNG.sync.read(readFileSync(shot))
    expect([...data.subarray(0, 3)]).toEqual(background)
    const wanted = scheme === 'light' ? [37, 99, 235] : [110, 160, 255]
    let drawn = 0
    for (let at = 4 * width * 300; at < 4 * width * height; at += 4) {
      if (wanted.every((level, channel) => Math.abs(data[at + channel] - level) < 8)) drawn++
    }
    // The smoothed loss and accuracy alone are lines of about 450 pixels, 2 pixels wide.
    expect(drawn).toBeGreaterThan(1500)
  })
})
