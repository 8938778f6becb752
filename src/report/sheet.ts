// What plots are drawn on: SVG made here and now, so that the page that holds it needs no script.
// Marks and scales are the plots' (plots.ts, spread-plot.ts); colours are custom properties of the
// style sheet.

import * as Plot from '@observablehq/plot'
import { parseHTML } from 'linkedom'
import { html, Markup } from './markup.ts'

/** What a plot is drawn on: it is scaled to its card, so letters keep their size only roughly. */
export interface Sheet {
  readonly widthPx: number
  readonly heightPx: number
}

const FONT_PX = 12
/** Room for an axis's name under its numbers. */
export const NAMED_BELOW = { marginBottom: 42 }
export const NAME_BELOW = { labelOffset: 38, labelAnchor: 'center', labelArrow: 'none' } as const
export const HALF: Sheet = { widthPx: 390, heightPx: 220 }
const WIDE: Sheet = { widthPx: 1000, heightPx: 270 }
const NARROW: Sheet = { widthPx: 360, heightPx: 240 }

/** Attributes of which Plot writes more decimals than a screen has. */
const LENGTHS = ['d', 'transform', 'x', 'y', 'x1', 'x2', 'y1', 'y2', 'cx', 'cy', 'width', 'height']

export function draw({ widthPx, heightPx }: Sheet, options: Plot.PlotOptions): Markup {
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const svg = Plot.plot({
    document,
    width: widthPx,
    height: heightPx,
    style: { fontSize: `${FONT_PX}px`, overflow: 'visible' },
    ...options,
  })
  svg.querySelector('style')?.remove() // one sheet is enough
  // What is to be seen stands beside it in words and in a table.
  svg.setAttribute('aria-hidden', 'true')
  for (const element of [svg, ...svg.querySelectorAll('*')]) {
    for (const name of element.getAttributeNames()) {
      if (name.startsWith('xmlns')) element.removeAttribute(name)
    }
    for (const name of LENGTHS) {
      const value = element.getAttribute(name)
      if (value !== null) element.setAttribute(name, value.replace(/\.(\d)\d+/g, '.$1'))
    }
  }
  return new Markup(svg.outerHTML)
}

/** For wide and for narrow screens. */
export function drawBoth(build: (sheet: Sheet, narrow: boolean) => Markup): Markup {
  return html`<div class="wide">${build(WIDE, false)}</div>
<div class="narrow">${build(NARROW, true)}</div>`
}
