// What happens when zero-copy and plain sends alternate in one stream: a header before each
// zero-copied body, sent in five ways, on loopback and on the veth rig. The library is not measured
// here; what it does is the way called one-call.
import { type Command, Option } from 'commander'
import type { Comparison, Findings, Setting, Table } from '../comparison.ts'
import { type HeadersRun, runHeaders, WAYS, type Way } from '../headers-program.ts'
import { numberOption, PAIRS_RANGE, sizeOption } from '../options.ts'
import { type Path, type PathName, Paths, pathOption } from '../path.ts'
import { formatBytes } from '../report.ts'
import { alternate, median, pairedRatio, type Ratio, type Turn, turnName } from '../run.ts'

const KIB = 1024
const MIB = 1024 * KIB
const SMOKE = { memory: 16 * MIB, pairs: 2 }
// What the library asks for on loopback; elsewhere the kernel tunes the buffers, and so here.
const LOOPBACK_BUFFER_BYTES = MIB

const MEANINGS: Record<Way, string> = {
  none: 'no headers: bodies alone',
  plain: 'plain header, then zero-copy body: two calls',
  more: 'the same, the header with MSG_MORE',
  'one-call': 'header and body by one zero-copy call',
  flush: 'two calls, and all released after each body',
}
const RATIO_NAMES: Record<Way, string> = {
  none: 'none',
  plain: 'plain',
  more: 'more',
  'one-call': 'oneCall',
  flush: 'flush',
}

export interface HeadersComparisonOptions {
  readonly memory: number
  readonly body: number
  readonly header: number
  readonly pairs: number
  readonly path?: PathName
  readonly smoke?: boolean
}

/** The turns of one path, and the pass whose contents were compared. */
interface Measured {
  readonly path: PathName
  readonly turns: Record<Way, HeadersRun[]>
  readonly checked: Record<Way, HeadersRun>
}

export const headers: Comparison<HeadersComparisonOptions> = {
  name: 'headers',
  question: 'zero-copy 1 MiB, plain 4 KiB, zero-copy 1 MiB, ...: what do the headers cost?',
  minutes: 5,
  declare: (command: Command) =>
    command
      .addOption(sizeOption('--memory <size>', 'all bodies').default(1024 * MIB, '1GiB'))
      .addOption(sizeOption('--body <size>', 'one body').default(MIB, '1MiB'))
      .addOption(sizeOption('--header <size>', 'one header').default(4 * KIB, '4KiB'))
      .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(15))
      .addOption(pathOption())
      .addOption(new Option('--smoke', `only to see that it works: ${formatBytes(SMOKE.memory)}`)),
  run,
}

async function run(setting: Setting<HeadersComparisonOptions>): Promise<Findings> {
  const options = setting.options.smoke ? { ...setting.options, ...SMOKE } : setting.options
  const { memory, body } = options
  if (memory % body !== 0) {
    throw new RangeError(
      `--memory is ${formatBytes(memory)}, expected a multiple of --body (${formatBytes(body)})`,
    )
  }
  await using opened = await Paths.open(options.path)
  const measured: Measured[] = []
  for (const path of opened.paths) measured.push(await measure(path, { ...setting, options }))
  return {
    results: { ...options, ways: MEANINGS, paths: measured },
    ratios: Object.assign({}, ...measured.map(ratiosOf)) as Record<string, Ratio>,
    tables: measured.map((of) => tableOf(of, options)),
    notes: notesOf(options),
    interface: opened.paths.map(({ description }) => description).join(', '),
    skipped: opened.skipped,
  }
}

async function measure(
  path: Path,
  { options, signal, progress }: Setting<HeadersComparisonOptions>,
): Promise<Measured> {
  const checked: Partial<Record<Way, HeadersRun>> = {}
  const send = (way: Way) => async (turn: Turn) => {
    // The warm-up turn compares contents, and leaves the error queue alone until the end: then its
    // notifications tell what the kernel joins, however fast a reader would be.
    const result = await runHeaders(
      {
        path,
        way,
        memoryBytes: options.memory,
        bodyBytes: options.body,
        headerBytes: options.header,
        socketBufferBytes: path.name === 'lo' ? LOOPBACK_BUFFER_BYTES : 0,
        reap: turn.warmUp ? 'end' : 'each',
        verify: turn.warmUp,
      },
      { signal },
    )
    if (turn.warmUp) checked[way] = result
    const rate = (options.memory / result.seconds / 1e9).toFixed(2)
    progress(`${turnName(turn, options.pairs)}  ${path.name}, ${way}: ${rate} GB/s`)
    return result
  }
  const turns = await alternate<Record<Way, HeadersRun>>(
    {
      none: send('none'),
      plain: send('plain'),
      more: send('more'),
      'one-call': send('one-call'),
      flush: send('flush'),
    },
    { turns: options.pairs, signal },
  )
  return { path: path.name, turns, checked: checked as Record<Way, HeadersRun> }
}

