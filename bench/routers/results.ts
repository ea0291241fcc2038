/** The study's table and chart. */

/** One complete run. */
export interface Result {
  readonly system: string
  readonly placesPerToken: number
  readonly seed: number
  /** On the test set, 0 to 1. */
  readonly accuracy: number
  readonly loss: number
  readonly millisecondsPerImage: number
  /** Time trained. */
  readonly seconds: number
  /** Share of the tokens that no expert processed; null for routers that drop none. */
  readonly droppedFraction: number | null
}

interface Summary {
  readonly system: string
  readonly placesPerToken: number
  readonly runs: number
  readonly accuracy: number
  readonly deviation: number
  readonly minutes: number
  readonly millisecondsPerImage: number
  readonly droppedFraction: number | null
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** Means over the seeds, best accuracy first. */
function summarise(results: readonly Result[]): Summary[] {
  return [...new Set(results.map(({ system }) => system))]
    .map((system) => {
      const own = results.filter((result) => result.system === system)
      const accuracies = own.map(({ accuracy }) => accuracy)
      const accuracy = mean(accuracies)
      const squares = accuracies.reduce((sum, value) => sum + (value - accuracy) ** 2, 0)
      const dropped = own.flatMap(({ droppedFraction }) => droppedFraction ?? [])
      return {
        system,
        placesPerToken: own[0]?.placesPerToken ?? Number.NaN,
        runs: own.length,
        accuracy,
        deviation: own.length > 1 ? Math.sqrt(squares / (own.length - 1)) : 0,
        minutes: mean(own.map(({ seconds }) => seconds)) / 60,
        millisecondsPerImage: mean(own.map(({ millisecondsPerImage }) => millisecondsPerImage)),
        droppedFraction: dropped.length === 0 ? null : mean(dropped),
      }
    })
    .sort((a, b) => b.accuracy - a.accuracy)
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`

/** A table in Markdown: mean and deviation over the seeds. */
export function tableOf(results: readonly Result[]): string {
  const rows = summarise(results).map(
    (row) =>
      `| ${row.system} | ${row.placesPerToken} | ${percent(row.accuracy)} ± ${percent(row.deviation)} | ${row.runs} | ` +
      `${row.minutes.toFixed(1)} | ${row.millisecondsPerImage.toFixed(3)} | ` +
      `${row.droppedFraction === null ? '–' : percent(row.droppedFraction)} |`,
  )
  const head = [
    '| router | places per token | test accuracy | seeds | minutes trained | ms per image | tokens dropped |',
    '| --- | --- | --- | --- | --- | --- | --- |',
  ]
  return `${[...head, ...rows].join('\n')}\n`
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [860, 520, 70, 210, 20, 50]

/** Accuracy against training time: a dot a run, a name at each system's mean. */
export function chartOf(results: readonly Result[]): string {
  const summaries = summarise(results)
  const scaleOf = (values: readonly number[], from: number, to: number): ((value: number) => number) => {
    const [low, high] = [Math.min(...values), Math.max(...values)]
    const margin = (high - low || Math.abs(high) || 1) * 0.08
    return (value) => from + ((value - low + margin) / (high - low + 2 * margin)) * (to - from)
  }
  const x = scaleOf(
    results.map(({ seconds }) => seconds / 60),
    LEFT,
    WIDTH - RIGHT,
  )
  const y = scaleOf(
    results.map(({ accuracy }) => accuracy),
    HEIGHT - BOTTOM,
    TOP,
  )
  const colour = (system: string): string =>
    `hsl(${Math.round(summaries.findIndex((row) => row.system === system) * 137.508) % 360} 65% 42%)`
  const dots = results.map(
    ({ system, seconds, accuracy }) =>
      `<circle cx="${x(seconds / 60).toFixed(1)}" cy="${y(accuracy).toFixed(1)}" r="4" fill="${colour(system)}" ` +
      `fill-opacity="0.75"><title>${system}: ${percent(accuracy)}</title></circle>`,
  )
  const ticks = (values: readonly number[]): number[] => {
    const [low, high] = [Math.min(...values), Math.max(...values)]
    return [0, 1, 2, 3, 4].map((i) => low + ((high - low) * i) / 4)
  }
  const xTicks = ticks(results.map(({ seconds }) => seconds / 60)).map(
    (value) =>
      `<text x="${x(value).toFixed(1)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${value.toFixed(1)}</text>`,
  )
  const yTicks = ticks(results.map(({ accuracy }) => accuracy)).map(
    (value) =>
      `<text x="${LEFT - 8}" y="${(y(value) + 4).toFixed(1)}" text-anchor="end">${(100 * value).toFixed(1)}</text>`,
  )
  const legend = summaries.map(
    ({ system, accuracy }, i) =>
      `<text x="${WIDTH - RIGHT + 16}" y="${TOP + 16 + 20 * i}" fill="${colour(system)}">${system} ${percent(accuracy)}</text>`,
  )
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<path d="M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}" fill="none" stroke="#888"/>
${[...xTicks, ...yTicks, ...dots, ...legend].join('\n')}
<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 10}" text-anchor="middle">minutes trained</text>
<text transform="translate(16 ${HEIGHT / 2}) rotate(-90)" text-anchor="middle">test accuracy, %</text>
</svg>
`
}
