/** The report's sections besides its charts: summary, classes, confusion, sample predictions, configuration. */
import { PNG } from 'pngjs'
import type { Evaluation, SamplePrediction } from './evaluation.js'
import type { ReportRun } from './report-charts.js'
import { html, percent, type Html } from './report-html.js'

const MAX_CLASSES_IN_TABLE = 20
const MAX_CLASSES_LISTED = 40
const MAX_CONFUSIONS = 15

/** The page's tiles: what one wants to know first of each run. */
export function summarySection(runs: readonly ReportRun[]): Html {
  const rows = runs.map((run, index) => {
    const evals = run.metrics.filter((record) => record.kind === 'eval')
    const trains = run.metrics.filter((record) => record.kind === 'train')
    const last = trains.at(-1)
    const accuracies = [...evals.map(({ accuracy }) => accuracy), run.evaluation?.accuracy ?? 0]
    const final = run.evaluation?.accuracy ?? evals.at(-1)?.accuracy
    const speed = median(trains.map(({ imagesPerSecond }) => imagesPerSecond))
    const tiles = [
      final === undefined ? undefined : ['Test accuracy', percent(final, 2)],
      evals.length > 1 ? ['Best on the way', percent(Math.max(...accuracies), 2)] : undefined,
      last ? ['Steps', String(last.step + 1)] : undefined,
      last ? ['Epochs', last.epoch.toFixed(1)] : undefined,
      last ? ['Training time', duration(last.seconds)] : undefined,
      speed === undefined ? undefined : ['Images/s, median', Math.round(speed).toLocaleString('en')],
      run.evaluation ? ['Test, ms/image', run.evaluation.millisecondsPerImage.toPrecision(3)] : undefined,
    ].filter((tile) => tile !== undefined)
    return html`<div class="run run-${index}">
      <h2><span class="swatch"></span>${run.name}</h2>
      <dl class="tiles">
        ${tiles.map(
          ([name, value]) =>
            html`<div>
              <dt>${name}</dt>
              <dd>${value}</dd>
            </div>`,
        )}
      </dl>
    </div>`
  })
  return html`<section class="summary">${rows}</section>`
}

function median(values: readonly number[]): number | undefined {
  return [...values].sort((a, b) => a - b).at(Math.floor(values.length / 2))
}

/** 3,725 s → `1 h 2 min`. */
export function duration(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}

/** Share of the images of each class that were recognised; undefined for a class without images. */
export function classAccuracies({ confusion }: Evaluation): (number | undefined)[] {
  return confusion.map((row, label) => {
    const images = row.reduce((sum, count) => sum + count, 0)
    return images > 0 ? row[label] / images : undefined
  })
}

interface EvaluatedRun extends ReportRun {
  readonly evaluation: Evaluation
  readonly position: number
}

/** The runs that have an evaluation, with their place among all. */
export function evaluatedRuns(runs: readonly ReportRun[]): EvaluatedRun[] {
  return runs.flatMap((run, position) =>
    run.evaluation ? [{ ...run, evaluation: run.evaluation, position }] : [],
  )
}

/** Bars of per-class accuracy, all runs side by side, for runs that share the classes of the first. */
export function classSection(runs: readonly EvaluatedRun[]): Html {
  if (runs.length === 0) return html``
  const { classNames } = runs[0].evaluation
  const comparable = runs.filter(
    ({ evaluation }) => evaluation.classNames.join('\n') === classNames.join('\n'),
  )
  const accuracies = comparable.map(({ evaluation }) => classAccuracies(evaluation))
  const order = classNames
    .map((name, label) => ({ name, label, accuracy: accuracies[0][label] ?? 1 }))
    .sort((a, b) => (classNames.length > MAX_CLASSES_IN_TABLE ? a.accuracy - b.accuracy : 0))
    .slice(0, MAX_CLASSES_LISTED)
  const note =
    classNames.length > order.length
      ? html`<p class="note">The ${order.length} hardest of ${classNames.length} classes.</p>`
      : html``
  return html`<section>
    <h2>Accuracy by class</h2>
    ${note}
    <div class="bars">
      ${order.map(
        ({ name, label }) =>
          html`<div class="bar-name">${name}</div>
            <div class="bar-group">
              ${comparable.map(({ position }, index) => {
                const accuracy = accuracies[index][label]
                if (accuracy === undefined) return html`<div class="bar-empty">no images</div>`
                return html`<div class="bar run-${position}">
                  <span class="track"><span style="width:${(100 * accuracy).toFixed(2)}%"></span></span
                  ><b>${percent(accuracy)}</b>
                </div>`
              })}
            </div>`,
      )}
    </div>
  </section>`
}

/** The confusion matrix of each run: a table for few classes, a picture and a list for many. */
export function confusionSection(runs: readonly EvaluatedRun[]): Html {
  if (runs.length === 0) return html``
  return html`<section>
    <h2>Confusion</h2>
    <p class="note">Rows: true class; columns: prediction; shades: share of the row.</p>
    <div class="confusions">
      ${runs.map(({ name, evaluation, position }) => {
        const title =
          runs.length > 1
            ? html`<h3 class="run-${position}"><span class="swatch"></span>${name}</h3>`
            : html``
        const isSmall = evaluation.classNames.length <= MAX_CLASSES_IN_TABLE
        const matrix = isSmall ? confusionTable(evaluation) : confusionPicture(evaluation)
        return html`<div>${title}${matrix}</div>`
      })}
    </div>
  </section>`
}

