/** The study's chart: accuracy against the time that training takes. */
import { lineBetween, linearTicks, svgDocument, textAt, verticalText } from '../svg.js'
import { percent, type Summary } from './results.js'

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [900, 520, 64, 280, 24, 52]
const RADIUS = 9

/** Hue and lightness by family, so that relatives look alike. */
function colourOf(system: string): string {
  if (system === 'dense') return '#7f7f7f'
  if (system === 'soft') return 'hsl(215 85% 50%)'
  if (system.startsWith('tokens-choice')) return 'hsl(24 90% 42%)'
  if (system.startsWith('experts-choice')) return 'hsl(140 70% 34%)'
  if (system.startsWith('sinkhorn')) return 'hsl(285 55% 45%)'
  if (system.startsWith('sparsity')) return 'hsl(345 75% 42%)'
  return 'hsl(205 30% 58%)' // the ablations of Soft MoE
}

interface Axis {
  readonly place: (value: number) => number
  readonly ticks: readonly number[]
}

function axisOf(values: readonly number[], from: number, to: number, ticks: number): Axis {
  const margin = (Math.max(...values) - Math.min(...values) || 1) * 0.06
  const [low, high] = [Math.min(...values) - margin, Math.max(...values) + margin]
  return {
    place: (value) => from + ((value - low) / (high - low)) * (to - from),
    ticks: linearTicks(low, high, ticks),
  }
}

/**
 * One numbered dot a system with the deviation over its seeds, in the order of accuracy.
 *
 * @param summaries - of systems with times, best first
 * @param steps - of each run
 */
export function chartOf(summaries: readonly Summary[], steps: number): string {
  const dots = summaries.flatMap(({ system, accuracy, deviation, time }, i) =>
    time === undefined
      ? []
      : [
          {
            system,
            number: i + 1,
            accuracy,
            deviation: deviation ?? 0,
            seconds: (time.millisecondsPerStep * steps) / 1000,
          },
        ],
  )
  const x = axisOf(
    dots.map(({ seconds }) => seconds),
    LEFT,
    WIDTH - RIGHT,
    6,
  )
  const y = axisOf(
    dots.flatMap(({ accuracy, deviation }) => [accuracy - deviation, accuracy + deviation]),
    HEIGHT - BOTTOM,
    TOP,
    8,
  )
  const [right, bottom] = [WIDTH - RIGHT, HEIGHT - BOTTOM]
  const grid = [
    ...x.ticks.flatMap((value) => [
      lineBetween(x.place(value), TOP, x.place(value), bottom, 'grid'),
      textAt(x.place(value), bottom + 18, String(value), 'middle'),
    ]),
    ...y.ticks.flatMap((value) => [
      lineBetween(LEFT, y.place(value), right, y.place(value), 'grid'),
      textAt(LEFT - 8, y.place(value) + 4, String(Number((100 * value).toFixed(6))), 'end'),
    ]),
    lineBetween(LEFT, TOP, LEFT, bottom, 'axis'),
    lineBetween(LEFT, bottom, right, bottom, 'axis'),
  ]
  const deviations = dots.map(({ system, seconds, accuracy, deviation }) => {
    const [high, low] = [y.place(accuracy + deviation), y.place(accuracy - deviation)]
    return `<path d="M${x.place(seconds).toFixed(1)} ${high.toFixed(1)}V${low.toFixed(1)}" stroke="${colourOf(system)}" stroke-width="2"/>`
  })
  const dot = (cx: number, cy: number, { system, number, accuracy }: (typeof dots)[number]): string[] => [
    `<circle cx="${cx.toFixed(1)}" cy="${cy.toFixed(1)}" r="${RADIUS}" fill="${colourOf(system)}">` +
      `<title>${system}: ${percent(accuracy)}</title></circle>`,
    textAt(cx, cy + 3.5, String(number), 'middle', 'on-mark'),
  ]
  const marks = dots.flatMap((own) => dot(x.place(own.seconds), y.place(own.accuracy), own))
  const legend = dots.flatMap((own, i) => {
    const top = TOP + 12 + 26 * i
    return [
      ...dot(right + 24, top, own),
      textAt(right + 40, top + 4, `${own.system} ${percent(own.accuracy)}`),
    ]
  })
  const title = 'test accuracy, %; bars: one standard deviation over the seeds'
  return svgDocument(WIDTH, HEIGHT, [
    ...grid,
    ...deviations,
    ...marks,
    ...legend,
    textAt((LEFT + right) / 2, HEIGHT - 12, `seconds of training (${steps} steps)`, 'middle'),
    verticalText(18, (TOP + bottom) / 2, title),
  ])
}
