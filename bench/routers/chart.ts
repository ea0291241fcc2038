/** The study's chart: accuracy against the time that training takes. */
import { percent, type Summary } from './results.js'

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [900, 520, 64, 280, 24, 52]
const RADIUS = 9

/** Hue and lightness by family, so that relatives look alike. */
function colourOf(system: string): string {
  if (system === 'dense') return '#333'
  if (system === 'soft') return 'hsl(215 85% 40%)'
  if (system.startsWith('tokens-choice')) return 'hsl(24 90% 42%)'
  if (system.startsWith('experts-choice')) return 'hsl(140 70% 30%)'
  if (system.startsWith('sinkhorn')) return 'hsl(285 55% 45%)'
  if (system.startsWith('sparsity')) return 'hsl(345 75% 42%)'
  return 'hsl(205 30% 58%)' // the ablations of Soft MoE
}

/** Round numbers from `low` to `high`, about `count` of them. */
function ticksOf(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10)
  const first = Math.ceil(low / step)
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step)
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
    ticks: ticksOf(low, high, ticks),
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
  const grid = [
    ...x.ticks.map((value) => {
      const at = x.place(value).toFixed(1)
      return (
        `<path d="M${at} ${TOP}V${HEIGHT - BOTTOM}" stroke="#e6e6e6"/>` +
        `<text x="${at}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${Number(value.toFixed(6))}</text>`
      )
    }),
    ...y.ticks.map((value) => {
      const at = y.place(value)
      return (
        `<path d="M${LEFT} ${at.toFixed(1)}H${WIDTH - RIGHT}" stroke="#e6e6e6"/>` +
        `<text x="${LEFT - 8}" y="${(at + 4).toFixed(1)}" text-anchor="end">${Number((100 * value).toFixed(6))}</text>`
      )
    }),
  ]
  const bars = dots.map(({ system, seconds, accuracy, deviation }) => {
    const [top, bottom] = [y.place(accuracy + deviation), y.place(accuracy - deviation)]
    return `<path d="M${x.place(seconds).toFixed(1)} ${top.toFixed(1)}V${bottom.toFixed(1)}" stroke="${colourOf(system)}" stroke-width="2"/>`
  })
  const marks = dots.map(({ system, number, seconds, accuracy }) => {
    const [cx, cy] = [x.place(seconds), y.place(accuracy)]
    return (
      `<circle cx="${cx.toFixed(1)}" cy="${cy.toFixed(1)}" r="${RADIUS}" fill="${colourOf(system)}" stroke="white">` +
      `<title>${system}: ${percent(accuracy)}</title></circle>` +
      `<text x="${cx.toFixed(1)}" y="${(cy + 3.5).toFixed(1)}" text-anchor="middle" font-size="10" fill="white">${number}</text>`
    )
  })
  const legend = dots.map(({ system, number, accuracy }, i) => {
    const top = TOP + 12 + 26 * i
    return (
      `<circle cx="${WIDTH - RIGHT + 24}" cy="${top}" r="${RADIUS}" fill="${colourOf(system)}"/>` +
      `<text x="${WIDTH - RIGHT + 24}" y="${top + 3.5}" text-anchor="middle" font-size="10" fill="white">${number}</text>` +
      `<text x="${WIDTH - RIGHT + 40}" y="${top + 4}">${system} ${percent(accuracy)}</text>`
    )
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
${grid.join('\n')}
<path d="M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}" fill="none" stroke="#666"/>
${[...bars, ...marks, ...legend].join('\n')}
<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 12}" text-anchor="middle">seconds of training (${steps} steps)</text>
<text transform="translate(18 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">test accuracy, %; bars: one standard deviation over the seeds</text>
</svg>
`
}
