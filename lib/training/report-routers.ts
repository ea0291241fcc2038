/**
 * Pictures of what a router did to sample images: for soft routers the dispatch weights of the slots over the image and
 * the combine weights of the tokens (Soft MoE, figures 1 and 9), for routers by index the expert of each patch.
 */
import { PNG } from 'pngjs'
import type { Evaluation, IndexRouterPicture, RouterPicture, SoftRouterPicture } from './evaluation.js'
import { histogram, type Chart } from './report-charts.js'
import { Html, html, percent } from './report-html.js'

/** Slots drawn of each sample: those with the greatest combine weight. */
const MAX_SLOTS = 16
const MAX_SAMPLES = 6
const HEAT_COLOUR = [255, 92, 16] as const
const HISTOGRAM_BINS = 40

/** One pixel a value: the colour, as opaque as the value is near the greatest. */
function heatPng(rows: number, columns: number, values: readonly number[]): string {
  const greatest = values.reduce((most, value) => Math.max(most, value), 0)
  const png = new PNG({ width: columns, height: rows })
  values.forEach((value, at) => {
    const opacity = greatest > 0 ? value / greatest : 0
    png.data.set([...HEAT_COLOUR, Math.round(255 * Math.max(0, opacity))], 4 * at)
  })
  return dataUrl(png)
}

function dataUrl(png: PNG): string {
  return `data:image/png;base64,${PNG.sync.write(png).toString('base64')}`
}

function picture(png: string, overlay: string, title: string): Html {
  return html`<span class="overlaid" title="${title}"
    ><img src="data:image/png;base64,${png}" alt="" /><img src="${overlay}" alt="${title}"
  /></span>`
}

/** The charts of a layer: what each expert does and, by the kind of router, how weights, gates or tokens are spread. */
export function routerCharts(router: RouterPicture, run: number, prefix: string): Chart[] {
  const bars = (name: string, label: string, xLabel: string, title: string, y: readonly number[]): Chart => ({
    id: `${prefix}-${name}`,
    title,
    xLabel,
    format: 'percent',
    series: [{ label, run, style: 'bars', x: y.map((_, x) => x), y }],
  })
  const { expertImportance } = router
  if (router.kind === 'index') {
    const load = bars('load', 'share', 'expert', 'Expert load (share of the assignments)', expertImportance)
    if (router.histograms === undefined) return [load]
    const { importance, expertsPerToken, gates } = router.histograms
    const chart = bars('gates', 'assignments', 'gate', 'Gates of the assignments', gates)
    const [series] = chart.series
    return [
      load,
      bars('importance', 'share', 'expert', 'Expert importance (share of all gates)', importance),
      bars('experts', 'tokens', 'experts', 'Experts that process a token (0: dropped)', expertsPerToken),
      { ...chart, series: [{ ...series, x: gates.map((_, bin) => (bin + 0.5) / gates.length) }] },
    ]
  }
  const importance = bars(
    'importance',
    'share',
    'expert',
    'Expert importance (share of the combine weight)',
    expertImportance,
  )
  if (router.tokenWeights.length === 0) return [importance]
  const weights: Chart = {
    id: `${prefix}-weights`,
    title: 'Total dispatch weight of a token',
    xLabel: 'summed over the slots',
    format: 'percent',
    series: [{ label: 'tokens', run, style: 'bars', ...histogram(router.tokenWeights, HISTOGRAM_BINS) }],
  }
  return [importance, weights]
}

/** The heat maps of one layer over the sample images. */
export function routerPictures(router: RouterPicture, evaluation: Evaluation): Html {
  return router.kind === 'soft' ? softPictures(router, evaluation) : indexPictures(router, evaluation)
}

