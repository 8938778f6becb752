// The report of one migration: which figures, plots and tables its page has, made from its record.
// Cards without data are left out. Pure: a record in, a page out.

import { environmentCard } from './environment-card.ts'
import {
  bytesText,
  digits,
  inUnit,
  percentText,
  rateText,
  timeText,
  unitOfTime,
} from './figures.ts'
import type { Markup } from './markup.ts'
import type { DowntimeParts, MigrationRecord, Outcome, Sample } from './migration-record.ts'
import { card, factsOf, picture, renderPage, type Tile, tableOf } from './page.ts'
import { stackPlot } from './plots.ts'
import { roundCards } from './round-cards.ts'
import { grouped } from './sample-list.ts'
import { SHADES } from './styles.ts'
import { throughputCard } from './throughput-card.ts'

/** So many channels' counters are embedded. */
const CHANNELS_MAX = 32

const SAMPLE_FIELDS = [
  'elapsedMs',
  'status',
  'bytesPerSecond',
  'transferredBytes',
  'remainingBytes',
  'dirtyBytesPerSecond',
] as const

const PARTS: readonly (readonly [keyof DowntimeParts, string])[] = [
  ['stopMs', 'stopping the guest'],
  ['saveMs', 'saving devices'],
  ['collectMs', 'last collect'],
  ['roundMs', 'last round'],
  ['loadMs', 'loading at the destination'],
  ['resumeMs', 'resuming there'],
]

export function migrationReport(record: MigrationRecord): string {
  const { title, lead, startedAt, outcome } = record
  const cards = [
    throughputCard(record),
    ...roundCards(record),
    downtimeCard(record.downtimeParts),
    decisionsCard(record),
    outcomeCard(outcome),
    environmentCard(record.environment),
  ]
  return renderPage({
    title,
    lead: `${lead} ${startedAt.slice(0, 16).replace('T', ' ')} UTC.`,
    state: {
      text: outcome.reason === undefined ? outcome.status : `${outcome.status}: ${outcome.reason}`,
      good: outcome.status === 'completed',
    },
    tiles: tilesOf(outcome),
    cards: cards.filter((part) => part !== undefined),
    data: rounded(dataOf(record)),
  })
}

function tilesOf(outcome: Outcome): Tile[] {
  const { totalTimeMs, downtimeMs, throughputBytesPerSecond, transferredBytes, cpuSeconds } =
    outcome
  const { uncopiedShare, triedAndCopiedShare = 0, engine, engineReason } = outcome
  const tiles: (Tile | undefined)[] = [
    amount('Total time', totalTimeMs, timeText),
    amount('Downtime', downtimeMs, timeText),
    amount('Throughput', throughputBytesPerSecond, rateText),
    amount('Transferred', transferredBytes, bytesText),
    cpuSeconds !== undefined && transferredBytes !== undefined && transferredBytes > 0
      ? {
          name: 'CPU time per GB',
          value: digits(cpuSeconds / (transferredBytes / 1e9)),
          unit: 's',
          note: outcome.cpuOf,
        }
      : undefined,
    uncopiedShare === undefined
      ? undefined
      : {
          name: 'Copied by the kernel',
          value: percentText(1 - uncopiedShare),
          note: `${percentText(triedAndCopiedShare)} although zero-copy was tried`,
        },
    engine === undefined || engine === ''
      ? undefined
      : { name: 'Engine', value: engine, note: engineReason },
  ]
  return tiles.filter((tile) => tile !== undefined)
}

function amount(
  name: string,
  value: number | undefined,
  text: (value: number) => string,
): Tile | undefined {
  if (value === undefined) return undefined
  const written = text(value)
  const unitAt = written.lastIndexOf(' ')
  return { name, value: written.slice(0, unitAt), unit: written.slice(unitAt + 1) }
}

function downtimeCard(parts: DowntimeParts | undefined): Markup | undefined {
  if (parts === undefined) return undefined
  const named = PARTS.map(([key, name], i) => ({
    name,
    value: parts[key],
    colour: `var(--part-${i})`,
  }))
  const totalMs = named.reduce((sum, { value }) => sum + value, 0)
  const unit = unitOfTime(totalMs)
  const longest = named.reduce((most, part) => (part.value > most.value ? part : most))
  return picture({
    title: 'What the downtime consisted of',
    caption:
      `The guest stood still for ${inUnit(totalMs, unit)}, as the source sees it; the largest part, ` +
      `${inUnit(longest.value, unit)}, was ${longest.name}.`,
    plot: stackPlot({ parts: named, unit }),
    key: named.map(({ name, value, colour }) => {
      return { colour, text: `${name} ${inUnit(value, unit)}` }
    }),
    table: {
      columns: ['part', unit.name, 'share'],
      rows: named.map(({ name, value }) => [
        name,
        digits(value / unit.divisor),
        percentText(value / Math.max(totalMs, 1e-9)),
      ]),
    },
  })
}

function decisionsCard({ decisions }: MigrationRecord): Markup | undefined {
  if (decisions.length === 0) return undefined
  const rows = decisions.map(({ elapsedMs, text }) => [timeText(Math.round(elapsedMs)), text])
  const table = tableOf({ columns: ['after', 'what'], rows, words: [1] })
  return card('What was decided, and when', table)
}

function outcomeCard({ facts = {} }: Outcome): Markup | undefined {
  const entries = Object.entries(facts)
  if (entries.length === 0) return undefined
  return card(
    'In the end',
    factsOf(
      entries.map(([name, value]) => {
        return [name, typeof value === 'number' ? value.toLocaleString('en-GB') : value]
      }),
    ),
  )
}

/** Samples as a table, without what very many channels would make too large. */
function dataOf(record: MigrationRecord): object {
  const samples = samplesTable(grouped(record.samples, SHADES))
  if (record.channels.length <= CHANNELS_MAX) return { ...record, samples }
  return { ...record, samples, channels: `left out: ${record.channels.length} channels` }
}

/** A fifth of what the names of each sample's fields would take. */
function samplesTable(samples: readonly Sample[]): object {
  const names = [...new Set(samples.flatMap(({ series }) => Object.keys(series)))]
  return {
    columns: [...SAMPLE_FIELDS, ...names],
    rows: samples.map((sample) => [
      ...SAMPLE_FIELDS.map((field) => sample[field] ?? null),
      ...names.map((name) => sample.series[name] ?? 0),
    ]),
  }
}

/** Nobody needs fractions of bytes or of microseconds. */
function rounded(value: unknown): unknown {
  if (typeof value === 'number')
    return Math.abs(value) < 1e3 ? Number(value.toFixed(3)) : Math.round(value)
  if (Array.isArray(value)) return value.map(rounded)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, rounded(each)]))
}
