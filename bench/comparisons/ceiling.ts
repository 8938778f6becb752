// How close a migration comes to what plain C++ threads reach on this machine. Same channels, same
// kind of memory, pre-faulted on both sides, same span: from the first connect to the final answer.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting, Table } from '../comparison.ts'
import { WARM_UPS } from '../contestants.ts'
import { iperf3Version, runIperf3 } from '../iperf3.ts'
import { type MigrationRun, runMigration } from '../migration.ts'
import {
  buildCeiling,
  type CeilingOptions,
  type CeilingResult,
  runCeiling,
  runMemcpy,
} from '../native-program.ts'
import {
  CHANNELS_RANGE,
  engineOption,
  numberOption,
  PAIRS_RANGE,
  sizeOption,
  zeroCopyOption,
} from '../options.ts'
import { formatBytes } from '../report.ts'
import { alternate, median, pairedRatio, type Ratio, ratioOf, type Turn, turnName } from '../run.ts'
import type { SideOptions } from '../sides/side-options.ts'

const KIB = 1024
const SEND_SIZES_BYTES = [512, 1024, 2048, 4096].map((size) => size * KIB)
// The kernel's own tuning, and what the library asks for on loopback (native/channel/endpoint.cc).
const SOCKET_BUFFERS_BYTES = [0, 1024 * KIB]
const CONGESTION_CONTROLS = ['system', 'reno']
const SEARCH_MEMORY_BYTES = 1024 ** 3
const SMOKE = { memory: 64 * KIB * KIB, pairs: 2 }
const GB = 1e9

export interface CeilingComparisonOptions {
  readonly memory: number
  readonly channels: number
  readonly pairs: number
  readonly sendSize?: number
  readonly congestionControl?: string
  readonly hugePages: boolean
  readonly engine: SideOptions['engine']
  readonly zeroCopy: SideOptions['zeroCopy']
  readonly smoke?: boolean
}

/** What the plain loop may choose for itself. */
type LoopSetting = Pick<CeilingOptions, 'sendSizeBytes' | 'socketBufferBytes' | 'congestionControl'>

interface Turns {
  readonly ours: MigrationRun[]
  readonly ceiling: CeilingResult[]
  /** Bytes per second; empty where iperf3 is not installed. */
  readonly iperf3: number[]
}

export const ceiling: Comparison<CeilingComparisonOptions> = {
  name: 'ceiling',
  question: 'how close does a migration come to a plain C++ send and receive loop?',
  minutes: 4,
  declare: (command: Command) =>
    command
      .addOption(
        sizeOption('--memory <size>', 'guest RAM, at most 4GiB').default(4 * KIB ** 3, '4GiB'),
      )
      .addOption(numberOption('--channels <n>', 'multifd channels', CHANNELS_RANGE).default(2))
      .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(9))
      .addOption(sizeOption('--send-size <size>', 'of the C++ loop; searched for when not given'))
      .option(
        '--congestion-control <name>',
        'of the C++ loop: "system", or one that the kernel offers; searched for when not given',
      )
      .option('--no-huge-pages', 'guest RAM on 4 KiB pages, in both contestants')
      .addOption(engineOption())
      .addOption(zeroCopyOption('auto'))
      .option('--smoke', `only to see that it works: ${formatBytes(SMOKE.memory)}, few turns`),
  run,
}

