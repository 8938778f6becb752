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
import type { MigrationOrder } from './sides/side-options.ts'

const GB = 1e9
const MEMORY_MAX_BYTES = 4 * 2 ** 30
const SMOKE = { memory: 64 * 2 ** 20, pairs: 1 }
/** Where a margin is below 10 %, fewer turns prove nothing. */
const PAIRS_MIN = 15

/** One way of sending. */
export interface Contestant
  extends Pick<MigrationOrder, 'engine' | 'zeroCopy' | 'flushThresholds'> {
  /** For tables. */
  readonly label: string
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
export function declareTurns(command: Command, memory: string): Command {
  return command
    .addOption(
      sizeOption('--memory <size>', 'guest RAM, at most 4GiB')
        .default(parseSize(memory), memory)
        .argParser(parseMemory),
    )
    .addOption(numberOption('--channels <n>', 'multifd channels', CHANNELS_RANGE).default(2))
    .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(PAIRS_MIN))
    .option('--no-huge-pages', 'guest RAM on 4 KiB pages')
    .option('--smoke', `only to see that it works: ${formatBytes(SMOKE.memory)}, one turn`)
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

/** Where the turns take place, and how slow its far end is. */
export interface Course extends Pick<RunOptions, 'slowDestination'> {
  readonly path: Path
  /** For progress lines. */
  readonly name: string
}

/** Every contestant once per turn; in the warm-up turn both sides' RAM is hashed and compared. */
export function takeTurns<Name extends string>(
  field: Field<Name>,
  { path, name: where, slowDestination }: Course,
  { options, signal, progress }: Setting<TurnOptions>,
): Promise<Runs<Name>> {
  const { memory, channels, pairs, hugePages } = options
  const runs = { count: 0, runBytes: 0 }
  const guest = { kind: 'anonymous', sizeBytes: memory, hugePages, runs } as const
  const turnOf =
    ({ label, ...way }: Contestant) =>
    async (turn: Turn) => {
      const order = { ...way, guest, channels, checksum: turn.warmUp, watchMemory: false }
      const run = await runMigration(order, memory, { signal, path, slowDestination })
      const speed = `${throughput(run).toFixed(2)} GB/s`
      progress(`${turnName(turn, pairs)}  ${where}, ${label}: ${speed}`)
      return run
    }
  const names = Object.keys(field) as Name[]
  const turns = Object.fromEntries(names.map((name) => [name, turnOf(field[name])]))
  return alternate(turns as Contestants<Record<Name, MigrationRun>>, { turns: pairs, signal })
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

/** One row per contestant. */
export function contestantTable<Name extends string>(
  title: string,
  field: Field<Name>,
  runs: Runs<Name>,
): Table {
  const middle = (name: Name, of: (run: MigrationRun) => number) => median(runs[name].map(of))
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`
  const row = (name: Name) => {
    const speeds = runs[name].map(throughput)
    return [
      field[name].label,
      ...[median(speeds), Math.min(...speeds), Math.max(...speeds)].map((n) => n.toFixed(2)),
      middle(name, (run) => cpuPerGb(run, 'source')).toFixed(3),
      middle(name, (run) => cpuPerGb(run, 'destination')).toFixed(3),
      percent(middle(name, zeroCopyShare)),
      percent(middle(name, copiedShare)),
      enginesUsed(runs[name]),
    ]
  }
  return {
    title,
    columns: [
      ...['', 'GB/s median', 'min', 'max', 'source CPU-s/GB', 'dest. CPU-s/GB'],
      ...['zero-copy', 'copied after all', 'sent by'],
    ],
    rows: (Object.keys(field) as Name[]).map(row),
  }
}

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
    `Where the sides ran: ${[...new Set(settings)].join('; ')}.`,
    `Huge pages ${hugePages ? 'asked for' : 'refused'}; at the source they really back ` +
      `${formatBytes(Math.min(...huge))} to ${formatBytes(Math.max(...huge))}.`,
    pairs < PAIRS_MIN ? `Fewer than ${PAIRS_MIN} turns: these figures prove nothing.` : '',
  ].filter((note) => note !== '')
}