function softPictures(router: SoftRouterPicture, { samples, classNames }: Evaluation): Html {
  const [rows, columns] = router.grid
  const slots = router.numExperts * router.slotsPerExpert
  const shown = router.samples.slice(0, MAX_SAMPLES).map(({ sample, dispatch, combine }) => {
    const { png, label } = samples[sample]
    const tokenWeights = combine.map((_, token) => dispatch.reduce((sum, slot) => sum + slot[token], 0))
    const slotWeights = dispatch.map((_, slot) => combine.reduce((sum, token) => sum + token[slot], 0))
    const strongest = slotWeights
      .map((weight, slot) => ({ weight, slot }))
      .sort((a, b) => b.weight - a.weight || a.slot - b.slot)
      .slice(0, MAX_SLOTS)
    const matrix = heatPng(
      slots,
      combine.length,
      dispatch.flatMap((_, slot) => combine.map((token) => token[slot])),
    )
    const total = `${classNames[label]}: total dispatch weight of each patch`
    return html`<div class="routed">
      <figure>
        <img class="pixels" src="data:image/png;base64,${png}" alt="${classNames[label]}" />
        <figcaption>${classNames[label]}</figcaption>
      </figure>
      <figure>
        ${picture(png, heatPng(rows, columns, tokenWeights), total)}
        <figcaption>all slots</figcaption>
      </figure>
      <div class="slots">
        ${strongest.map(({ slot }) => {
          const expert = Math.floor(slot / router.slotsPerExpert)
          const title = `dispatch weights of slot ${slot} (expert ${expert})`
          return html`<figure>
            ${picture(png, heatPng(rows, columns, dispatch[slot]), title)}
            <figcaption>slot ${slot}</figcaption>
          </figure>`
        })}
      </div>
      <figure>
        <span class="matrix"><img src="${matrix}" alt="combine weights of the tokens" /></span>
        <figcaption>combine: slots ↓ tokens →</figcaption>
      </figure>
    </div>`
  })
  const selection =
    slots > MAX_SLOTS
      ? `the ${MAX_SLOTS} of ${slots} slots with the greatest combine weight`
      : `all ${slots} slots`
  return html`<p class="note">
      How strongly each patch enters a slot (dispatch weights), ${selection}; each picture is scaled to its
      greatest weight.
    </p>
    ${shown}`
}

/** Hues that neighbouring experts do not share: steps of the golden angle. */
function expertColour(expert: number): [number, number, number] {
  const hue = (expert * 137.508) % 360
  const level = (offset: number): number => {
    const k = (offset + hue / 30) % 12
    return Math.round(255 * (0.55 - 0.4 * Math.max(-1, Math.min(k - 3, 9 - k, 1))))
  }
  return [level(0), level(8), level(4)]
}

/** Over the darkened image: what no expert processed. */
const DROPPED_COLOUR = [235, 40, 40, 235] as const
const DROPPED_ON_MAP = [255, 255, 255, 245] as const
/** More colours than this nobody tells apart. */
const MAX_LEGEND = 16

function indexPictures(router: IndexRouterPicture, { samples, classNames }: Evaluation): Html {
  const [rows, columns] = router.grid
  const counts = router.samples.flatMap(({ experts }) => experts.map((chosen) => chosen.length))
  const most = counts.reduce((largest, count) => Math.max(largest, count), 0)
  const shown = router.samples.slice(0, 2 * MAX_SAMPLES).map(({ sample, experts }) => {
    const { png, label } = samples[sample]
    const map = new PNG({ width: columns, height: rows })
    const kept = new PNG({ width: columns, height: rows })
    experts.forEach((chosen, token) => {
      map.data.set(chosen.length > 0 ? [...expertColour(chosen[0]), 190] : DROPPED_ON_MAP, 4 * token)
      kept.data.set(chosen.length > 0 ? [0, 0, 0, 0] : DROPPED_COLOUR, 4 * token)
    })
    const dropped = experts.filter((chosen) => chosen.length === 0).length
    const several = heatPng(
      rows,
      columns,
      experts.map((chosen) => chosen.length),
    )
    return html`<div class="routed">
      <figure>
        <img class="pixels" src="data:image/png;base64,${png}" alt="${classNames[label]}" />
        <figcaption>${classNames[label]}</figcaption>
      </figure>
      <figure>
        ${picture(png, dataUrl(map), 'first expert of each patch, white where the patch was dropped')}
        <figcaption>first expert</figcaption>
      </figure>
      ${
        most > 1
          ? html`<figure>
              ${picture(png, several, `how many experts processed each patch, at most ${most}`)}
              <figcaption>experts, at most ${Math.max(...experts.map((chosen) => chosen.length))}</figcaption>
            </figure>`
          : html``
      }
      <figure>
        ${picture(png, dataUrl(kept), 'patches that no expert processed, in red')}
        <figcaption>${dropped} of ${experts.length} dropped</figcaption>
      </figure>
    </div>`
  })
  const legend = Array.from({ length: Math.min(router.numExperts, MAX_LEGEND) }, (_, expert) => {
    const colour = `rgb(${expertColour(expert).join(' ')})`
    return html`<span class="expert"><i style="background: ${colour}"></i>${expert}</span> `
  })
  return html`<p class="note">
      The expert of the greatest gate for each patch, by colour; patches that no expert processed are white
      there, and red in the last picture (${percent(router.droppedFraction)} of all tokens).
    </p>
    <p class="note experts">
      Experts: ${legend}${router.numExperts > MAX_LEGEND ? `and ${router.numExperts - MAX_LEGEND} more` : ''}
    </p>
    <div class="routed-list">${shown}</div>`
}