async function run(setting: Setting<CeilingComparisonOptions>): Promise<Findings> {
  const { signal } = setting
  const options = setting.options.smoke ? { ...setting.options, ...SMOKE } : setting.options
  if (options.memory > 4 * KIB ** 3) {
    throw new RangeError(`--memory is ${formatBytes(options.memory)}, expected at most 4 GiB`)
  }
  const program = await buildCeiling()
  const memoryOptions = { memoryBytes: options.memory, hugePages: options.hugePages }
  const loop = { ...memoryOptions, channels: options.channels }
  const best = await searchBest(program, loop, options, setting)
  const memcpyBytesPerSecond = await runMemcpy(program, memoryOptions, { signal })
  const iperf3 = iperf3Version()
  const turns = await takeTurns(program, { ...loop, ...best }, options, setting, iperf3)

  const seconds = (runs: readonly { seconds: number }[]) => runs.map((one) => one.seconds)
  const cpu = (runs: readonly { cpuSeconds: number }[]) => runs.map((one) => one.cpuSeconds)
  const ratios: Record<string, Ratio> = {
    // The same bytes on both sides: throughput is the inverse of time.
    throughputVsCeiling: pairedRatio(seconds(turns.ceiling), seconds(turns.ours)),
    cpuVsCeiling: pairedRatio(cpu(turns.ours), cpu(turns.ceiling)),
    jsThreadShare: ratioOf(turns.ours.map((result) => result.jsThreadShare)),
  }
  if (iperf3 !== undefined) {
    const plain = seconds(turns.ceiling).map((time) => options.memory / time)
    ratios.ceilingVsIperf3 = pairedRatio(plain, turns.iperf3)
  }
  return {
    results: {
      memoryBytes: options.memory,
      channels: options.channels,
      hugePages: options.hugePages,
      ...best,
      memcpyBytesPerSecond,
      iperf3Version: iperf3 ?? null,
      ...turns,
    },
    ratios,
    tables: [contestantTable(options.memory, turns)],
    notes: notesOf(options, turns, best, memcpyBytesPerSecond, iperf3),
  }
}

async function takeTurns(
  program: string,
  loop: CeilingOptions,
  options: CeilingComparisonOptions,
  { signal, progress }: Setting<CeilingComparisonOptions>,
  iperf3: string | undefined,
): Promise<Turns> {
  const { memory, pairs, channels, hugePages, engine, zeroCopy } = options
  const guest = {
    kind: 'anonymous',
    sizeBytes: memory,
    hugePages,
    runs: { count: 0, runBytes: 0 },
  } as const
  const said = (name: string, turn: Turn, seconds: number) =>
    progress(`${turnName(turn, pairs)}  ${name}: ${(memory / seconds / GB).toFixed(2)} GB/s`)
  const { iperf3: outside, ...turns } = await alternate(
    {
      ours: async (turn) => {
        // The warm-up turn is the one whose bytes are compared: it is not timed.
        const checksum = turn.warmUp
        const ways = { channels, engine, zeroCopy, warmUps: WARM_UPS }
        const order = { guest, ...ways, checksum, watchMemory: false }
        const result = await runMigration(order, memory, { signal })
        said('ours', turn, result.seconds)
        return result
      },
      ceiling: async (turn) => {
        const result = await runCeiling(program, loop, { signal })
        said('plain loop', turn, result.seconds)
        return result
      },
      iperf3: async (turn) => {
        if (iperf3 === undefined) return null
        const bytesPerSecond = await runIperf3({ bytes: memory, streams: channels }, { signal })
        said('iperf3', turn, memory / bytesPerSecond)
        return bytesPerSecond
      },
    },
    { turns: pairs, signal },
  )
  return { ...turns, iperf3: outside.filter((bytesPerSecond) => bytesPerSecond !== null) }
}

// The loop's own best, not a setting that happens to suit ours: each twice, the better counts.
async function searchBest(
  program: string,
  loop: Omit<CeilingOptions, keyof LoopSetting>,
  { sendSize, congestionControl }: CeilingComparisonOptions,
  { signal, progress }: Setting<CeilingComparisonOptions>,
): Promise<LoopSetting> {
  const memoryBytes = Math.min(loop.memoryBytes, SEARCH_MEMORY_BYTES)
  const sizes = sendSize === undefined ? SEND_SIZES_BYTES : [sendSize]
  const controls = congestionControl === undefined ? CONGESTION_CONTROLS : [congestionControl]
  const settings = controls.flatMap((control) =>
    SOCKET_BUFFERS_BYTES.flatMap((socketBufferBytes) =>
      sizes.map((sendSizeBytes) => {
        return { sendSizeBytes, socketBufferBytes, congestionControl: control }
      }),
    ),
  )
  let best: LoopSetting = { sendSizeBytes: 0, socketBufferBytes: 0, congestionControl: '' }
  let bestSeconds = Number.POSITIVE_INFINITY
  for (const setting of [...settings, ...settings]) {
    const { seconds } = await runCeiling(program, { ...loop, memoryBytes, ...setting }, { signal })
    const { sendSizeBytes, socketBufferBytes: buffers } = setting
    progress(
      `send size ${formatBytes(sendSizeBytes)}, socket buffers ${formatBytes(buffers)}, ` +
        `${setting.congestionControl}: ${(memoryBytes / seconds / GB).toFixed(2)} GB/s`,
    )
    if (seconds >= bestSeconds) continue
    best = setting
    bestSeconds = seconds
  }
  return best
}

