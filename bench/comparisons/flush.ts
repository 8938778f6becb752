// How much memory a zero-copy channel must leave with the kernel: fixed marks, no mark at all (a
// flush at the end of each scan only), and the adaptive policy, where the receiver is slow and
// where the link is. Adaptive must be as fast as the best, with less pinned than by any fixed mark
// that is.
import { type Command, Option } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  type Column,
  type Contestant,
  type Course,
  contestantTable,
  declareTurns,
  leastOf,
  pinnedBytes,
  type Runs,
  sized,
  type TurnOptions,
  takeTurns,
  throughput,
  throughputRatio,
  verdict,
} from '../contestants.ts'
import type { DutyCycle } from '../duty-cycle.ts'
import { Gathered } from '../gathered.ts'
import type { MigrationRun } from '../migration.ts'
import { LOOPBACK, type Path, Paths } from '../path.ts'
import { formatBytes } from '../report.ts'
import type { Rig } from '../rig.ts'
import { median, pairedRatio, type Ratio } from '../run.ts'
import type { MigrationOrder } from '../sides/side-options.ts'

const MIB = 2 ** 20
const ENOUGH = 0.95
const SLOW_RECEIVER: DutyCycle = { runMs: 5, periodMs: 20 }

const FIXED = ['scanEndOnly', 'fixed1MiB', 'fixed4MiB', 'fixed16MiB', 'fixed64MiB'] as const
type Name = 'adaptive' | (typeof FIXED)[number]

/** One kind of slowness. */
interface Scenario extends Pick<Course, 'slowDestination'> {
  readonly name: string
  readonly label: string
  /** Of the link; the machine's own unless given. */
  readonly bitsPerSecond?: number
  /** Of `--memory`: a slow link gets less, so that a run takes a second there too. */
  readonly memoryShare: number
}

const RECEIVER: Scenario = {
  name: 'slowReceiver',
  label: `a receiver that runs ${SLOW_RECEIVER.runMs} of every ${SLOW_RECEIVER.periodMs} ms`,
  slowDestination: SLOW_RECEIVER,
  memoryShare: 1,
}
const LINKS: readonly Scenario[] = [
  { name: 'link1Gbit', label: 'a link of 1 Gbit/s', bitsPerSecond: 1e9, memoryShare: 1 / 4 },
  { name: 'link5Gbit', label: 'a link of 5 Gbit/s', bitsPerSecond: 5e9, memoryShare: 1 },
]

export interface FlushOptions extends TurnOptions {
  readonly engine: Exclude<MigrationOrder['engine'], 'auto'>
}

export const flush: Comparison<FlushOptions> = {
  name: 'flush',
  question: 'is adaptive flushing as fast as the best fixed mark, with less memory pinned?',
  minutes: 10,
  declare: (command: Command) =>
    declareTurns(command, '512MiB').addOption(
      new Option('--engine <name>', 'of all contestants')
        .choices(['sendmsg', 'io-uring'])
        .default('sendmsg'),
    ),
  run,
}

async function run(given: Setting<FlushOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  await using open = await Paths.open(undefined)
  const path = open.paths.at(-1) ?? LOOPBACK // the rig, where there is one
  const scenarios = open.rig === undefined ? [RECEIVER] : [RECEIVER, ...LINKS]
  const gathered = new Gathered({ engine: setting.options.engine, path: path.name })
  const vsBest: Ratio[] = []
  for (const scenario of scenarios) {
    const { field, runs, memoryBytes } = await takeScenario(scenario, path, open.rig, setting)
    const judged = judge(scenario, field, runs)
    const ram = `${formatBytes(memoryBytes)} of incompressible RAM`
    const title = `${ram}, ${path.description}, ${scenario.label}`
    vsBest.push(judged.vsBest)
    gathered.add({
      ...judged,
      results: { [scenario.name]: { memoryBytes, ...runs, pinned: judged.pinned } },
      table: contestantTable(title, field, runs, PINNED),
      runs,
    })
  }
  const adaptiveVsBestThroughput = leastOf(vsBest) as Ratio
  return gathered.findings(setting.options, {
    ratios: { adaptiveVsBestThroughput },
    notes: [
      `${verdict('adaptiveVsBestThroughput', adaptiveVsBestThroughput, { atLeast: ENOUGH })} ` +
        'It is the least over the tables.',
      ...ownNotes(path, gathered.runs),
    ],
    interface: path.description,
    skipped: open.skipped.map(({ reason }) => ({
      what: 'real zero-copy completions, and links with a limited rate (the rig)',
      reason,
    })),
  })
}

