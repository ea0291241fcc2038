/** What the runs of the study come to, and its table. */

/** One complete run. */
export interface Result {
  readonly system: string
  readonly placesPerToken: number
  readonly seed: number
  /** On the test set, 0 to 1. */
  readonly accuracy: number
  readonly loss: number
  /** Share of the tokens that no expert processed; null for routers that drop none. */
  readonly droppedFraction: number | null
}

/** What a system costs. */
export interface StepTime {
  readonly system: string
  /** Forward pass, backward pass and update. */
  readonly millisecondsPerStep: number
  /** Inference. */
  readonly millisecondsPerImage: number
}

/** The runs of a system together. */
export interface Summary {
  readonly system: string
  readonly placesPerToken: number
  readonly runs: number
  readonly accuracy: number
  /** Standard deviation over the seeds; null for a single one. */
  readonly deviation: number | null
  readonly droppedFraction: number | null
  readonly time: StepTime | undefined
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** Means over the seeds, best accuracy first. */
export function summarise(results: readonly Result[], times: readonly StepTime[]): Summary[] {
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
        deviation: own.length > 1 ? Math.sqrt(squares / (own.length - 1)) : null,
        droppedFraction: dropped.length === 0 ? null : mean(dropped),
        time: times.find((time) => time.system === system),
      }
    })
    .sort((a, b) => b.accuracy - a.accuracy)
}

/** A share with two decimals. */
export const percent = (share: number): string => `${(100 * share).toFixed(2)} %`

/** A table in Markdown: mean and deviation over the seeds. */
export function tableOf(summaries: readonly Summary[]): string {
  const rows = summaries.map(
    ({ system, placesPerToken, accuracy, deviation, runs, droppedFraction, time }) =>
      `| ${system} | ${placesPerToken} | ${percent(accuracy)}${deviation === null ? '' : ` ± ${percent(deviation)}`} | ${runs} | ` +
      `${droppedFraction === null ? '–' : percent(droppedFraction)} | ` +
      `${time?.millisecondsPerStep.toFixed(1) ?? '–'} | ${time?.millisecondsPerImage.toFixed(3) ?? '–'} |`,
  )
  const head = [
    '| router | places per token | test accuracy | seeds | tokens dropped | ms per step | ms per image |',
    '| --- | --- | --- | --- | --- | --- | --- |',
  ]
  return `${[...head, ...rows].join('\n')}\n`
}
