// Whether a big guest that uses little memory costs what it uses: a sparse memfd guest against a
// small one with the same populated bytes. Holes must neither take time nor become resident.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import { cpuPerGb, verdict } from '../contestants.ts'
import { type MigrationRun, runMigration } from '../migration.ts'
import { CHANNELS_RANGE, numberOption, PAIRS_RANGE, sizeOption } from '../options.ts'
import { formatBytes } from '../report.ts'
import { alternate, median, pairedRatio, type Turn, turnName } from '../run.ts'

const MIB = 1024 * 1024
const RUN_BYTES = 2 * MIB
const TARGET = { atMost: 1.2 }
const SMOKE = { sparse: 1024 * MIB, populated: 64 * MIB, pairs: 2 }

export interface SparseComparisonOptions {
  readonly sparse: number
  readonly populated: number
  readonly channels: number
  readonly pairs: number
  readonly smoke?: boolean
}

export const sparse: Comparison<SparseComparisonOptions> = {
  name: 'sparse',
  question: 'does a sparse guest cost what it has populated, not what it could grow to?',
  minutes: 1,
  declare: (command: Command) =>
    command
      .addOption(
        sizeOption('--sparse <size>', 'RAM of the sparse guest').default(65536 * MIB, '64GiB'),
      )
      .addOption(sizeOption('--populated <size>', 'of both guests').default(256 * MIB, '256MiB'))
      .addOption(numberOption('--channels <n>', 'multifd channels', CHANNELS_RANGE).default(2))
      .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(9))
      .option('--smoke', `only to see that it works: ${formatBytes(SMOKE.sparse)}, few turns`),
  run,
}

async function run(setting: Setting<SparseComparisonOptions>): Promise<Findings> {
  const { signal, progress } = setting
  const options = setting.options.smoke ? { ...setting.options, ...SMOKE } : setting.options
  checkSizes(options)
  const { populated, pairs } = options
  const migrate = (sizeBytes: number, name: string) => {
    const runs = { count: populated / RUN_BYTES, runBytes: RUN_BYTES }
    const order = {
      guest: { kind: 'memfd', sizeBytes, hugePages: false, runs },
      channels: options.channels,
      engine: 'auto',
      zeroCopy: 'off',
      checksum: true,
      watchMemory: true,
    } as const
    return async (turn: Turn) => {
      const result = await runMigration(order, populated, { signal })
      progress(`${turnName(turn, pairs)}  ${name}: ${(result.seconds * 1e3).toFixed(0)} ms`)
      return result
    }
  }
  const turns = await alternate(
    { sparse: migrate(options.sparse, 'sparse'), dense: migrate(populated, 'dense') },
    { turns: pairs, signal },
  )
  const sparseVsDense = pairedRatio(secondsOf(turns.sparse), secondsOf(turns.dense))
  const largest = (of: (run: MigrationRun) => number) => Math.max(...turns.sparse.map(of))
  const destinationResidentBytes = largest((run) => run.destination.guestResidentBytes)
  return {
    results: {
      sparseBytes: options.sparse,
      populatedBytes: populated,
      channels: options.channels,
      destinationResidentBytes,
      sourceResidentBytes: largest((run) => run.source.guestResidentBytes),
      sourceTransportBytes: largest((run) => run.source.transportBytes),
      destinationTransportBytes: largest((run) => run.destination.transportBytes),
      ...turns,
    },
    ratios: { sparseVsDense },
    tables: [guestTable(options, turns)],
    notes: [
      verdict('sparseVsDense', sparseVsDense, TARGET),
      ...notesOf(options, destinationResidentBytes),
    ],
  }
}

function secondsOf(runs: readonly MigrationRun[]): number[] {
  return runs.map(({ seconds }) => seconds)
}

function checkSizes({ sparse: sparseBytes, populated }: SparseComparisonOptions): void {
  if (populated % RUN_BYTES !== 0 || populated > sparseBytes) {
    throw new RangeError(
      `--populated is ${formatBytes(populated)}, expected a multiple of ${formatBytes(RUN_BYTES)} ` +
        `that is at most --sparse (${formatBytes(sparseBytes)})`,
    )
  }
}

function guestTable(
  options: SparseComparisonOptions,
  turns: Record<'sparse' | 'dense', MigrationRun[]>,
): Findings['tables'][number] {
  const row = (name: string, runs: readonly MigrationRun[]) => {
    const ms = secondsOf(runs).map((seconds) => seconds * 1e3)
    const largest = (of: (run: MigrationRun) => number) => formatBytes(Math.max(...runs.map(of)))
    return [
      name,
      ...[median(ms), Math.min(...ms), Math.max(...ms)].map((value) => value.toFixed(0)),
      ...(['source', 'destination'] as const).map((side) =>
        median(runs.map((run) => cpuPerGb(run, side))).toFixed(3),
      ),
      largest((run) => run.destination.guestResidentBytes),
      largest((run) => run.source.transportBytes),
      largest((run) => run.destination.transportBytes),
    ]
  }
  return {
    title: `memfd guests with ${formatBytes(options.populated)} populated`,
    columns: [
      ...['', 'ms median', 'min', 'max', 'source CPU-s/GB', 'dest. CPU-s/GB'],
      ...['resident after', 'source +', 'destination +'],
    ],
    rows: [
      row(`sparse, ${formatBytes(options.sparse)}`, turns.sparse),
      row(`dense, ${formatBytes(options.populated)}`, turns.dense),
    ],
  }
}

function notesOf(options: SparseComparisonOptions, destinationResidentBytes: number): string[] {
  const became = destinationResidentBytes <= options.populated * 1.01 ? 'did not become' : 'BECAME'
  return [
    `The populated bytes lie in runs of ${formatBytes(RUN_BYTES)}, evenly spread over the guest.`,
    `The destination's memfd holds ${formatBytes(destinationResidentBytes)} afterwards: the sparse ` +
      `guest ${became} resident.`,
    'Both sides hashed the populated runs in every turn, outside the measured span: identical.',
    'The last two columns are private memory beyond what each process had with Node, the library ' +
      "and the guest loaded: the transport's own, JavaScript heap included.",
    options.pairs < 9 ? 'Fewer than 9 turns: these figures prove nothing.' : '',
  ].filter((note) => note !== '')
}
