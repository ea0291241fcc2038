/** A small writer of SVG charts that are readable on light and dark pages: their parts, bars in groups, and lines on log scales. */

/** Distinguishable in both schemes, also for the colour-blind (after Okabe and Ito). */
const COLOURS = ['#2b8cc4', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9'] as const

const STYLE = `text{fill:#222;font:12px sans-serif}.title{font-size:15px;font-weight:600}.faint{fill:#666}
.grid{stroke:#ddd}.axis{stroke:#888}.mark{stroke:#222;stroke-dasharray:4 3}.page{fill:#fff}.on-mark{fill:#fff;font-size:10px}
@media (prefers-color-scheme:dark){text:not(.on-mark){fill:#e6e6e6}.faint{fill:#a0a0a0}.grid{stroke:#383838}.axis{stroke:#888}
.mark{stroke:#e6e6e6}.page{fill:#161616}}`

export const escapeXml = (text: string): string =>
  text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)

const colourOf = (index: number): string => COLOURS[index % COLOURS.length] ?? COLOURS[0]
const fixed = (value: number): string => value.toFixed(1)

/** A whole document. */
export function svgDocument(width: number, height: number, parts: readonly string[]): string {
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">\n` +
    `<style>${STYLE}</style>\n<rect class="page" width="100%" height="100%"/>\n${parts.join('\n')}\n</svg>\n`
  )
}

/** Where a text stands to its place. */
export type Anchor = 'start' | 'middle' | 'end'

/** `style` is one of the classes of the style sheet. */
export function textAt(x: number, y: number, text: string, anchor: Anchor = 'start', style = ''): string {
  return `<text x="${fixed(x)}" y="${fixed(y)}" text-anchor="${anchor}"${style && ` class="${style}"`}>${escapeXml(text)}</text>`
}

export function lineBetween(x1: number, y1: number, x2: number, y2: number, style: string): string {
  return `<line x1="${fixed(x1)}" y1="${fixed(y1)}" x2="${fixed(x2)}" y2="${fixed(y2)}" class="${style}"/>`
}

/** Coloured squares with names, in one line. */
function legend(names: readonly string[], x: number, y: number): string[] {
  let at = x
  return names.flatMap((name, i) => {
    const parts = [
      `<rect x="${fixed(at)}" y="${fixed(y - 10)}" width="11" height="11" fill="${colourOf(i)}"/>`,
      textAt(at + 16, y, name),
    ]
    at += 16 + 7.2 * name.length + 14
    return parts
  })
}

/** A name along the vertical axis, centred at `y`. */
export function verticalText(x: number, y: number, text: string): string {
  return `<text transform="translate(${fixed(x)} ${fixed(y)}) rotate(-90)" text-anchor="middle">${escapeXml(text)}</text>`
}

/** Round numbers from `low` to `high`, about `count` of them. */
export function linearTicks(low: number, high: number, count = 5): number[] {
  const rough = (high - low) / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10)
  const first = Math.ceil(low / step - 1e-9)
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  )
}

/** 1, 2 and 5 times the powers of ten between two numbers. */
export function logTicks(low: number, high: number): number[] {
  const ticks: number[] = []
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of [1, 2, 5]) {
      const value = Number((factor * 10 ** power).toPrecision(12))
      if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) ticks.push(value)
    }
  }
  return ticks
}

/** Bars side by side in groups. */
export interface BarChart {
  readonly title: string
  readonly subtitle: string
  /** Names of the bars of a group. */
  readonly series: readonly string[]
  /** `values[i]` belongs to `series[i]`; null draws nothing. */
  readonly groups: readonly { readonly name: string; readonly values: readonly (number | null)[] }[]
  readonly format: (value: number) => string
  /** A line across, with its name. */
  readonly mark?: { readonly value: number; readonly name: string }
}