function confusionTable({ confusion, classNames }: Evaluation): Html {
  return html`<div class="scroll">
    <table class="confusion">
      <thead>
        <tr>
          <th></th>
          ${classNames.map((name) => html`<th scope="col"><span>${name}</span></th>`)}
        </tr>
      </thead>
      <tbody>
        ${confusion.map((row, label) => {
          const images = Math.max(
            1,
            row.reduce((sum, count) => sum + count, 0),
          )
          return html`<tr>
            <th scope="row">${classNames[label]}</th>
            ${row.map((count, column) => {
              const share = count / images
              const kind = column === label ? 'right' : 'wrong'
              // Small shares of errors are what one looks for: the root makes them visible.
              const shade = (100 * (column === label ? share : Math.sqrt(share))).toFixed(0)
              const title = `${classNames[label]} taken for ${classNames[column]}: ${count} of ${images}, ${percent(share)}`
              return html`<td class="${kind}" style="--shade:${shade}%" title="${title}">
                ${count > 0 ? count : ''}
              </td>`
            })}
          </tr>`
        })}
      </tbody>
    </table>
  </div>`
}

function confusionPicture({ confusion, classNames }: Evaluation): Html {
  const size = classNames.length
  const png = new PNG({ width: size, height: size })
  const errors: { label: number; column: number; count: number }[] = []
  confusion.forEach((row, label) => {
    const images = Math.max(
      1,
      row.reduce((sum, count) => sum + count, 0),
    )
    row.forEach((count, column) => {
      const colour = label === column ? [37, 99, 235] : [234, 88, 12]
      png.data.set([...colour, Math.round(255 * Math.sqrt(count / images))], 4 * (label * size + column))
      if (label !== column && count > 0) errors.push({ label, column, count })
    })
  })
  const worst = errors.sort((a, b) => b.count - a.count).slice(0, MAX_CONFUSIONS)
  const source = `data:image/png;base64,${PNG.sync.write(png).toString('base64')}`
  return html`<div class="confusion-picture">
    <img class="pixels" src="${source}" alt="confusion matrix of ${size} classes" />
    <ol>
      ${worst.map(({ label, column, count }) => html`<li>${classNames[label]} → ${classNames[column]} <b>${count}</b></li>`)}
    </ol>
  </div>`
}

/** Cards with sample images: the true class, and the three likeliest predictions. */
export function sampleSection(runs: readonly EvaluatedRun[]): Html {
  const shown = runs.filter(({ evaluation }) => evaluation.samples.length > 0)
  if (shown.length === 0) return html``
  return html`<section>
    <h2>Sample predictions</h2>
    ${shown.map(({ name, evaluation, position }) => {
      const title =
        shown.length > 1 ? html`<h3 class="run-${position}"><span class="swatch"></span>${name}</h3>` : html``
      return html`${title}
        <div class="cards">
          ${evaluation.samples.map((sample) => sampleCard(sample, evaluation.classNames))}
        </div>`
    })}
  </section>`
}

function sampleCard(
  { index, label, probabilities, png }: SamplePrediction,
  classNames: readonly string[],
): Html {
  const likeliest = probabilities
    .map((probability, guess) => ({ probability, guess }))
    .sort((a, b) => b.probability - a.probability)
    .slice(0, 3)
  const isRight = likeliest[0].guess === label
  return html`<figure class="card ${isRight ? 'is-right' : 'is-wrong'}">
    <img
      class="pixels"
      src="data:image/png;base64,${png}"
      alt="test image ${index}"
      title="test image ${index}"
    />
    <figcaption>
      <strong>${classNames[label]}</strong>
      <span class="verdict"
        >${isRight ? '✓ recognised' : `✗ taken for ${classNames[likeliest[0].guess]}`}</span
      >
      ${likeliest.map(
        ({ probability, guess }) =>
          html`<span class="guess${guess === label ? ' is-label' : ''}"
            ><i style="width:${(100 * probability).toFixed(1)}%"></i><span>${classNames[guess]}</span
            ><b>${percent(probability, 0)}</b></span
          >`,
      )}
    </figcaption>
  </figure>`
}

/** The configuration of each run; settings in which the runs differ are marked. */
export function configurationSection(runs: readonly ReportRun[]): Html {
  const flattened = runs.map(({ configuration }) => flatten(configuration))
  const names = [...new Set(flattened.flatMap((settings) => [...settings.keys()]))]
  if (names.length === 0) return html``
  return html`<section>
    <h2>Configuration</h2>
    <div class="scroll">
      <table class="configuration">
        <thead>
          <tr>
            <th></th>
            ${runs.map(({ name }, index) => html`<th class="run-${index}"><span class="swatch"></span>${name}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${names.map((name) => {
            const values = flattened.map((settings) => settings.get(name) ?? '–')
            const differs = new Set(values).size > 1
            return html`<tr class="${differs ? 'differs' : ''}">
              <th scope="row">${name}</th>
              ${values.map((value) => html`<td>${value}</td>`)}
            </tr>`
          })}
        </tbody>
      </table>
    </div>
  </section>`
}

function flatten(value: unknown, prefix = '', into = new Map<string, string>()): Map<string, string> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    for (const [key, inner] of Object.entries(value))
      flatten(inner, prefix === '' ? key : `${prefix}.${key}`, into)
  } else {
    into.set(prefix, typeof value === 'string' ? value : JSON.stringify(value))
  }
  return into
}
