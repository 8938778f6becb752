// The rounds of a migration: what each had to send, and whether sending outran the guest. One round
// is no story and has no card.

import {
  bytesText,
  digits,
  rateText,
  shortBytesText,
  type Unit,
  unitOfBytes,
  unitOfRate,
  unitOfTime,
} from './figures.ts'
import type { Markup } from './markup.ts'
import type { MigrationRecord, RoundRecord } from './migration-record.ts'
import { type PlainTable, picture } from './page.ts'
import { columnPlot, linePlot } from './plots.ts'

export function roundCards({ rounds, roundsLeftOut }: MigrationRecord): Markup[] {
  if (rounds.length < 2) return []
  const left = roundsLeftOut > 0 ? ` ${roundsLeftOut} rounds in the middle are left out.` : ''
  return [dirtyCard(rounds, left), rateCard(rounds, left)]
}

function dirtyCard(rounds: readonly RoundRecord[], left: string): Markup {
  const [first, last] = [rounds[0] as RoundRecord, rounds.at(-1) as RoundRecord]
  return picture({
    title: 'Memory to send, per round',
    caption:
      `Round 0 had ${bytesText(first.dirtyBytes)} of populated memory, ` +
      `${last.final ? 'the last one, with the guest stopped,' : `round ${last.round}`} ` +
      `${bytesText(last.dirtyBytes)} of dirty pages.${left}`,
    plot: columnPlot({
      columns: rounds.map(({ round, dirtyBytes, final }) => ({
        name: String(round),
        value: dirtyBytes,
        label: shortBytesText(dirtyBytes),
        colour: final ? 'var(--warm)' : 'var(--accent)',
      })),
      unit: unitOfBytes(Math.max(...rounds.map(({ dirtyBytes }) => dirtyBytes))),
      nameOfColumns: 'round',
    }),
    key: [
      { colour: 'var(--accent)', text: 'the guest runs' },
      { colour: 'var(--warm)', text: 'the guest has stopped' },
    ],
    table: amountsTable(rounds),
    half: true,
  })
}

function rateCard(rounds: readonly RoundRecord[], left: string): Markup {
  const sending = rounds.flatMap((round) => pointOf(round, pace(round)))
  const writing = rounds.flatMap((round) => pointOf(round, round.dirtyBytesPerSecond))
  const unit = unitOfRate(Math.max(1, ...[...sending, ...writing].map(({ value }) => value)))
  const written = Math.max(0, ...writing.map(({ value }) => value))
  return picture({
    title: 'Sending against writing',
    caption:
      'Pages sent per second of each round, and pages the guest wrote per second since the round ' +
      `before${written > 0 ? `, at most ${rateText(written)}` : ''}. Rounds become smaller while ` +
      `sending is the faster one.${left}`,
    plot: linePlot({
      lines: [
        { colour: 'var(--accent)', points: sending },
        { colour: 'var(--warm)', dashed: true, points: writing },
      ],
      names: rounds.map(({ round }) => String(round)),
      unit,
      nameOfPoints: 'round',
    }),
    key: [
      { colour: 'var(--accent)', text: 'sent' },
      { colour: 'var(--warm)', text: 'written by the guest (dashed)' },
    ],
    table: ratesTable(rounds, unit),
    half: true,
  })
}

function pointOf({ round }: RoundRecord, value: number | undefined) {
  return value === undefined ? [] : [{ x: String(round), value }]
}

/** Bytes of its pages per second; zero pages, which cost almost nothing, are among them. */
function pace({ dirtyBytes, tookMs }: RoundRecord): number | undefined {
  return tookMs === undefined ? undefined : (dirtyBytes / Math.max(tookMs, 1e-3)) * 1000
}

function amountsTable(rounds: readonly RoundRecord[]): PlainTable {
  const bytes = unitOfBytes(Math.max(...rounds.map(({ dirtyBytes }) => dirtyBytes)))
  const time = unitOfTime(Math.max(...rounds.map(({ tookMs = 0 }) => tookMs)))
  return {
    columns: ['round', `to send, ${bytes.name}`, `took, ${time.name}`, 'guest'],
    rows: rounds.map(({ round, dirtyBytes, tookMs, final }) => [
      String(round),
      digits(dirtyBytes / bytes.divisor),
      tookMs === undefined ? '' : digits(tookMs / time.divisor),
      final ? 'stopped' : 'runs',
    ]),
  }
}

function ratesTable(rounds: readonly RoundRecord[], rate: Unit): PlainTable {
  const perSecond = (value: number | undefined): string =>
    value === undefined ? '' : digits(value / rate.divisor)
  return {
    columns: ['round', `sent, ${rate.name}`, `written, ${rate.name}`],
    rows: rounds.map((round) => [
      String(round.round),
      perSecond(pace(round)),
      perSecond(round.dirtyBytesPerSecond),
    ]),
  }
}
