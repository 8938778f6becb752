// Ways of sending that take turns over one path, and the figures that every comparison of them
// shows: throughput, CPU time of both sides, and what became of the bytes. Figures come from what
// runMigration measured and from the migration's own counters; nothing here chooses or judges.
import { type Command, InvalidArgumentError } from 'commander'
import type { Setting, Table } from './comparison.ts'
import { type MigrationRun, type RunOptions, runMigration } from './migration.ts'
import { CHANNELS_RANGE, numberOption, PAIRS_RANGE, parseSize, sizeOption } from './options.ts'
import type { Path } from './path.ts'
import { formatBytes } from './report.ts'
import {
  alternate,
  type Contestants,
  median,
  pairedRatio,
  type Ratio,
  type Turn,
  turnName,
} from './run.ts'
import type { GuestPlan, MigrationOrder } from './sides/side-options.ts'

const GB = 1e9
const MEMORY_MAX_BYTES = 4 * 2 ** 30
const SMOKE = { memory: 64 * 2 ** 20, pairs: 1 }
/** Of each side's process: a run shows what a VMM that has been running for long reaches. */
export const WARM_UPS = 3
/** Where a margin is below 10 %, fewer turns prove nothing. */
const PAIRS_MIN = 15

/** One way of sending: what is not given is as for all, engine and zero-copy `auto`. */
export interface Contestant extends Partial<Omit<MigrationOrder, 'guest'>> {
  /** For tables. */
  readonly label: string
  /** What is special about its guest. */
  readonly guest?: Partial<GuestPlan>
}

/** Names of contestants, as in results and ratios. */
export type Field<Name extends string> = Readonly<Record<Name, Contestant>>
export type Runs<Name extends string> = Readonly<Record<Name, readonly MigrationRun[]>>

/** What comparisons of contestants are told on the command line. */
export interface TurnOptions {
  readonly memory: number
  readonly channels: number
  readonly pairs: number
  readonly hugePages: boolean
  readonly smoke?: boolean
}

/** Declares them; `memory` is the default size, as a person writes it. */
export function declareTurns(command: Command, memory: string, channels = 2): Command {
  return declareSizes(command, memory).addOption(
    numberOption('--channels <n>', 'multifd channels', CHANNELS_RANGE).default(channels),
  )
}

/** The same without a number of channels, which is what varies. */
export function declareSizes(command: Command, memory: string): Command {
  return declarePairs(
    command.addOption(
      sizeOption('--memory <size>', 'guest RAM, at most 4GiB')
        .default(parseSize(memory), memory)
        .argParser(parseMemory),
    ),
  )
}

/** The same where the sizes are what varies, too. */
export function declarePairs(command: Command): Command {
  return command
    .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(PAIRS_MIN))
    .option('--no-huge-pages', 'guest RAM on 4 KiB pages')
    .option('--smoke', `only to see that it works: at most ${formatBytes(SMOKE.memory)}, one turn`)
}

/** The options, or their smoke size. */
export function sized<Options extends TurnOptions>(options: Options): Options {
  return options.smoke ? { ...options, ...SMOKE } : options
}

/** A size of guest RAM of which Node 20 has views. */
export function parseMemory(text: string): number {
  const bytes = parseSize(text)
  if (bytes <= MEMORY_MAX_BYTES) return bytes
  throw new InvalidArgumentError(`Expected at most ${formatBytes(MEMORY_MAX_BYTES)}.`)
}

/** Anonymous memory, all of it random. */
export function plainGuest(sizeBytes: number, hugePages: boolean): GuestPlan {
  return { kind: 'anonymous', sizeBytes, hugePages, runs: { count: 0, runBytes: 0 } }
}

function populatedBytes({ kind, sizeBytes, runs }: GuestPlan): number {
  return kind === 'anonymous' ? sizeBytes : runs.count * runs.runBytes
}

/** Where the turns take place, and how slow its far end is. */
export interface Course extends Pick<RunOptions, 'slowDestination'> {
  readonly path: Path
  /** For progress lines. */
  readonly name: string
}

/** Every contestant once per turn. */
export function takeTurns<Name extends string>(
  field: Field<Name>,
  course: Course,
  setting: Setting<TurnOptions>,
): Promise<Runs<Name>> {
  return alternate(turnsOf(field, course, setting), scheduleOf(setting))
}

/** A smoke test measures nothing, so it needs no warm-up. */
export function scheduleOf({ options: { pairs, smoke }, signal }: Setting<TurnOptions>) {
  return { turns: pairs, signal, warmUp: !smoke }
}

/**
 * What each contestant does in its turn; in the warm-up turn, or that of a smoke test, both sides'
 * RAM is hashed and compared. For comparisons in which something else takes turns with them.
 */
