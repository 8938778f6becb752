// How long a guest stands still: the v86 guest with its devices, from its last instruction at the
// source to its first at the destination, and a native one that writes, as its source sees it.
import type { Command } from 'commander'
import type { DowntimeParts } from '../../src/index.ts'
import type { Comparison, Findings, Setting, Table } from '../comparison.ts'
import {
  contestantTable,
  declareTurns,
  type Field,
  medianColumn,
  scheduleOf,
  sized,
  type TurnOptions,
  turnsOf,
  verdict,
} from '../contestants.ts'
import { type ExampleRun, runExample } from '../example.ts'
import { Gathered } from '../gathered.ts'
import type { MigrationRun } from '../migration.ts'
import { LOOPBACK } from '../path.ts'
import { formatBytes } from '../report.ts'
import { alternate, median, ratioOf, turnName } from '../run.ts'

const MB = 1e6
const PAGE_BYTES = 4096
const V86 = { memoryMib: 256, bytesPerSecond: 100 * MB }
const SMOKE_V86_MIB = 32
const NATIVE_BYTES_PER_SECOND = 200 * MB
/** As the example's for a guest that writes at a fixed rate. */
const DOWNTIME_LIMIT_MS = 10
const V86_TARGET = { atMost: 20 }
const NATIVE_TARGET = { atMost: 10 }

/** In the order in which they pass, as they head the columns. */
const PARTS = {
  stopMs: 'stop',
  saveMs: 'save',
  collectMs: 'collect',
  roundMs: 'round',
  loadMs: 'load',
  resumeMs: 'resume',
} as const satisfies Record<keyof DowntimeParts, string>

const FIELD = {
  native: {
    guest: { dirtyBytesPerSecond: NATIVE_BYTES_PER_SECOND },
    warmUps: 0,
    downtimeLimitMs: DOWNTIME_LIMIT_MS,
    label: `native, ${NATIVE_BYTES_PER_SECOND / MB} MB/s`,
  },
} as const satisfies Field<string>

export const downtime: Comparison<TurnOptions> = {
  name: 'downtime',
  question: 'how long does a guest that writes stand still?',
  minutes: 4,
  declare: (command: Command) => declareTurns(command, '1GiB'),
  run,
}

async function run(given: Setting<TurnOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  const { options, signal, progress } = setting
  const { memory, pairs, channels, smoke } = options
  const memoryMib = smoke ? SMOKE_V86_MIB : V86.memoryMib
  const pagesPerSecond = Math.round(V86.bytesPerSecond / PAGE_BYTES)
  const { v86, native } = await alternate(
    {
      ...turnsOf(FIELD, { path: LOOPBACK, name: 'lo' }, setting),
      v86: async (turn) => {
        const one = await runExample({ memoryMib, pagesPerSecond, channels }, { signal })
        progress(`${turnName(turn, pairs)}  v86: downtime ${one.downtimeMs.toFixed(1)} ms`)
        return one
      },
    },
    scheduleOf(setting),
  )
  const v86DowntimeMs = ratioOf(v86.map(({ downtimeMs }) => downtimeMs))
  const nativeDowntimeMs = ratioOf(native.map(downtimeMsOf))
  const title = `${formatBytes(memory)} of incompressible RAM, loopback`
  const findings = new Gathered({ channels })
    .add({
      results: {
        v86: {
          memoryMib,
          downtimeMs: v86DowntimeMs.median,
          downtimeParts: medianParts(v86.map(({ downtimeParts }) => downtimeParts)),
          runs: v86,
        },
        native: {
          memoryBytes: memory,
          downtimeMs: nativeDowntimeMs.median,
          downtimeParts: medianParts(native.map(partsOf)),
          runs: native,
        },
      },
      ratios: { v86DowntimeMs, nativeDowntimeMs },
      table: contestantTable(title, FIELD, { native }, [
        medianColumn('guest MB/s', ({ source }) => (source.written?.bytesPerSecond ?? 0) / MB),
        medianColumn('rounds', ({ source }) => source.migration.rounds),
        medianColumn('downtime ms', downtimeMsOf, 1),
        ['largest', (runs) => Math.max(...runs.map(downtimeMsOf)).toFixed(1)],
      ]),
      notes: [
        verdict('v86DowntimeMs', v86DowntimeMs, V86_TARGET),
        verdict('nativeDowntimeMs', nativeDowntimeMs, NATIVE_TARGET),
        'Both are milliseconds, no ratios. v86: from the last guest instruction to the first, less the ' +
          "hashing of the stopped guest; native: from when it had stopped to the destination's last word.",
        'Parts: stop, by the VMM; save, of devices; collect, of what was written since the last round ' +
          'began; round, the last one; load, devices sent, loaded, and said to be; resume, commit and ' +
          "answer. All but the stop add up to the native guest's downtime.",
        `Both stop when that takes no longer than ${DOWNTIME_LIMIT_MS} ms by what was measured so far.`,
      ],
      runs: { native },
    })
    .findings(options)
  const parts = partsTable({
    v86: v86.map(({ downtimeParts }) => downtimeParts),
    native: native.map(partsOf),
  })
  return { ...findings, tables: [v86Table(memoryMib, v86), ...findings.tables, parts] }
}

const downtimeMsOf = ({ source }: MigrationRun) => source.migration.downtimeMs
const partsOf = ({ source }: MigrationRun) => source.migration.downtimeParts

const PART_NAMES = Object.keys(PARTS) as (keyof DowntimeParts)[]

/** Each part's own median: together they are about the median of the whole. */
function medianParts(runs: readonly DowntimeParts[]): DowntimeParts {
  const parts = PART_NAMES.map((name) => [name, median(runs.map((run) => run[name]))])
  return Object.fromEntries(parts) as DowntimeParts
}

function partsTable(guests: Record<string, readonly DowntimeParts[]>): Table {
  return {
    title: 'What the downtime consists of at the source, ms, medians',
    columns: ['', ...Object.values(PARTS)],
    rows: Object.entries(guests).map(([name, runs]) => {
      const parts = medianParts(runs)
      return [name, ...PART_NAMES.map((part) => parts[part].toFixed(1))]
    }),
  }
}

function v86Table(memoryMib: number, runs: readonly ExampleRun[]): Table {
  const middle = (of: (run: ExampleRun) => number, digits: number) =>
    median(runs.map(of)).toFixed(digits)
  const sum = (run: ExampleRun, of: 'sentBytes' | 'copiedBytes') =>
    run.perChannel.reduce((all, channel) => all + channel[of], 0)
  return {
    title: `v86, ${memoryMib} MiB, ${V86.bytesPerSecond / MB} MB/s asked for, loopback, medians`,
    columns: [
      ...['', 'guest MB/s', 'rounds', 'total ms', 'downtime ms', 'largest'],
      ...['source CPU-s/GB', 'dest. CPU-s/GB', 'copied after all'],
    ],
    rows: [
      [
        'channel threads alone',
        middle((run) => (run.guestPagesPerSecond * PAGE_BYTES) / MB, 0),
        middle((run) => run.rounds, 0),
        middle((run) => run.totalTimeMs, 0),
        middle((run) => run.downtimeMs, 1),
        Math.max(...runs.map((run) => run.downtimeMs)).toFixed(1),
        middle((run) => run.sourceCpuSecondsPerGb, 3),
        middle((run) => run.destinationCpuSecondsPerGb, 3),
        `${middle((run) => (100 * sum(run, 'copiedBytes')) / sum(run, 'sentBytes'), 1)} %`,
      ],
    ],
  }
}
