// What it costs when the connections break in the middle of round 0: bytes on the wire over those
// of an undisturbed migration, and the time until pages flow again. Both go through a forwarder,
// which cuts one of them.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import { plainGuest, verdict } from '../contestants.ts'
import { Forwarder } from '../forwarder.ts'
import { type MigrationRun, runMigration } from '../migration.ts'
import { numberOption, PAIRS_RANGE, parseSize, sizeOption } from '../options.ts'
import { formatBytes } from '../report.ts'
import { alternate, median, pairedRatio, ratioOf, type Turn, turnName } from '../run.ts'

const MB = 1e6
const TARGET = { atMost: 1.1 }
const SMOKE = { memory: 64 * 2 ** 20, pairs: 1 }

export interface ResumeOptions {
  readonly memory: number
  readonly pairs: number
  readonly smoke?: boolean
}

export const resume: Comparison<ResumeOptions> = {
  name: 'resume',
  question: 'what does a connection that breaks in the middle of RAM cost?',
  minutes: 2,
  declare: (command: Command) =>
    command
      .addOption(sizeOption('--memory <size>', 'guest RAM').default(parseSize('1GiB'), '1GiB'))
      .addOption(numberOption('--pairs <n>', 'alternating turns', PAIRS_RANGE).default(9))
      .option('--smoke', `only to see that it works: ${formatBytes(SMOKE.memory)}, one turn`),
  run,
}

/** A migration that was cut, or not. */
interface Passage {
  readonly transferredBytes: number
  readonly seconds: number
  /** Null if it was not cut. */
  readonly flowsAgainMs: number | null
  readonly ramIdentical: boolean | null
  readonly run: MigrationRun
}

async function run(setting: Setting<ResumeOptions>): Promise<Findings> {
  const { signal, progress } = setting
  const options = setting.options.smoke ? { ...setting.options, ...SMOKE } : setting.options
  const { memory, pairs } = options
  const over = (channels: number, cutAfterBytes?: number) => async (turn: Turn) => {
    const order = { memory, channels, checksum: turn.index === 0 }
    const one = await pass(order, cutAfterBytes, signal)
    const name = `${channels} channels${cutAfterBytes === undefined ? '' : ', cut'}`
    progress(`${turnName(turn, pairs)}  ${name}: ${(one.transferredBytes / MB).toFixed(0)} MB`)
    return one
  }
  const runs = await alternate(
    {
      undisturbed2: over(2),
      cut2: over(2, memory / 2),
      undisturbed4: over(4),
      cut4: over(4, memory / 2),
    },
    { turns: pairs, signal, warmUp: false },
  )
  const two = compared(runs.undisturbed2, runs.cut2)
  const four = compared(runs.undisturbed4, runs.cut4)
  return {
    results: { memoryBytes: memory, channels2: two.results, channels4: four.results },
    ratios: {
      bytesVsUndisturbed2: two.bytesVsUndisturbed,
      bytesVsUndisturbed4: four.bytesVsUndisturbed,
      flowsAgainMs2: two.flowsAgainMs,
      flowsAgainMs4: four.flowsAgainMs,
    },
    tables: [
      {
        title: `${formatBytes(memory)} of incompressible RAM, through a forwarder, medians`,
        columns: ['', 'MB sent', 'largest', 's', 'pages flow again after ms'],
        rows: [
          row('2 channels', runs.undisturbed2),
          row('2 channels, cut at half of round 0', runs.cut2),
          row('4 channels', runs.undisturbed4),
          row('4 channels, cut at half of round 0', runs.cut4),
        ],
      },
    ],
    notes: [
      verdict('bytesVsUndisturbed2', two.bytesVsUndisturbed, TARGET),
      verdict('bytesVsUndisturbed4', four.bytesVsUndisturbed, TARGET),
      'flowsAgainMs are milliseconds: from the reset of all connections to the first pages over new ' +
        'ones. The forwarder is a Node program, so seconds and throughput are mostly its own.',
      'What was on its way when the path was cut, in sockets on both sides of the forwarder, is sent ' +
        'again. In the first turn both sides hashed their RAM: identical.',
    ],
  }
}

async function pass(
  { memory, channels, checksum }: { memory: number; channels: number; checksum: boolean },
  cutAfterBytes: number | undefined,
  signal: AbortSignal,
): Promise<Passage> {
  const order = {
    ...{ guest: plainGuest(memory, true), channels, checksum, watchMemory: false },
    ...({ engine: 'auto', zeroCopy: 'auto' } as const),
  }
  const forwarders: Forwarder[] = []
  const through = async (uri: string) => {
    const cut = cutAfterBytes === undefined ? {} : { cutAfterBytes }
    const forwarder = await Forwarder.start({ uri, ...cut }, signal)
    forwarders.push(forwarder)
    return forwarder.uri
  }
  try {
    const run = await runMigration(order, memory, { signal, through })
    const flowsAgainMs = (await forwarders[0]?.report())?.flowsAgainMs ?? null
    if (cutAfterBytes !== undefined && flowsAgainMs === null) {
      throw new Error('the forwarder saw no pages behind the cut: was there one?')
    }
    const { seconds, ramIdentical } = run
    const { transferredBytes } = run.source.migration
    return { transferredBytes, seconds, flowsAgainMs, ramIdentical, run }
  } finally {
    await forwarders[0]?.[Symbol.asyncDispose]()
  }
}

function compared(undisturbed: readonly Passage[], cut: readonly Passage[]) {
  const bytes = ({ transferredBytes }: Passage) => transferredBytes
  const bytesVsUndisturbed = pairedRatio(cut.map(bytes), undisturbed.map(bytes))
  const flowsAgainMs = ratioOf(cut.map((passage) => passage.flowsAgainMs ?? Number.NaN))
  const results = {
    bytesVsUndisturbed: bytesVsUndisturbed.median,
    flowsAgainMs: flowsAgainMs.median,
    undisturbed,
    cut,
  }
  return { bytesVsUndisturbed, flowsAgainMs, results }
}

function row(name: string, passages: readonly Passage[]): string[] {
  const megabytes = passages.map(({ transferredBytes }) => transferredBytes / MB)
  const again = passages.flatMap(({ flowsAgainMs }) => flowsAgainMs ?? [])
  return [
    ...[name, median(megabytes).toFixed(0), Math.max(...megabytes).toFixed(0)],
    median(passages.map(({ seconds }) => seconds)).toFixed(2),
    again.length === 0 ? '' : median(again).toFixed(0),
  ]
}
