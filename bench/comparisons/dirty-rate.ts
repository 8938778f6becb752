// How a guest that writes while it is moved changes the move: how many rounds it takes, how long,
// and how long the guest stands still, for several dirty rates.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  contestantTable,
  declareTurns,
  type Field,
  medianColumn,
  sized,
  type TurnOptions,
  takeTurns,
  timeRatio,
} from '../contestants.ts'
import { Gathered } from '../gathered.ts'
import type { MigrationRun } from '../migration.ts'
import { numberOption } from '../options.ts'
import { LOOPBACK } from '../path.ts'
import { formatBytes } from '../report.ts'
import { median } from '../run.ts'

const MB = 1e6

const FIELD = {
  idle: { guest: { dirtyBytesPerSecond: 0 }, label: 'idle' },
  rate100: { guest: { dirtyBytesPerSecond: 100 * MB }, label: '100 MB/s' },
  rate200: { guest: { dirtyBytesPerSecond: 200 * MB }, label: '200 MB/s' },
  rate400: { guest: { dirtyBytesPerSecond: 400 * MB }, label: '400 MB/s' },
  rate800: { guest: { dirtyBytesPerSecond: 800 * MB }, label: '800 MB/s' },
} as const satisfies Field<string>
type Name = keyof typeof FIELD

export interface DirtyRateOptions extends TurnOptions {
  readonly downtimeLimit: number
}

export const dirtyRate: Comparison<DirtyRateOptions> = {
  name: 'dirty-rate',
  question: 'what does a guest that writes cost in rounds, in time and in downtime?',
  minutes: 2,
  declare: (command: Command) =>
    declareTurns(command, '1GiB').addOption(
      numberOption('--downtime-limit <ms>', 'of all', { min: 1, max: 2_000_000 }).default(20),
    ),
  run,
}

async function run(given: Setting<DirtyRateOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  const { memory, channels, downtimeLimit: downtimeLimitMs } = setting.options
  const field = Object.fromEntries(
    Object.entries(FIELD).map(([name, way]) => [name, { ...way, downtimeLimitMs }]),
  ) as Field<Name>
  const runs = await takeTurns(field, { path: LOOPBACK, name: 'lo' }, setting)
  const cases = Object.entries<readonly MigrationRun[]>(runs).map(([name, those]) => [
    name,
    {
      rounds: median(those.map(rounds)),
      totalMs: median(those.map(totalMs)),
      downtimeMs: median(those.map(downtimeMs)),
    },
  ])
  const title = `${formatBytes(memory)} of incompressible RAM, loopback`
  return new Gathered({ memoryBytes: memory, channels, downtimeLimitMs })
    .add({
      results: { medians: Object.fromEntries(cases), ...runs },
      ratios: {
        time100VsIdle: timeRatio(runs.rate100, runs.idle),
        time200VsIdle: timeRatio(runs.rate200, runs.idle),
        time400VsIdle: timeRatio(runs.rate400, runs.idle),
        time800VsIdle: timeRatio(runs.rate800, runs.idle),
      },
      table: contestantTable(title, field, runs, [
        medianColumn('really MB/s', (run) => (run.source.written?.bytesPerSecond ?? 0) / MB),
        medianColumn('rounds', rounds),
        medianColumn('total ms', totalMs),
        medianColumn('downtime ms', downtimeMs, 1),
        ['largest', (those) => Math.max(...those.map(downtimeMs)).toFixed(1)],
      ]),
      notes: [
        'The guest is a thread that rewrites a word in page after page, so bytes per second are those ' +
          "of pages it dirties. Its CPU time is not in the source's, but it shares the cores.",
        `The guest is stopped when that takes no longer than ${downtimeLimitMs} ms. Downtime is from ` +
          "the stop to the destination's last word, as the source sees it.",
      ],
      runs,
    })
    .findings(setting.options)
}

const rounds = ({ source }: MigrationRun) => source.migration.rounds
const totalMs = ({ seconds }: MigrationRun) => seconds * 1e3
const downtimeMs = ({ source }: MigrationRun) => source.migration.downtimeMs
