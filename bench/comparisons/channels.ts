// Whether more channels help, and whether too many hurt: one to sixteen, everything else the same.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  contestantTable,
  cpuRatio,
  declareSizes,
  type Field,
  sized,
  type TurnOptions,
  takeTurns,
  throughputRatio,
  verdict,
} from '../contestants.ts'
import { Gathered } from '../gathered.ts'
import { LOOPBACK } from '../path.ts'
import { formatBytes } from '../report.ts'

const NO_LOSS = { atLeast: 0.97 }

const FIELD = {
  one: { channels: 1, label: '1 channel' },
  two: { channels: 2, label: '2 channels' },
  four: { channels: 4, label: '4 channels' },
  eight: { channels: 8, label: '8 channels' },
  sixteen: { channels: 16, label: '16 channels' },
} as const satisfies Field<string>

export const channels: Comparison<Omit<TurnOptions, 'channels'>> = {
  name: 'channels',
  question: 'do more channels make a migration faster, and do too many slow it down?',
  minutes: 3,
  declare: (command: Command) => declareSizes(command, '2GiB'),
  run,
}

async function run(given: Setting<Omit<TurnOptions, 'channels'>>): Promise<Findings> {
  const setting = { ...given, options: sized({ ...given.options, channels: 0 }) }
  const { memory } = setting.options
  const runs = await takeTurns(FIELD, { path: LOOPBACK, name: 'lo' }, setting)
  const channels2Vs1 = throughputRatio(runs.two, runs.one)
  const channels8Vs2 = throughputRatio(runs.eight, runs.two)
  return new Gathered({ memoryBytes: memory })
    .add({
      results: runs,
      ratios: {
        channels2Vs1,
        channels8Vs2,
        channels4Vs2: throughputRatio(runs.four, runs.two),
        channels16Vs2: throughputRatio(runs.sixteen, runs.two),
        channels2Vs1Cpu: cpuRatio(runs.two, runs.one),
        channels8Vs2Cpu: cpuRatio(runs.eight, runs.two),
      },
      table: contestantTable(`${formatBytes(memory)} of incompressible RAM, loopback`, FIELD, runs),
      notes: [
        verdict('channels2Vs1', channels2Vs1, NO_LOSS),
        verdict('channels8Vs2', channels8Vs2, NO_LOSS),
        'Both sides share the cores of one machine here: with two cores, one channel already keeps ' +
          'one thread of each side busy.',
      ],
      runs,
    })
    .findings(setting.options)
}
