// What zero pages cost: a guest with none, half and nothing but zero pages, all of them resident.
// A zero page is read and not sent, so a channel thread can look at pages no faster than one core
// reads memory; how near it comes is measured beside it, by plain C++.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  contestantTable,
  declareTurns,
  type Field,
  medianColumn,
  scheduleOf,
  sized,
  type TurnOptions,
  throughputRatio,
  turnsOf,
  verdict,
} from '../contestants.ts'
import { Gathered } from '../gathered.ts'
import type { MigrationRun } from '../migration.ts'
import { buildCeiling, runRead } from '../native-program.ts'
import { LOOPBACK } from '../path.ts'
import { formatBytes } from '../report.ts'
import { alternate, median, pairedRatio, turnName } from '../run.ts'

const GB = 1e9
const PAGE_BYTES = 4096
const SCAN_TARGET = { atLeast: 0.7 }

const FIELD = {
  none: { guest: { zeroPercent: 0 }, label: 'no zero pages' },
  half: { guest: { zeroPercent: 50 }, label: '50 % zero pages' },
  all: { guest: { zeroPercent: 100 }, label: '100 % zero pages' },
} as const satisfies Field<string>

export const zeroPages: Comparison<TurnOptions> = {
  name: 'zero-pages',
  question: 'what do zero pages cost, and are they found as fast as memory can be read?',
  minutes: 3,
  declare: (command: Command) => declareTurns(command, '2GiB', 1),
  run,
}

async function run(given: Setting<TurnOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  const { options, signal, progress } = setting
  const { memory, hugePages, pairs, channels } = options
  const program = await buildCeiling()
  const { read, ...runs } = await alternate(
    {
      ...turnsOf(FIELD, { path: LOOPBACK, name: 'lo' }, setting),
      read: async (turn) => {
        const speed = await runRead(program, { memoryBytes: memory, hugePages }, { signal })
        progress(`${turnName(turn, pairs)}  one core reads: ${(speed / GB).toFixed(2)} GB/s`)
        return speed
      },
    },
    scheduleOf(setting),
  )
  const zeroScanVsReadBandwidth = pairedRatio(runs.all.map(scannedPerCpuSecond), read)
  return new Gathered({ memoryBytes: memory, channels, readBytesPerSecond: read })
    .add({
      results: runs,
      ratios: {
        zeroScanVsReadBandwidth,
        halfVsNone: throughputRatio(runs.half, runs.none),
        allVsNone: throughputRatio(runs.all, runs.none),
      },
      table: contestantTable(`${formatBytes(memory)} of RAM, loopback`, FIELD, runs, [
        medianColumn('channel CPU-s/GB', (run) => channelCpuSeconds(run) / (run.ramBytes / GB), 3),
      ]),
      notes: [
        verdict('zeroScanVsReadBandwidth', zeroScanVsReadBandwidth, SCAN_TARGET),
        'It is bytes of zero pages per CPU-second of the sending channel threads, over bytes per ' +
          'CPU-second of one plain C++ thread that reads as much memory of the same kind, as wide as the processor can: ' +
          `${(median(read) / GB).toFixed(1)} GB/s, median.`,
        'Zero pages are resident on both sides; where a page was never touched it is not even read.',
      ],
      runs,
    })
    .findings(options)
}

function scannedPerCpuSecond(run: MigrationRun): number {
  return (run.source.migration.zeroPages * PAGE_BYTES) / channelCpuSeconds(run)
}

function channelCpuSeconds({ source }: MigrationRun): number {
  const nanoseconds = source.migration.channels.map(({ cpuNanoseconds }) => cpuNanoseconds)
  return nanoseconds.reduce((sum, one) => sum + one, 0) / 1e9
}