export function barChart({ title, subtitle, series, groups, format, mark }: BarChart): string {
  const [width, left, right, top, barHeight, gap] = [900, 330, 70, 92, 15, 12]
  const rowsOf = (values: readonly (number | null)[]): number =>
    Math.max(1, values.filter((value) => value !== null).length)
  const height = top + groups.reduce((sum, { values }) => sum + rowsOf(values) * barHeight + gap, 0) + 36
  const most = Math.max(
    mark?.value ?? 0,
    ...groups.flatMap(({ values }) => values.map((value) => value ?? 0)),
    1e-9,
  )
  const x = (value: number): number => left + (value / most) * (width - left - right)
  const parts = [textAt(20, 28, title, 'start', 'title'), textAt(20, 48, subtitle, 'start', 'faint')]
  if (series.length > 1) parts.push(...legend(series, 20, 72))
  for (const tick of linearTicks(0, most)) {
    parts.push(lineBetween(x(tick), top - 6, x(tick), height - 30, 'grid'))
    parts.push(textAt(x(tick), height - 12, format(tick), 'middle', 'faint'))
  }
  if (mark !== undefined) {
    parts.push(lineBetween(x(mark.value), top - 10, x(mark.value), height - 30, 'mark'))
    parts.push(textAt(x(mark.value), top - 14, mark.name, 'middle', 'faint'))
  }
  let y = top
  for (const { name, values } of groups) {
    const middle = y + (rowsOf(values) * barHeight) / 2
    parts.push(textAt(left - 10, middle + 4, name, 'end'))
    for (const [i, value] of values.entries()) {
      if (value === null) continue
      const end = fixed(x(value) - left)
      parts.push(
        `<rect x="${left}" y="${fixed(y + 1)}" width="${end}" height="${barHeight - 2}" fill="${colourOf(i)}"/>`,
        textAt(x(value) + 5, y + barHeight - 4, format(value)),
      )
      y += barHeight
    }
    if (values.every((value) => value === null)) y += barHeight
    y += gap
  }
  parts.push(lineBetween(left, top - 6, left, height - 30, 'axis'))
  return svgDocument(width, height, parts)
}

/** Lines over x, both axes logarithmic. */
export interface LineChart {
  readonly title: string
  readonly subtitle: string
  readonly xLabel: string
  readonly yLabel: string
  readonly series: readonly {
    readonly name: string
    readonly dashed: boolean
    /** Number of the colour. */
    readonly colour: number
    readonly points: readonly (readonly [number, number])[]
  }[]
}

export function lineChart({ title, subtitle, xLabel, yLabel, series }: LineChart): string {
  const [width, height, left, right, top, bottom] = [900, 480, 80, 200, 70, 56]
  const points = series.flatMap((line) => line.points)
  const extent = (values: readonly number[]): [number, number] => [Math.min(...values), Math.max(...values)]
  const [xLow, xHigh] = extent(points.map(([x]) => x))
  const [lowest, highest] = extent(points.map(([, y]) => y))
  const [yLow, yHigh] = [lowest / 1.2, highest * 1.2]
  const scale =
    (low: number, high: number, from: number, to: number) =>
    (value: number): number =>
      from + (Math.log(value / low) / Math.log(high / low || 2)) * (to - from)
  const x = scale(xLow, xHigh, left, width - right)
  const y = scale(yLow, yHigh, height - bottom, top)
  const parts = [textAt(20, 28, title, 'start', 'title'), textAt(20, 48, subtitle, 'start', 'faint')]
  for (const tick of logTicks(yLow, yHigh)) {
    parts.push(lineBetween(left, y(tick), width - right, y(tick), 'grid'))
    parts.push(textAt(left - 8, y(tick) + 4, String(tick), 'end', 'faint'))
  }
  for (const value of new Set(points.map(([at]) => at))) {
    parts.push(textAt(x(value), height - bottom + 18, String(value), 'middle', 'faint'))
  }
  for (const { name, dashed, colour, points: own } of series) {
    const path = own
      .map(([at, value], i) => `${i === 0 ? 'M' : 'L'}${fixed(x(at))} ${fixed(y(value))}`)
      .join('')
    const dashes = dashed ? ' stroke-dasharray="5 4"' : ''
    parts.push(`<path d="${path}" fill="none" stroke="${colourOf(colour)}" stroke-width="2"${dashes}/>`)
    if (!dashed) {
      parts.push(
        ...own.map(
          ([at, value]) =>
            `<circle cx="${fixed(x(at))}" cy="${fixed(y(value))}" r="3.5" fill="${colourOf(colour)}"/>`,
        ),
      )
    }
    const last = own.at(-1)
    if (last !== undefined) parts.push(textAt(x(last[0]) + 10, y(last[1]) + 4, name))
  }
  parts.push(lineBetween(left, top, left, height - bottom, 'axis'))
  parts.push(lineBetween(left, height - bottom, width - right, height - bottom, 'axis'))
  parts.push(textAt((left + width - right) / 2, height - 14, xLabel, 'middle'))
  parts.push(verticalText(22, (top + height - bottom) / 2, yLabel))
  return svgDocument(width, height, parts)
}