export function turnsOf<Name extends string>(
  field: Field<Name>,
  { path, name: where, slowDestination }: Course,
  { options, signal, progress }: Setting<TurnOptions>,
): Contestants<Record<Name, MigrationRun>> {
  const { memory, channels, pairs, hugePages, smoke = false } = options
  const warmUps = smoke ? 0 : WARM_UPS
  const common = {
    channels,
    engine: 'auto',
    zeroCopy: 'auto',
    watchMemory: false,
    warmUps,
  } as const
  const turnOf =
    ({ label, guest: own, ...way }: Contestant) =>
    async (turn: Turn) => {
      const guest = { ...plainGuest(memory, hugePages), ...own }
      const order = { ...common, checksum: turn.warmUp || smoke, ...way, guest }
      const ramBytes = populatedBytes(guest)
      const run = await runMigration(order, ramBytes, { signal, path, slowDestination })
      const speed = `${throughput(run).toFixed(2)} GB/s, ${(run.seconds * 1e3).toFixed(0)} ms`
      progress(`${turnName(turn, pairs)}  ${where}, ${label}: ${speed}`)
      return run
    }
  const names = Object.keys(field) as Name[]
  const turns = Object.fromEntries(names.map((name) => [name, turnOf(field[name])]))
  return turns as Contestants<Record<Name, MigrationRun>>
}

/** GB of guest RAM per second. */
export const throughput = ({ ramBytes, seconds }: MigrationRun): number => ramBytes / seconds / GB

/** CPU-seconds of one side's whole process per GB of guest RAM. */
export function cpuPerGb(run: MigrationRun, side: 'source' | 'destination'): number {
  return run[side].cpuSeconds / (run.ramBytes / GB)
}

/** The share of what the channels sent that the kernel released without having copied it, 0..1. */
export const zeroCopyShare = (run: MigrationRun): number => shareOf(run, 'zeroCopyBytes')

/** The share that was sent with zero-copy and that the kernel copied after all, 0..1. */
export const copiedShare = (run: MigrationRun): number => shareOf(run, 'copiedBytes')

function shareOf(run: MigrationRun, counter: 'zeroCopyBytes' | 'copiedBytes'): number {
  return channelSum(run, counter) / channelSum(run, 'sentBytes')
}

/** The most each channel ever had unreleased, over all channels; bytes. */
export const pinnedBytes = (run: MigrationRun): number => channelSum(run, 'unreleasedHighBytes')

type Counter = 'sentBytes' | 'zeroCopyBytes' | 'copiedBytes' | 'unreleasedHighBytes'

function channelSum({ source }: MigrationRun, counter: Counter): number {
  return source.migration.channels.reduce((sum, channel) => sum + channel[counter], 0)
}

/** `a`'s throughput over `b`'s. */
export function throughputRatio(a: readonly MigrationRun[], b: readonly MigrationRun[]): Ratio {
  return pairedRatio(a.map(throughput), b.map(throughput))
}

/** `a`'s CPU time at the source over `b`'s. */
export function senderCpuRatio(a: readonly MigrationRun[], b: readonly MigrationRun[]): Ratio {
  const cpu = (run: MigrationRun) => cpuPerGb(run, 'source')
  return pairedRatio(a.map(cpu), b.map(cpu))
}

/** `a`'s time over `b`'s, from the call to the result. */
export function timeRatio(a: readonly MigrationRun[], b: readonly MigrationRun[]): Ratio {
  const seconds = (run: MigrationRun) => run.seconds
  return pairedRatio(a.map(seconds), b.map(seconds))
}

/** CPU time of both sides per GB of guest RAM, `a`'s over `b`'s. */
export function cpuRatio(a: readonly MigrationRun[], b: readonly MigrationRun[]): Ratio {
  const cpu = ({ cpuSeconds, ramBytes }: MigrationRun) => cpuSeconds / ramBytes
  return pairedRatio(a.map(cpu), b.map(cpu))
}

/** The one with the least median. */
export function leastOf(ratios: readonly Ratio[]): Ratio | undefined {
  return [...ratios].sort((a, b) => a.median - b.median)[0]
}

/** What was in use, each combination once: `sendmsg plain`. */
export function enginesUsed(runs: readonly MigrationRun[]): string {
  return ofChannels(runs, ({ engine, sendMode }) => `${engine} ${sendMode}`).join(', ')
}

/** Why, each reason once. */
export function engineReasons(runs: readonly MigrationRun[]): string {
  return ofChannels(runs, ({ engineReason }) => engineReason).join('; ')
}