/** Throughput and the sender's CPU time of every way over those of one-call. */
function ratiosOf({ path, turns }: Measured): Record<string, Ratio> {
  const ratios: Record<string, Ratio> = {}
  const where = path === 'lo' ? 'Lo' : 'Rig'
  const ours = turns['one-call']
  for (const way of WAYS.filter((name) => name !== 'one-call')) {
    const name = `${RATIO_NAMES[way]}VsOneCall${where}`
    // The same bodies in each: the throughputs are as the times are, the other way round.
    ratios[name] = pairedRatio(values(ours, 'seconds'), values(turns[way], 'seconds'))
    ratios[`${name}SenderCpu`] = pairedRatio(
      values(turns[way], 'cpuSeconds'),
      values(ours, 'cpuSeconds'),
    )
  }
  return ratios
}

function tableOf({ path, turns, checked }: Measured, options: HeadersComparisonOptions): Table {
  const gigabytes = options.memory / 1e9
  const mebibytes = options.memory / MIB
  const row = (way: Way) => {
    const runs = turns[way]
    const middle = (of: (run: HeadersRun) => number) => median(runs.map(of))
    const rates = runs.map(({ seconds }) => gigabytes / seconds)
    const late = checked[way]
    return [
      MEANINGS[way],
      ...[median(rates), Math.min(...rates), Math.max(...rates)].map((rate) => rate.toFixed(2)),
      middle((of) => of.cpuSeconds / gigabytes).toFixed(3),
      middle((of) => of.receiverCpuSeconds / gigabytes).toFixed(3),
      middle((of) => of.sendCalls / mebibytes).toFixed(2),
      middle((of) => (of.sendCalls + of.otherCalls) / mebibytes).toFixed(1),
      middle((of) => of.notifications / of.zeroCopyCalls).toFixed(2),
      `${late.notifications} of ${late.zeroCopyCalls}`,
      `${middle((of) => (100 * of.copiedBytes) / (of.copiedBytes + of.zeroCopyBytes)).toFixed(0)} %`,
      formatBytes(Math.max(...runs.map((of) => of.unreleasedHighBytes))),
    ]
  }
  return {
    title:
      `${path}: ${formatBytes(options.memory)} in bodies of ${formatBytes(options.body)}, ` +
      `headers of ${formatBytes(options.header)}`,
    columns: [
      ...['', 'GB/s median', 'min', 'max', 'sender CPU-s/GB', 'receiver', 'sends/MiB'],
      ...['calls/MiB', 'notices/send', 'read late', 'copied', 'unreleased'],
    ],
    rows: WAYS.map(row),
  }
}

function notesOf({ pairs }: HeadersComparisonOptions): string[] {
  return [
    'In the warm-up turn every header and every body was compared with what was sent: all are ' +
      'whole and in order, in each way.',
    'GB/s count bodies alone; the other figures are medians, "unreleased" is the most of any turn.',
    '"calls" are sends, reads of the error queue (after each packet) and polls for it; "read late" ' +
      'are the notifications for all zero-copy sends of the warm-up turn, in which the queue was ' +
      'read only when everything had arrived: the kernel joins what is consecutive.',
    'Ratios are over one-call: throughput, and CPU time of the sending process. Each side has a core ' +
      'of its own where there are two. Memory has pages of 4 KiB.',
    'A flush waits for the peer: over a longer path than one machine has, it costs more.',
    pairs < 9 ? 'Fewer than 9 turns: these figures prove nothing.' : '',
  ].filter((note) => note !== '')
}

function values(runs: readonly HeadersRun[], of: 'seconds' | 'cpuSeconds'): number[] {
  return runs.map((run) => run[of])
}
