// A guest that rewrites all its memory, over one stream and over several: the case multifd was made
// for. Our source always has channels, so its single stream is one channel; a QEMU without multifd,
// all pages on its main channel, is the single stream that everybody had before.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  contestantTable,
  declareTurns,
  type Field,
  medianColumn,
  type Runs,
  scheduleOf,
  sized,
  type TurnOptions,
  timeRatio,
  turnsOf,
} from '../contestants.ts'
import { Gathered } from '../gathered.ts'
import { LOOPBACK } from '../path.ts'
import { qemuBinary } from '../qemu/binary.ts'
import { type PairFigures, qemuToQemu } from '../qemu/transfer.ts'
import { formatBytes } from '../report.ts'
import { alternate, median, pairedRatio, type Ratio, type Turn, turnName } from '../run.ts'

const MB = 1e6
const MIB = 2 ** 20
const DIRTY_BYTES_PER_SECOND = 200 * MB
/** Makes QEMU's guest about as fast, where TCG has a core of its own; what it was is reported. */
const QEMU_IDLE_TURNS = 1200
/** Of QEMU's guest: below lies what the BIOS has, and above, too. */
const WINDOW_START = MIB
const BESIDE_WINDOW_BYTES = 2 * MIB
/** A block that 7.2 does not read by whole words of its bitmap; see MEMORY_TRAP_BYTES. */
const OFF_THE_TRAP_BYTES = 8192

type OurName = 'single' | 'multi'
type QemuRuns = Readonly<Record<OurName, readonly PairFigures[]>>

export const singleVsMulti: Comparison<TurnOptions> = {
  name: 'single-vs-multi',
  question: 'how much faster does a guest that rewrites all its memory move over several channels?',
  minutes: 7,
  declare: (command: Command) => declareTurns(command, '2GiB'),
  run,
}

async function run(given: Setting<TurnOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  const { options } = setting
  const { memory, channels } = options
  const guest = { dirtyBytesPerSecond: DIRTY_BYTES_PER_SECOND }
  const field = {
    single: { channels: 1, guest, label: 'ours, 1 channel' },
    multi: { channels, guest, label: `ours, ${channels} channels` },
  } as const satisfies Field<OurName>
  const qemu = await qemuBinary().catch((error: Error) => error)
  const there = !(qemu instanceof Error)
  const { qemuSingle, qemuMulti, ...runs } = await alternate(
    {
      ...turnsOf(field, { path: LOOPBACK, name: 'lo' }, setting),
      qemuSingle: (turn) => (there ? qemuTurn(turn, false, setting) : Promise.resolve(null)),
      qemuMulti: (turn) => (there ? qemuTurn(turn, true, setting) : Promise.resolve(null)),
    },
    scheduleOf(setting),
  )
  const [single, multi] = [present(qemuSingle), present(qemuMulti)]
  const title = `${formatBytes(memory)} of RAM, rewritten at ${DIRTY_BYTES_PER_SECOND / MB} MB/s`
  const findings = new Gathered({
    memoryBytes: memory,
    channels,
    qemuSingle: single,
    qemuMulti: multi,
  })
    .add({
      results: runs,
      ratios: ratiosOf(runs, { single, multi }),
      table: contestantTable(`${title}, loopback`, field, runs, [
        medianColumn('seconds', ({ seconds }) => seconds, 2),
        medianColumn('rounds', ({ source }) => source.migration.rounds),
        medianColumn('guest MB/s', ({ source }) => (source.written?.bytesPerSecond ?? 0) / MB),
      ]),
      notes: [
        'multiVsSingle is the time of one channel over that of several, in our source; ' +
          'qemuMultiVsSingle the same in QEMU, whose single stream is its main channel; ' +
          "multiVsQemuSingle is the time of QEMU's single stream over that of our channels.",
        "QEMU's guest is a program that its TCG translates; it runs in QEMU's own time, which is in " +
          'its CPU time, and writes as fast as the table says.',
      ],
      runs,
    })
    .findings(options, there ? { qemu: qemu.version } : { skipped: [without(qemu)] })
  if (!there) return findings
  return {
    ...findings,
    tables: [...findings.tables, qemuTable(memory, channels, { single, multi })],
  }
}

const without = ({ message }: Error) => ({ what: 'QEMU', reason: message })
const present = <T>(runs: readonly (T | null)[]): T[] => runs.filter((one) => one !== null)

async function qemuTurn(
  turn: Turn,
  multifd: boolean,
  { options, signal, progress }: Setting<TurnOptions>,
): Promise<PairFigures> {
  const { memory, channels, pairs } = options
  const run = await qemuToQemu({
    memoryBytes: memory + OFF_THE_TRAP_BYTES,
    channels,
    multifd,
    guest: {
      windowStart: WINDOW_START,
      windowBytes: memory - BESIDE_WINDOW_BYTES,
      idleTurns: QEMU_IDLE_TURNS,
    },
    signal,
  })
  const name = multifd ? `${channels} channels` : 'without multifd'
  progress(`${turnName(turn, pairs)}  QEMU, ${name}: ${run.seconds.toFixed(2)} s`)
  return run
}

function ratiosOf(runs: Runs<OurName>, qemu: QemuRuns): Record<string, Ratio> {
  const multiVsSingle = timeRatio(runs.single, runs.multi)
  if (qemu.single.length === 0) return { multiVsSingle }
  const seconds = (those: readonly { readonly seconds: number }[]) =>
    those.map((run) => run.seconds)
  return {
    multiVsSingle,
    multiVsQemuSingle: pairedRatio(seconds(qemu.single), seconds(runs.multi)),
    qemuMultiVsSingle: pairedRatio(seconds(qemu.single), seconds(qemu.multi)),
  }
}

function qemuTable(memory: number, channels: number, qemu: QemuRuns) {
  const row = (label: string, runs: readonly PairFigures[]) => {
    const middle = (of: (run: PairFigures) => number) => median(runs.map(of))
    return [
      label,
      middle((run) => memory / run.seconds / 1e9).toFixed(2),
      middle((run) => run.sourceCpuSeconds / (memory / 1e9)).toFixed(3),
      middle((run) => run.destinationCpuSeconds / (memory / 1e9)).toFixed(3),
      middle((run) => run.seconds).toFixed(2),
      middle((run) => run.guestBytesPerSecond / MB).toFixed(0),
    ]
  }
  return {
    title: 'QEMU to QEMU, medians',
    columns: ['', 'GB/s', 'source CPU-s/GB', 'dest. CPU-s/GB', 'seconds', 'guest MB/s'],
    rows: [row('without multifd', qemu.single), row(`${channels} channels`, qemu.multi)],
  }
}