/** Where the policy of `zeroCopy: 'auto'` ended up and why, each answer once. */
export function policyAnswers(runs: readonly MigrationRun[]): string {
  const answer = ({ zeroCopyMode, flushReason }: ChannelReport) => `${zeroCopyMode}, ${flushReason}`
  return ofChannels(runs, answer).join('; ')
}

type ChannelReport = MigrationRun['source']['migration']['channels'][number]

function ofChannels(runs: readonly MigrationRun[], of: (channel: ChannelReport) => string) {
  return [...new Set(runs.flatMap(({ source }) => source.migration.channels.map(of)))]
}

/** One more column of a table: its heading, and what stands there for a contestant's runs. */
export type Column = readonly [heading: string, of: (runs: readonly MigrationRun[]) => string]

/** A column of medians. */
export function medianColumn(
  heading: string,
  of: (run: MigrationRun) => number,
  digits = 0,
): Column {
  return [heading, (runs) => median(runs.map(of)).toFixed(digits)]
}

/** One row per contestant. */
export function tableOf<Name extends string>(
  title: string,
  field: Field<Name>,
  runs: Runs<Name>,
  columns: readonly Column[],
): Table {
  return {
    title,
    columns: ['', ...columns.map(([heading]) => heading)],
    rows: (Object.keys(field) as Name[]).map((name) => [
      field[name].label,
      ...columns.map(([, of]) => of(runs[name])),
    ]),
  }
}

/** The same with what every comparison of throughput shows in front. */
export function contestantTable<Name extends string>(
  title: string,
  field: Field<Name>,
  runs: Runs<Name>,
  more: readonly Column[] = [],
): Table {
  return tableOf(title, field, runs, [...THROUGHPUT_COLUMNS, ...more])
}

const percent = (share: number) => `${(share * 100).toFixed(1)} %`
const THROUGHPUT_COLUMNS: readonly Column[] = [
  medianColumn('GB/s median', throughput, 2),
  ['min', (runs) => Math.min(...runs.map(throughput)).toFixed(2)],
  ['max', (runs) => Math.max(...runs.map(throughput)).toFixed(2)],
  medianColumn('source CPU-s/GB', (run) => cpuPerGb(run, 'source'), 3),
  medianColumn('dest. CPU-s/GB', (run) => cpuPerGb(run, 'destination'), 3),
  ['zero-copy', (runs) => percent(median(runs.map(zeroCopyShare)))],
  ['copied after all', (runs) => percent(median(runs.map(copiedShare)))],
  ['sent by', enginesUsed],
]

/** A sentence that holds a ratio's median against its target. */
export function verdict(
  name: string,
  ratio: Ratio,
  target: { readonly atLeast: number } | { readonly atMost: number },
): string {
  const wanted = 'atLeast' in target ? `at least ${target.atLeast}` : `at most ${target.atMost}`
  const met = 'atLeast' in target ? ratio.median >= target.atLeast : ratio.median <= target.atMost
  return `${name} is ${ratio.median.toFixed(3)}, wanted ${wanted}: ${met ? 'met' : 'NOT MET'}.`
}

function warmed(all: readonly MigrationRun[]): string {
  const counts = [...new Set(all.map(({ warmUps }) => warmUps))]
  if (counts.every((count) => count === 0))
    return 'Each run is the first migration of its processes.'
  return `Each side's process made ${counts.join(' or ')} small migrations before the one measured.`
}

/** What a reader must know beside every figure of such a comparison. */
export function turnNotes(
  { pairs, hugePages }: TurnOptions,
  all: readonly MigrationRun[],
): string[] {
  const settings = all.flatMap(({ source, destination }) =>
    [source.network, destination.network].map(
      (network) => `${network.congestionControl}, optmem_max ${network.optmemMaxBytes}`,
    ),
  )
  const huge = all.map(({ source }) => source.hugePageBytes)
  return [
    'Throughput is RAM bytes over the whole migrate() call. Memory is pre-faulted on both sides; each ' +
      'run is a pair of fresh processes; in the warm-up turn both hashed their RAM: identical.',
    'Zero-copy: the share of all bytes that the kernel released uncopied. Copied after all: sent with ' +
      'zero-copy, and copied by the kernel. The rest went out by plain, copying sends. Medians.',
    'The bench guest promises never to discard a page, so its memory may be registered with ' +
      'io_uring, unless it is in huge pages (--no-huge-pages).',
    warmed(all),
    `Where the sides ran: ${[...new Set(settings)].join('; ')}.`,
    `Huge pages ${hugePages ? 'asked for' : 'refused'}; at the source they really back ` +
      `${formatBytes(Math.min(...huge))} to ${formatBytes(Math.max(...huge))}.`,
    pairs < PAIRS_MIN ? `Fewer than ${PAIRS_MIN} turns: these figures prove nothing.` : '',
  ].filter((note) => note !== '')
}
