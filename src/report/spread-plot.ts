// Samples of several contestants beside each other: median, range, and every single one.

import * as Plot from '@observablehq/plot'
import { digits, type Unit } from './figures.ts'
import type { Markup } from './markup.ts'
import { draw, drawBoth, HALF, NAME_BELOW, NAMED_BELOW } from './sheet.ts'

export interface SpreadPlot {
  readonly rows: readonly { readonly name: string; readonly samples: readonly number[] }[]
  readonly unit: Unit
  /** Values are shown relative to this, instead of as bars from 0. */
  readonly around?: number
}

/** Median and range of each row, with every sample as a dot; on half a page's width. */
export function spreadPlot(plot: SpreadPlot): Markup {
  return drawSpread(HALF.widthPx, plot)
}

/** The same on the whole width. */
export function wideSpreadPlot(plot: SpreadPlot): Markup {
  return drawBoth(({ widthPx }) => drawSpread(widthPx, plot))
}

function drawSpread(widthPx: number, { rows, unit, around }: SpreadPlot): Markup {
  const sets = rows.map(({ name, samples }) => ({ name, ...spreadOf(samples, unit.divisor) }))
  const dots = rows.flatMap(({ name, samples }) =>
    samples.map((sample) => ({ name, x: sample / unit.divisor })),
  )
  const longest = Math.max(...rows.map(({ name }) => name.length))
  const high = Math.max(around ?? 0, ...sets.map(({ max }) => max))
  const low = around === undefined ? 0 : Math.min(around, ...sets.map(({ min }) => min))
  const values = { y: 'name', fill: 'var(--accent)' } as const
  return draw(
    { widthPx, heightPx: 58 + 30 * rows.length },
    {
      marginLeft: Math.min(12 + 6.6 * longest, 190),
      marginRight: 46,
      marginTop: 8,
      ...NAMED_BELOW,
      x: { ...NAME_BELOW, label: unit.name, grid: true, ticks: 5, nice: true, domain: [low, high] },
      y: { label: null, domain: rows.map(({ name }) => name), tickSize: 0, padding: 0.35 },
      marks: [
        around === undefined
          ? Plot.barX(sets, { y: 'name', x: 'median', fill: 'var(--accent-soft)', rx: 2 })
          : Plot.ruleX([around], { stroke: 'var(--ink)', strokeOpacity: 0.6 }),
        Plot.ruleY(sets, { ...RANGE, stroke: 'var(--accent)', strokeWidth: 2 }),
        Plot.dot(dots, { ...values, x: 'x', r: 2.6, fillOpacity: 0.55 }),
        Plot.tickX(sets, { y: 'name', x: 'median', stroke: 'var(--warm)', strokeWidth: 3 }),
        Plot.text(sets, {
          y: 'name',
          text: ({ median }) => digits(median),
          frameAnchor: 'right',
          textAnchor: 'end',
          dx: 42,
          fontWeight: 600,
        }),
      ],
    },
  )
}

const RANGE = { y: 'name', x1: 'min', x2: 'max' } as const

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

export function spreadOf(samples: readonly number[], divisor = 1): Spread {
  const sorted = samples.map((sample) => sample / divisor).sort((a, b) => a - b)
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
  const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN
  return {
    median: (lower + upper) / 2,
    min: sorted[0] ?? Number.NaN,
    max: sorted.at(-1) ?? Number.NaN,
  }
}
