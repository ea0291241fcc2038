/** `report.html`: one self-contained page about one run or several, for light and dark screens and for print. */
import { requireArray } from '../core/arguments.js'
import { readFileSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, join, resolve } from 'node:path'
import { SoftMoEError } from '../core/errors.js'
import { packageFile } from '../core/package-file.js'
import { fileError } from '../data/files.js'
import { writeTextAtomically } from './atomic-file.js'
import { readEvaluation } from './evaluation.js'
import { readMetrics } from './metrics.js'
import { lineCharts, routerLineCharts, type Chart, type ReportRun } from './report-charts.js'
import { Html, html, scriptJson } from './report-html.js'
import { routerCharts, routerPictures } from './report-routers.js'
import {
  classSection,
  configurationSection,
  confusionSection,
  evaluatedRuns,
  sampleSection,
  summarySection,
} from './report-sections.js'

/** Runs on one page; the page has a colour for each. */
const MAX_RUNS = 8

/** Reads what a run folder holds: `metrics.jsonl`, and if there `evaluation.json` and `configuration.json`. */
export async function readRun(folder: string): Promise<ReportRun> {
  const isFolder = await stat(folder).then(
    (found) => found.isDirectory(),
    (cause: unknown) => Promise.reject(fileError(folder, cause)),
  )
  if (!isFolder) throw new SoftMoEError('ERR_FILE_READ', `${folder} is no folder; give the folder of a run`)
  const optional = async <T>(reading: Promise<T>): Promise<T | undefined> => {
    try {
      return await reading
    } catch (error) {
      if (SoftMoEError.is(error) && error.code === 'ERR_FILE_NOT_FOUND') return undefined
      throw error
    }
  }
  const metrics = await optional(readMetrics(join(folder, 'metrics.jsonl')))
  const evaluation = await optional(readEvaluation(join(folder, 'evaluation.json')))
  const configuration = await optional(readConfiguration(join(folder, 'configuration.json')))
  if (!metrics && !evaluation) {
    throw new SoftMoEError(
      'ERR_FILE_NOT_FOUND',
      `${folder} holds neither metrics.jsonl nor evaluation.json; give the folder of a run`,
    )
  }
  return {
    name: basename(resolve(folder)),
    folder,
    metrics: metrics ?? [],
    evaluation,
    configuration: configuration ?? {},
  }
}

async function readConfiguration(path: string): Promise<Record<string, unknown>> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => Promise.reject(fileError(path, cause)))
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ...value }
  } catch (cause) {
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is not JSON; restore or remove it`, { cause })
  }
  throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is no JSON object; restore or remove it`)
}

/**
 * Writes the report of one run folder, or of several on one page.
 * @param folders the first run is drawn in the first colour; 1 to 8 folders
 * @param path the file to be written
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND` or `ERR_FILE_FORMAT` for a folder that holds no run or a damaged one,
 * `ERR_FILE_WRITE` when the page cannot be written
 */
export async function writeReport(folders: readonly string[], path: string): Promise<void> {
  requireArray('the folders of the runs', folders)
  if (folders.length < 1 || folders.length > MAX_RUNS) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${folders.length} runs given; a report shows 1 to ${MAX_RUNS}`,
    )
  }
  const runs: ReportRun[] = []
  for (const folder of folders) runs.push(await readRun(folder))
  await writeTextAtomically(path, reportPage(distinctNames(runs)))
}

/** Runs of equal name are told apart by their number. */
function distinctNames(runs: readonly ReportRun[]): ReportRun[] {
  const isRepeated = (name: string): boolean => runs.filter((run) => run.name === name).length > 1
  return runs.map((run, index) =>
    isRepeated(run.name) ? { ...run, name: `${run.name} (${index + 1})` } : run,
  )
}

/** The page as text. */
export function reportPage(runs: readonly ReportRun[]): string {
  const evaluated = evaluatedRuns(runs)
  const curves = lineCharts(runs)
  const routerCurves = routerLineCharts(runs)
  const routers = evaluated.flatMap((run) =>
    run.evaluation.routers.map((router) => {
      const prefix = `run-${run.position}-layer-${router.layer}`
      return { run, router, charts: routerCharts(router, run.position, prefix) }
    }),
  )
  const charts = [...curves, ...routerCurves, ...routers.flatMap((section) => section.charts)]
  const title = `softmoe: ${runs.map(({ name }) => name).join(', ')}`
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${title}</title>
        <style>
          ${asset('uPlot.min.css')}
          ${asset('style.css')}
        </style>
      </head>
      <body>
        <main>
          <header>
            <h1>${runs.length > 1 ? `Comparison of ${runs.length} runs` : 'Training report'}</h1>
            <p class="note">
              ${[...new Set(evaluated.map(({ evaluation }) => evaluation.dataset))].join(', ')}
            </p>
          </header>
          ${summarySection(runs)} ${curveSection('Curves', curves)}
          <div class="${runs.length === 1 ? 'pair' : ''}">
            ${classSection(evaluated)} ${confusionSection(evaluated)}
          </div>
          ${sampleSection(evaluated)}
          ${routers.map(
            ({ run, router, charts: own }) =>
              html`<section>
                <h2 class="run-${run.position}">
                  ${runs.length > 1 ? html`<span class="swatch"></span>${run.name}: ` : html``}Layer
                  ${router.layer}, ${router.router} router, ${router.numExperts} experts
                </h2>
                ${chartPlaces(own)} ${routerPictures(router, run.evaluation)}
              </section>`,
          )}
          ${curveSection('Routers over training', routerCurves)} ${configurationSection(runs)}
        </main>
        <script>
          ${asset('uPlot.iife.min.js')}
        </script>
        <script id="charts" type="application/json">
          ${scriptJson(charts)}
        </script>
        <script>
          ${asset('client.js')}
        </script>
      </body>
    </html> `
  return page.text
}

function curveSection(title: string, charts: readonly Chart[]): Html {
  if (charts.length === 0) return html``
  return html`<section>
    <h2>${title}</h2>
    <noscript>The curves need JavaScript.</noscript>${chartPlaces(charts)}
  </section>`
}

function chartPlaces(charts: readonly Chart[]): Html {
  return html`<div class="charts">
    ${charts.map(
      ({ id, title }) =>
        html`<figure class="chart">
          <figcaption>${title}</figcaption>
          <div id="${id}"></div>
        </figure>`,
    )}
  </div>`
}

/** The page's own files lie in the package; uPlot's in its installed package. */
function asset(name: 'style.css' | 'client.js' | 'uPlot.min.css' | 'uPlot.iife.min.js'): Html {
  const file = name.startsWith('uPlot')
    ? createRequire(packageFile('package.json')).resolve(`uplot/dist/${name}`)
    : packageFile('assets', 'report', name)
  try {
    return new Html(readFileSync(file, 'utf8'))
  } catch (cause) {
    throw fileError(file, cause)
  }
}
