'use strict'
// Draws the report's charts with uPlot, from the JSON in the page: again when the window or the colour scheme changes.
;(() => {
  const charts = JSON.parse(document.getElementById('charts').textContent)
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
  const runColour = (run) => css(`--run-${run % 8}`)
  const translucent = (colour, percent) => `color-mix(in srgb, ${colour} ${percent}%, transparent)`
  const HEIGHT = 220
  const FEW_POINTS = 20

  const formats = {
    number: (value) => Number(value.toPrecision(4)).toLocaleString('en'),
    percent: (value) => `${Number((100 * value).toPrecision(4))} %`,
    scientific: (value) => (value === 0 ? '0' : value.toExponential(2).replace('e-', 'e−')),
  }

  function seriesOptions(series, format) {
    const colour = () => runColour(series.run)
    const value = (_, number) => (number == null ? '' : format(number))
    const common = { label: series.label, value, spanGaps: true, points: { show: false } }
    switch (series.style) {
      case 'faint':
        return { ...common, stroke: () => translucent(colour(), 30), width: 1 }
      case 'points':
        return {
          ...common,
          stroke: colour,
          width: 1.5,
          dash: [5, 4],
          points: { show: true, size: 7, width: 2, stroke: colour, fill: () => css('--card') },
        }
      case 'bars':
        return {
          ...common,
          stroke: colour,
          width: 0,
          fill: () => translucent(colour(), 75),
          paths: uPlot.paths.bars({ size: [0.8, 60], gap: 1 }),
        }
      default:
        // Few values are marked: a single one would have no line.
        return {
          ...common,
          stroke: colour,
          width: 2,
          points: { show: series.x.length <= FEW_POINTS, size: 6, stroke: colour, fill: colour },
        }
    }
  }

  function axis(size, format) {
    return {
      stroke: () => css('--muted'),
      grid: { stroke: () => css('--line'), width: 1 },
      ticks: { stroke: () => css('--line'), width: 1, size: 5 },
      font: '12px system-ui, sans-serif',
      size,
      ...(format && { values: (_, values) => values.map((value) => (value == null ? '' : format(value))) }),
    }
  }

  function draw(chart) {
    const place = document.getElementById(chart.id)
    const format = formats[chart.format]
    const isBars = chart.series[0].style === 'bars'
    const tables = chart.series.map(({ x, y }) => [x, y])
    const data = tables.length === 1 ? tables[0] : uPlot.join(tables)
    const xValue = (_, value) => (value == null ? '' : Number(value.toPrecision(4)).toLocaleString('en'))
    const plot = new uPlot(
      {
        width: place.clientWidth,
        height: HEIGHT,
        cursor: isBars ? { y: false } : { y: false, sync: { key: 'steps' }, drag: { x: true, y: false } },
        scales: {
          x: { time: false, ...(isBars && barRange(data[0])) },
          y: { range: (_, least, most) => (isBars ? [0, most * 1.05] : lineRange(least, most)) },
        },
        legend: { live: true, markers: { width: 2 } },
        axes: [axis(34, (value) => value.toLocaleString('en')), axis(62, format)],
        series: [
          { label: chart.xLabel, value: xValue },
          ...chart.series.map((series) => seriesOptions(series, format)),
        ],
      },
      data,
      place,
    )
    new ResizeObserver(() => {
      if (place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height: HEIGHT })
    }).observe(place)
    return plot
  }

  /** Some room above and below; a line that is flat runs through the middle. */
  function lineRange(least, most) {
    if (least === most)
      return least === 0 ? [0, 1] : [least - Math.abs(least) / 2, least + Math.abs(least) / 2]
    return uPlot.rangeNum(least, most, 0.1, true)
  }

  /** Room for half a bar on either side. */
  function barRange(x) {
    const half = x.length > 1 ? (x[1] - x[0]) / 2 : 0.5
    return { range: [x[0] - half * 1.2, x[x.length - 1] + half * 1.2] }
  }

  const plots = charts.map(draw)
  const redraw = () => {
    for (const plot of plots) plot.redraw(false, true)
  }
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw)
  addEventListener('beforeprint', redraw)
})()