function contestantTable(memory: number, turns: Turns): Table {
  const row = (name: string, throughput: number[], cpuPerGb: number[]) => [
    name,
    ...[median(throughput), Math.min(...throughput), Math.max(...throughput)].map((value) =>
      value.toFixed(2),
    ),
    cpuPerGb.length === 0 ? '' : median(cpuPerGb).toFixed(3),
  ]
  const rows = (['ours', 'ceiling'] as const).map((name) =>
    row(
      name === 'ours' ? 'ours' : 'plain C++ loop',
      turns[name].map(({ seconds }) => memory / seconds / GB),
      turns[name].map(({ cpuSeconds }) => cpuSeconds / (memory / GB)),
    ),
  )
  if (turns.iperf3.length > 0) {
    rows.push(
      row(
        'iperf3',
        turns.iperf3.map((bytesPerSecond) => bytesPerSecond / GB),
        [],
      ),
    )
  }
  return {
    title: `${formatBytes(memory)} of incompressible RAM`,
    columns: ['', 'GB/s median', 'min', 'max', 'CPU-s per GB, both sides'],
    rows,
  }
}

function notesOf(
  { hugePages, zeroCopy, pairs }: CeilingComparisonOptions,
  turns: Turns,
  { sendSizeBytes, socketBufferBytes, congestionControl }: LoopSetting,
  memcpyBytesPerSecond: number,
  iperf3: string | undefined,
): string[] {
  const huge = (...bytes: (number | undefined)[]) =>
    bytes.map((n) => formatBytes(n ?? 0)).join(', ')
  const [ours, plain] = [turns.ours[0], turns.ceiling[0]]
  return [
    'Throughput is RAM bytes over the time from the first connect to the final answer. For ours the ' +
      'span is the whole migrate() call: arming dirty tracking and stopping the guest are inside.',
    'Memory was pre-faulted on both sides: written with random bytes at the source, with zeros at ' +
      'the destination, which was told memoryIsZero so that it did not give the pages back first.',
    `Memory: private anonymous, huge pages ${hugePages ? 'asked for' : 'refused'}; really backed ` +
      `(source, destination): ours ${huge(ours?.source.hugePageBytes, ours?.destination.hugePageBytes)}; ` +
      `plain loop ${huge(plain?.sourceHugePageBytes, plain?.destinationHugePageBytes)}.`,
    `The plain loop is at its best with sends of ${formatBytes(sendSizeBytes)}, ` +
      `${socketBufferBytes === 0 ? "the kernel's" : formatBytes(socketBufferBytes)} socket buffers ` +
      `and the congestion control ${congestionControl}. ` +
      `One thread's memcpy of the same memory reaches ${(memcpyBytesPerSecond / GB).toFixed(1)} GB/s.`,
    `Each side's process of ours made ${WARM_UPS} small migrations before the one measured.`,
    'In the warm-up turn both sides of ours hashed their RAM: identical.',
    zeroCopy === 'off' ? 'Zero-copy is off: every byte is copied by the kernel on both sides.' : '',
    zeroCopy === 'off' ? '' : 'On loopback the kernel copies zero-copy sends after all.',
    iperf3 === undefined
      ? 'iperf3 is not installed: the plain loop is not checked against it.'
      : `${iperf3}, -l 512K: it sends one hot buffer; the plain loop must reach 0.8 of it.`,
    pairs < 9 ? 'Fewer than 9 turns: these figures prove nothing.' : '',
  ].filter((note) => note !== '')
}
