// The plots of a migration: areas over time, columns, lines, one bar of parts. They know shapes and
// axes, nothing of migrations. Colours are the style sheet's custom properties (styles.ts).

import * as Plot from '@observablehq/plot'
import type { Unit } from './figures.ts'
import type { Markup } from './markup.ts'
import { draw, drawBoth, HALF, NAME_BELOW, NAMED_BELOW, type Sheet } from './sheet.ts'

export interface AreaPlot {
  /** In the order of stacking, lowest first. */
  readonly series: readonly { readonly name: string; readonly colour: string }[]
  /** Each value holds from the moment before to its own. */
  readonly points: readonly {
    readonly xMs: number
    readonly values: Readonly<Record<string, number>>
  }[]
  readonly time: Unit
  readonly value: Unit
  readonly endMs: number
  /** Moments with a name. */
  readonly marks: readonly { readonly xMs: number; readonly text: string }[]
  /** A span that is tinted. */
  readonly span?: { readonly fromMs: number; readonly toMs: number } | undefined
}

/** Series on top of each other over time. `thin` reduces points for a narrow screen. */
export function areaPlot(plot: AreaPlot, thin: (plot: AreaPlot) => AreaPlot): Markup {
  return drawBoth((sheet, narrow) => drawAreas(sheet, narrow ? thin(plot) : plot, narrow))
}

function drawAreas(sheet: Sheet, plot: AreaPlot, narrow: boolean): Markup {
  const { series, points, time, value, endMs, marks, span } = plot
  const at = (ms: number): number => ms / time.divisor
  const rows = series.flatMap(({ name }) => {
    const first = { x: 0, y: (points[0]?.values[name] ?? 0) / value.divisor, name }
    return [
      first,
      ...points.map(({ xMs, values }) => {
        return { x: at(xMs), y: (values[name] ?? 0) / value.divisor, name }
      }),
    ]
  })
  const spans = span === undefined ? [] : [{ x1: at(span.fromMs), x2: at(span.toMs) }]
  return draw(sheet, {
    marginLeft: 44,
    marginRight: 12,
    marginTop: 30,
    ...NAMED_BELOW,
    x: { ...NAME_BELOW, label: time.name, ticks: narrow ? 5 : 10, domain: [0, at(endMs)] },
    y: { label: value.name, grid: true, ticks: 5, nice: true },
    color: { domain: series.map(({ name }) => name), range: series.map(({ colour }) => colour) },
    marks: [
      Plot.areaY(rows, {
        x: 'x',
        y: 'y',
        fill: 'name',
        z: 'name',
        curve: 'step-before',
        stroke: 'var(--card)',
        strokeWidth: narrow ? 0.6 : 1,
      }),
      Plot.rect(spans, { x1: 'x1', x2: 'x2', fill: 'var(--stop)' }),
      Plot.ruleX(marks, {
        x: (mark) => at(mark.xMs),
        stroke: 'var(--ink)',
        strokeOpacity: 0.45,
        strokeDasharray: '2,3',
      }),
      Plot.text(withoutOverlap(marks, endMs, narrow ? 6 : 16), {
        x: (mark) => at(mark.xMs),
        text: 'text',
        frameAnchor: 'top',
        textAnchor: 'start',
        dx: 3,
        dy: -13,
        fill: 'var(--soft)',
      }),
      Plot.ruleY([0]),
    ],
  })
}

/** Those of which the names run neither into each other nor out, if so many fit the width. */
function withoutOverlap<Mark extends { readonly xMs: number }>(
  marks: readonly Mark[],
  endMs: number,
  fitting: number,
): Mark[] {
  const kept: Mark[] = []
  for (const mark of marks) {
    const before = kept.at(-1)
    const room = before === undefined || mark.xMs - before.xMs > endMs / fitting
    if (room && mark.xMs < endMs * (1 - 1 / fitting)) kept.push(mark)
  }
  return kept
}

export interface ColumnPlot {
  /** `label`: the value, to be read above the column. */
  readonly columns: readonly { name: string; value: number; label: string; colour: string }[]
  readonly unit: Unit
  readonly nameOfColumns: string
}

/** One column per name, with its value above as long as there is room. */
export function columnPlot({ columns, unit, nameOfColumns }: ColumnPlot): Markup {
  const labelled = columns.length <= 7
  const rows = columns.map((column) => ({ ...column, y: column.value / unit.divisor }))
  return draw(HALF, {
    marginLeft: 44,
    marginTop: 28,
    ...NAMED_BELOW,
    x: {
      ...NAME_BELOW,
      label: nameOfColumns,
      domain: columns.map(({ name }) => name),
      ...sparseTicks(columns.map(({ name }) => name)),
    },
    y: { label: unit.name, grid: true, ticks: 5, nice: true },
    marks: [
      Plot.barY(rows, { x: 'name', y: 'y', fill: 'colour', rx: 2, insetLeft: 1, insetRight: 1 }),
      Plot.text(labelled ? rows : [], { x: 'name', y: 'y', text: 'label', dy: -8 }),
      Plot.ruleY([0]),
    ],
  })
}

/** Where columns are many, every so-many-th is named. */
function sparseTicks(names: readonly string[]): { ticks: string[] } {
  const every = Math.ceil(names.length / 12)
  return { ticks: names.filter((_, i) => i % every === 0) }
}

export interface LinePlot {
  readonly lines: readonly {
    readonly colour: string
    readonly dashed?: boolean
    readonly points: readonly { readonly x: string; readonly value: number }[]
  }[]
  /** Of all points, in order. */
  readonly names: readonly string[]
  readonly unit: Unit
  readonly nameOfPoints: string
}

export function linePlot({ lines, names, unit, nameOfPoints }: LinePlot): Markup {
  return draw(HALF, {
    marginLeft: 44,
    marginTop: 28,
    ...NAMED_BELOW,
    x: { ...NAME_BELOW, type: 'point', label: nameOfPoints, domain: names, ...sparseTicks(names) },
    y: { label: unit.name, grid: true, ticks: 5, nice: true, zero: true },
    marks: [
      Plot.ruleY([0]),
      ...lines.flatMap(({ points, colour, dashed }) => {
        const at = { x: 'x', y: (point: { value: number }) => point.value / unit.divisor }
        const dash = dashed === true ? { strokeDasharray: '5,4' } : {}
        return [
          Plot.line(points, { ...at, stroke: colour, strokeWidth: 2, ...dash }),
          Plot.dot(points, { ...at, r: 3.5, fill: colour, stroke: 'var(--card)' }),
        ]
      }),
    ],
  })
}

export interface StackPlot {
  readonly parts: readonly {
    readonly name: string
    readonly value: number
    readonly colour: string
  }[]
  readonly unit: Unit
}

/** One bar of parts. */
export function stackPlot({ parts, unit }: StackPlot): Markup {
  return drawBoth(({ widthPx }, narrow) =>
    draw(
      { widthPx, heightPx: 104 },
      {
        marginLeft: 8,
        marginRight: 8,
        marginTop: 6,
        ...NAMED_BELOW,
        x: { ...NAME_BELOW, label: unit.name, ticks: narrow ? 5 : 10 },
        color: { domain: parts.map(({ name }) => name), range: parts.map(({ colour }) => colour) },
        marks: [
          Plot.barX(parts, {
            x: (part) => part.value / unit.divisor,
            fill: 'name',
            insetLeft: 1,
            insetRight: 1,
            rx: 3,
          }),
        ],
      },
    ),
  )
}
