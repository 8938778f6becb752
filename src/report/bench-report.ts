// The report of a comparison, from the object that `npm run bench -- <comparison> --json` prints:
// ratios with their spread, contestants with theirs, notes and the machine. It finds contestants by
// their shape, so that a comparison need not know it. Pure: an object in, a page out.

import { type Contestant, contestantsIn, type Field, withoutCounters } from './bench-results.ts'
import type { Environment } from './environment.ts'
import { environmentCard } from './environment-card.ts'
import { digits, type Unit, unitOfRate } from './figures.ts'
import type { Markup } from './markup.ts'
import { card, notesOf, type PlainTable, picture, renderPage, type Tile, tableOf } from './page.ts'
import { spreadOf, spreadPlot, wideSpreadPlot } from './spread-plot.ts'

/** The JSON of a comparison, and what only people get: question, tables and notes. */
export interface BenchRecord {
  readonly comparison: string
  readonly environment: Partial<Environment>
  readonly results: Readonly<Record<string, unknown>>
  readonly ratios: Readonly<Record<string, { readonly samples: readonly number[] }>>
  readonly skipped: readonly { readonly what: string; readonly reason: string }[]
  readonly question?: string
  readonly tables?: readonly (PlainTable & { readonly title: string })[]
  readonly notes?: readonly string[]
}

const TILES_MAX = 6
const RATIO: Unit = { divisor: 1, name: 'ratio' }
const CPU: Unit = { divisor: 1, name: 's of CPU per GB' }
const SECONDS: Unit = { divisor: 1, name: 's' }

export function benchReport(record: BenchRecord): string {
  const { comparison, question, environment, ratios, skipped, tables = [], notes = [] } = record
  const turns = Math.max(0, ...Object.values(ratios).map(({ samples }) => samples.length))
  const fields = contestantsIn(record.results)
  const left = skipped.map(({ what, reason }) => `Left out: ${what} (${reason}).`)
  const cards = [
    ratiosCard(ratios, turns),
    ...fields.flatMap(fieldCards),
    ...tables.map((table) => card(table.title, tableOf(table))),
    notes.length + left.length > 0 ? card('Notes', notesOf([...notes, ...left])) : undefined,
    environmentCard(environment),
  ]
  return renderPage({
    title: `Benchmark: ${comparison}`,
    lead:
      `${question === undefined ? '' : `${sentence(question)} `}Contestants ` +
      `alternate, ${turnsText(turns)} each after a warm-up; ratios are taken within each turn.`,
    tiles: Object.entries(ratios).slice(0, TILES_MAX).map(tileOf),
    cards: cards.filter((part) => part !== undefined),
    data: { ...record, results: withoutCounters(record.results) },
  })
}

const turnsText = (turns: number): string => `${turns} ${turns === 1 ? 'turn' : 'turns'}`

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

function tileOf([name, { samples }]: [string, { readonly samples: readonly number[] }]): Tile {
  const { median, min, max } = spreadOf(samples)
  return { name: words(name), value: digits(median), note: `${digits(min)} to ${digits(max)}` }
}

function ratiosCard(ratios: BenchRecord['ratios'], turns: number): Markup | undefined {
  const rows = Object.entries(ratios).map(([name, { samples }]) => {
    return { name: words(name), samples }
  })
  if (rows.length === 0) return undefined
  return picture({
    title: 'Ratios',
    caption:
      `${SPREAD_WORDS} The line at 1: no difference. ` +
      `${turns < 9 ? `${turnsText(turns)} each: too few to prove anything.` : ''}`,
    plot: wideSpreadPlot({ rows, unit: RATIO, around: 1 }),
    table: spreadTable(rows, RATIO),
  })
}

const SPREAD_WORDS = 'Thick tick: the median. Line: from the smallest to the largest. Dots: turns.'

function fieldCards({ title, contestants }: Field): Markup[] {
  const suffix = title === '' ? '' : `, ${title}`
  const cards: Markup[] = []
  const rowsOf = (pick: (contestant: Contestant) => readonly number[]) =>
    contestants
      .map((contestant) => ({ name: words(contestant.name), samples: pick(contestant) }))
      .filter(({ samples }) => samples.length > 0)
  const add = (name: string, rows: ReturnType<typeof rowsOf>, unit: Unit): void => {
    if (rows.length === 0) return
    const caption = SPREAD_WORDS
    const plot = spreadPlot({ rows, unit })
    const table = spreadTable(rows, unit)
    cards.push(picture({ title: `${name}${suffix}`, caption, plot, table, half: true }))
  }
  const rates = rowsOf(({ bytesPerSecond }) => bytesPerSecond)
  if (rates.length > 0) {
    add('Throughput', rates, unitOfRate(Math.max(...rates.flatMap(({ samples }) => samples))))
  } else {
    add(
      'Time',
      rowsOf(({ seconds }) => seconds),
      SECONDS,
    )
  }
  add(
    'CPU time, both sides',
    rowsOf(({ cpuSecondsPerGb }) => cpuSecondsPerGb),
    CPU,
  )
  return cards
}

function spreadTable(
  rows: readonly { readonly name: string; readonly samples: readonly number[] }[],
  { divisor, name: unit }: Unit,
): PlainTable {
  return {
    columns: ['', `median, ${unit}`, 'smallest', 'largest', 'turns'],
    rows: rows.map(({ name, samples }) => {
      const { median, min, max } = spreadOf(samples, divisor)
      return [name, digits(median), digits(min), digits(max), String(samples.length)]
    }),
  }
}

/** `autoVsOffLo` -> "auto vs off lo". */
function words(name: string): string {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1 $2')
    .replace(/[A-Z](?=[a-z]|\s|$)/g, (letter) => letter.toLowerCase())
}
