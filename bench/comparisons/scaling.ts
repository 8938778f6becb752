// What a guest's size costs where it holds little: planning a round of a guest whose address space
// grows from 1 GiB to 1 TiB while one page of a thousand is dirty, and the fixed cost of any move.
// `sparse` asks the same of populated memory.
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  declarePairs,
  type Field,
  medianColumn,
  plainGuest,
  sized,
  type TurnOptions,
  tableOf,
  takeTurns,
  timeRatio,
  verdict,
} from '../contestants.ts'
import { Gathered } from '../gathered.ts'
import type { MigrationRun } from '../migration.ts'
import { LOOPBACK } from '../path.ts'
import { median, ratioOf } from '../run.ts'

const MIB = 2 ** 20
const GIB = 2 ** 30
const IDLE_BYTES = 16 * MIB
const PLAN_TARGET = { atMost: 20 }
const IDLE_TARGET = { atMost: 30 }
const CHANNELS = 2
const markedLog = { rounds: 8, everyPages: 1000 }

/** An almost empty guest of this size, in which a log marks what was written. */
function empty(sizeBytes: number, label: string) {
  const runs = { count: 1, runBytes: MIB }
  const guest = { kind: 'memfd', sizeBytes, hugePages: false, runs, markedLog } as const
  return { guest, warmUps: 0, downtimeLimitMs: 0, label }
}

const SIZES = {
  size1GiB: empty(GIB, '1 GiB, almost empty'),
  size16GiB: empty(16 * GIB, '16 GiB'),
  size128GiB: empty(128 * GIB, '128 GiB'),
  size1TiB: empty(1024 * GIB, '1 TiB'),
} as const satisfies Field<string>
type Size = keyof typeof SIZES

export type ScalingOptions = Omit<TurnOptions, 'memory' | 'channels'>

export const scaling: Comparison<ScalingOptions> = {
  name: 'scaling',
  question: 'does a round cost what is dirty, and a move what is there, up to 1 TiB?',
  minutes: 2,
  declare: declarePairs,
  run,
}

async function run(given: Setting<ScalingOptions>): Promise<Findings> {
  const options = sized({ ...given.options, memory: IDLE_BYTES, channels: CHANNELS })
  const field: Field<Size | 'idle'> = {
    idle: { guest: plainGuest(IDLE_BYTES, options.hugePages), warmUps: 0, label: '16 MiB, idle' },
    ...SIZES,
  }
  const runs = await takeTurns(field, { path: LOOPBACK, name: 'lo' }, { ...given, options })
  const planMs = ratioOf(runs.size1TiB.map(planMsOf))
  const idleMs = ratioOf(runs.idle.map(({ seconds }) => seconds * 1e3))
  const sizes = Object.keys(SIZES) as Size[]
  const planMsBySize = sizes.map((size) => [size, median(runs[size].map(planMsOf))])
  return new Gathered({ channels: CHANNELS, planMs: planMs.median, idleMs: idleMs.median })
    .add({
      results: { planMsBySize: Object.fromEntries(planMsBySize), ...runs },
      ratios: {
        planMs,
        idleMs,
        time1TiBVs1GiB: timeRatio(runs.size1TiB, runs.size1GiB),
      },
      table: tableOf('Guests that hold little, loopback, medians', field, runs, [
        medianColumn('total ms', ({ seconds }) => seconds * 1e3, 1),
        medianColumn('source CPU ms', ({ source }) => source.cpuSeconds * 1e3, 1),
        medianColumn('dest. CPU ms', ({ destination }) => destination.cpuSeconds * 1e3, 1),
        medianColumn('rounds', ({ source }) => source.migration.rounds),
        ['planning a round, ms', (those) => planText(median(those.map(planMsOf)))],
      ]),
      notes: [
        verdict('planMs', planMs, PLAN_TARGET),
        verdict('idleMs', idleMs, IDLE_TARGET),
        'planMs is no ratio but milliseconds, at 1 TiB with one page of ' +
          `${markedLog.everyPages} dirty: ` +
          'from the SYNCs of one round to the extents of the next, so fetching the dirty log ' +
          'and a write on the main channel are inside. The median of the rounds of each turn.',
        'idleMs is milliseconds from the call to the result, the first one of either process.',
        'The almost empty guests have 1 MiB of content, and a VMM that says what is dirty (`DirtyLog`); ' +
          'what it names is absent, so it travels as zero pages.',
      ],
      runs: { idle: runs.idle },
    })
    .findings(options)
}

const planText = (ms: number) => (Number.isNaN(ms) ? '' : ms.toFixed(1))
const planMsOf = ({ source }: MigrationRun) => median(source.planMs)
