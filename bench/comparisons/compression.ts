// What compression gains and what it costs, by what the guest's memory holds: throughput, CPU time
// of both sides, and how much less goes over the wire.
import type { Command } from 'commander'
import { GuestMemory, MigrationSource, MultifdError } from '../../src/index.ts'
import type { Comparison, Findings, Setting, Skipped } from '../comparison.ts'
import {
  contestantTable,
  cpuRatio,
  declareTurns,
  type Field,
  medianColumn,
  type Runs,
  sized,
  type TurnOptions,
  takeTurns,
  throughputRatio,
} from '../contestants.ts'
import { Gathered } from '../gathered.ts'
import type { MigrationRun } from '../migration.ts'
import { LOOPBACK } from '../path.ts'
import { formatBytes } from '../report.ts'
import { type Ratio, ratioOf } from '../run.ts'

const SMOKE_BYTES = 4 * 2 ** 20
const CONTENTS = ['text', 'mixed', 'random'] as const
const SMOKE_CONTENTS = ['mixed'] as const
const METHODS = ['zlib', 'zstd'] as const
type Method = (typeof METHODS)[number]

export const compression: Comparison<TurnOptions> = {
  name: 'compression',
  question: 'what does compression save on the wire, and what does it cost?',
  minutes: 8,
  declare: (command: Command) => declareTurns(command, '256MiB'),
  run,
}

async function run(given: Setting<TurnOptions>): Promise<Findings> {
  const { smoke } = given.options
  const options = { ...sized(given.options), ...(smoke && { memory: SMOKE_BYTES }) }
  const { memory, channels } = options
  const skipped = await missing()
  const methods = METHODS.filter((method) => !skipped.some(({ what }) => what === method))
  const gathered = new Gathered({ memoryBytes: memory, channels })
  for (const content of smoke ? SMOKE_CONTENTS : CONTENTS) {
    const field: Field<string> = Object.fromEntries(
      (['none', ...methods] as const).map((method) => [
        method,
        { compression: method, zeroCopy: 'off', guest: { content }, label: method },
      ]),
    )
    const runs = await takeTurns(field, { path: LOOPBACK, name: content }, { ...given, options })
    const title = `${formatBytes(memory)} of RAM, ${content}, loopback`
    gathered.add({
      results: { [content]: runs },
      ratios: ratiosOf(content, methods, runs),
      table: contestantTable(title, field, runs, [medianColumn('wire share', wireShare, 3)]),
      notes: [],
      runs,
    })
  }
  return gathered.findings(options, {
    notes: [
      'Text is words and numbers in random order, as in logs; mixed is text in every other page, ' +
        'random bytes in the rest. Level 1, as by default.',
      'Wire share is bytes on the channels over bytes of the pages that were sent.',
    ],
    skipped,
  })
}

/** The methods that this build does not have. */
async function missing(): Promise<Skipped[]> {
  await using memory = GuestMemory.allocate('pc.ram', 4096)
  return METHODS.flatMap((method) => {
    try {
      void new MigrationSource({
        memory,
        vmm: { stop: () => {}, resume: () => {} },
        compression: method,
      })
      return []
    } catch (error) {
      if (!(error instanceof MultifdError)) throw error
      return [{ what: method, reason: error.message }]
    }
  })
}

function ratiosOf(
  content: (typeof CONTENTS)[number],
  methods: readonly Method[],
  runs: Runs<string>,
): Record<string, Ratio> {
  const suffix = content.charAt(0).toUpperCase() + content.slice(1)
  const { none = [] } = runs
  return Object.fromEntries(
    methods.flatMap((method) => {
      const { [method]: those = [] } = runs
      return [
        [`${method}WireShare${suffix}`, ratioOf(those.map(wireShare))],
        [`${method}VsNone${suffix}`, throughputRatio(those, none)],
        [`${method}VsNone${suffix}Cpu`, cpuRatio(those, none)],
      ]
    }),
  )
}

function wireShare({ source }: MigrationRun): number {
  return source.migration.multifdBytes / source.migration.normalBytes
}
