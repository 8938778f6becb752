// Throughput over time per channel: what the plot, its caption and its table say. Many channels are
// drawn as groups of neighbours.

import { digits, rateText, timeText, unitOfRate, unitOfTime } from './figures.ts'
import type { Markup } from './markup.ts'
import type { MigrationRecord, Sample } from './migration-record.ts'
import { picture } from './page.ts'
import { type AreaPlot, areaPlot } from './plots.ts'
import { grouped, thinned } from './sample-list.ts'
import { SHADES } from './styles.ts'

const NARROW_SAMPLES_MAX = 40
const TABLE_ROWS_MAX = 30
const MARKS_MAX = 12

export function throughputCard(record: MigrationRecord): Markup | undefined {
  const endMs = record.outcome.totalTimeMs ?? record.samples.at(-1)?.elapsedMs ?? 0
  const samples = grouped(untilEnd(record.samples, endMs), SHADES)
  const names = [...new Set(samples.flatMap(({ series }) => Object.keys(series)))]
  const fastest = Math.max(0, ...samples.map(totalOf))
  if (samples.length < 2 || names.length === 0 || fastest === 0) return undefined
  const { stoppedMs } = record
  const time = unitOfTime(endMs)
  const value = unitOfRate(fastest)
  const series = names.map((name, i) => ({ name, colour: shade(i, names.length) }))
  const plotOf = (shown: readonly Sample[]): AreaPlot => ({
    series,
    points: shown.map(({ elapsedMs, series: values }) => ({ xMs: elapsedMs, values })),
    time,
    value,
    endMs,
    marks: marksOf(record),
    span: stoppedMs === undefined ? undefined : { fromMs: stoppedMs, toMs: endMs },
  })
  const rows = thinned(samples, TABLE_ROWS_MAX).map((sample) => [
    digits(sample.elapsedMs / time.divisor),
    sample.status,
    digits(totalOf(sample) / value.divisor),
    ...names.map((name) => digits((sample.series[name] ?? 0) / value.divisor)),
  ])
  return picture({
    title: 'Throughput over time',
    caption: captionOf(record, { names, fastest, endMs }),
    plot: areaPlot(plotOf(samples), () => plotOf(thinned(samples, NARROW_SAMPLES_MAX))),
    key: series.map(({ name, colour }) => ({ colour, text: name })),
    table: { columns: [time.name, 'status', `all, ${value.name}`, ...names], rows },
  })
}

function captionOf(
  { stoppedMs, rounds }: MigrationRecord,
  { names, fastest, endMs }: { names: readonly string[]; fastest: number; endMs: number },
): string {
  const parts = [
    `${stackedText(names)} over ${timeText(endMs)}: at most ${rateText(fastest)} together.`,
    rounds.length > 1 ? 'Dashed lines: a round begins.' : '',
    stoppedMs === undefined ? '' : 'Tinted: the guest stands still.',
  ]
  return parts.filter((part) => part !== '').join(' ')
}

function stackedText(names: readonly string[]): string {
  if (names.length === 1) return 'Everything'
  return `From ${names[0]}, below, to ${names.at(-1)}, above,`
}

/** A destination that works on after everything was sent is no part of it. */
function untilEnd(samples: readonly Sample[], endMs: number): readonly Sample[] {
  return samples
    .filter((_, i) => (samples[i - 1]?.elapsedMs ?? 0) < endMs)
    .map((sample) => ({ ...sample, elapsedMs: Math.min(sample.elapsedMs, endMs) }))
}

/** Few series take shades that are far from each other. */
function shade(index: number, count: number): string {
  return `var(--shade-${Math.round((index * (SHADES - 1)) / Math.max(count - 1, SHADES / 2))})`
}

function marksOf({ rounds }: MigrationRecord): AreaPlot['marks'] {
  if (rounds.length > MARKS_MAX) return []
  return rounds.map(({ round, beganMs, final }) => {
    return { xMs: beganMs, text: final ? 'last round' : `round ${round}` }
  })
}

function totalOf({ series }: Sample): number {
  return Object.values(series).reduce((sum, rate) => sum + rate, 0)
}