async function takeScenario(
  { name, bitsPerSecond, slowDestination, memoryShare }: Scenario,
  path: Path,
  rig: Rig | undefined,
  setting: Setting<FlushOptions>,
) {
  const memoryBytes = setting.options.memory * memoryShare
  const field = contestants(setting.options.engine, memoryBytes)
  const options = { ...setting.options, memory: memoryBytes }
  const course = { path, name, slowDestination }
  if (bitsPerSecond !== undefined) await rig?.limitRate({ bitsPerSecond })
  try {
    return { field, memoryBytes, runs: await takeTurns(field, course, { ...setting, options }) }
  } finally {
    if (bitsPerSecond !== undefined) await rig?.limitRate(undefined)
  }
}

// One engine for all, so that only the marks differ. "Scan end only" has marks that all of the
// guest's memory stays below.
function contestants(
  engine: FlushOptions['engine'],
  memoryBytes: number,
): Record<Name, Contestant> {
  const fixed = (label: string, highWaterBytes: number): Contestant => {
    const flushThresholds = { highWaterBytes, lowWaterBytes: highWaterBytes / 2 }
    return { engine, zeroCopy: 'on', flushThresholds, label }
  }
  return {
    adaptive: { engine, zeroCopy: 'auto', label: 'adaptive' },
    scanEndOnly: fixed('at scan end only', 2 * memoryBytes),
    fixed1MiB: fixed('fixed, 1 MiB', MIB),
    fixed4MiB: fixed('fixed, 4 MiB', 4 * MIB),
    fixed16MiB: fixed('fixed, 16 MiB', 16 * MIB),
    fixed64MiB: fixed('fixed, 64 MiB', 64 * MIB),
  }
}

const PINNED: readonly Column[] = [
  ['pinned median', (runs) => formatBytes(median(runs.map(pinnedBytes)))],
  ['largest', (runs) => formatBytes(largestPinned(runs))],
]
const largestPinned = (runs: readonly MigrationRun[]) => Math.max(...runs.map(pinnedBytes))

function judge({ name, label }: Scenario, field: Record<Name, Contestant>, runs: Runs<Name>) {
  const suffix = name.charAt(0).toUpperCase() + name.slice(1)
  const speed = (one: Name) => median(runs[one].map(throughput))
  const [best = 'scanEndOnly'] = [...FIXED].sort((a, b) => speed(b) - speed(a))
  const vsBest = throughputRatio(runs.adaptive, runs[best])
  const fastEnough = FIXED.filter(
    (one) => throughputRatio(runs[one], runs[best]).median >= ENOUGH,
  ).sort((a, b) => largestPinned(runs[a]) - largestPinned(runs[b]))
  const [frugal = best] = fastEnough
  const pinned = (one: Name) => runs[one].map(pinnedBytes)
  const pinsLess = largestPinned(runs.adaptive) < largestPinned(runs[frugal])
  const amounts = Object.entries<readonly MigrationRun[]>(runs).map(([one, those]) => {
    const bytes = those.map(pinnedBytes)
    return [one, { medianBytes: median(bytes), largestBytes: Math.max(...bytes) }] as const
  })
  return {
    vsBest,
    ratios: {
      [`adaptiveVsBestThroughput${suffix}`]: vsBest,
      [`adaptiveVsFrugalPinned${suffix}`]: pairedRatio(pinned('adaptive'), pinned(frugal)),
    },
    pinned: Object.fromEntries(amounts),
    notes: [
      `With ${label}, adaptive reaches ${vsBest.median.toFixed(3)} of the best fixed one's ` +
        `throughput (${field[best].label}). Of those that reach ${ENOUGH}, "${field[frugal].label}" ` +
        `pins least, at most ${formatBytes(largestPinned(runs[frugal]))}; adaptive pins at most ` +
        `${formatBytes(largestPinned(runs.adaptive))}: ${pinsLess ? 'less' : 'NOT LESS'}.`,
    ],
  }
}

function ownNotes(path: Path, all: readonly MigrationRun[]): string[] {
  const shares = all
    .map(({ destinationRunningShare }) => destinationRunningShare)
    .filter((share) => share < 1)
  return [
    'Pinned: the most that each channel ever had sent and unreleased, added up over the channels. Marks ' +
      'are per channel.',
    `The slow receiver is stopped and let go on (SIGSTOP, SIGCONT) by the clock; it could run ` +
      `${(median(shares) * 100).toFixed(0)} % of the time.`,
    path.name === 'lo'
      ? 'On loopback the kernel copies zero-copy sends, and releases them at once.'
      : '',
  ].filter((note) => note !== '')
}
