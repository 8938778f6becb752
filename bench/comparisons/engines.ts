// Whether the default choice, engine and zero-copy both `auto`, is the right one: against every
// other combination, on loopback and on the veth rig. The report says what it chose, and why.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  contestantTable,
  declareTurns,
  engineReasons,
  enginesUsed,
  type Field,
  leastOf,
  policyAnswers,
  type Runs,
  senderCpuRatio,
  sized,
  type TurnOptions,
  takeTurns,
  throughput,
  throughputRatio,
  verdict,
} from '../contestants.ts'
import { Gathered } from '../gathered.ts'
import { type Path, type PathName, Paths, pathOption } from '../path.ts'
import { formatBytes } from '../report.ts'
import { median, type Ratio } from '../run.ts'

const TARGET = { atLeast: 0.95 }

const FIELD = {
  auto: { engine: 'auto', zeroCopy: 'auto', label: 'default: auto, auto' },
  sendmsgOff: { engine: 'sendmsg', zeroCopy: 'off', label: 'sendmsg, off' },
  sendmsgOn: { engine: 'sendmsg', zeroCopy: 'on', label: 'sendmsg, on' },
  ioUringOff: { engine: 'io-uring', zeroCopy: 'off', label: 'io-uring, off' },
  ioUringOn: { engine: 'io-uring', zeroCopy: 'on', label: 'io-uring, on' },
  splice: { engine: 'splice', zeroCopy: 'auto', label: 'splice' },
} as const satisfies Field<string>
type Name = keyof typeof FIELD

const OTHERS = ['sendmsgOff', 'sendmsgOn', 'ioUringOff', 'ioUringOn', 'splice'] as const

export interface EnginesOptions extends TurnOptions {
  readonly path?: PathName
}

export const engines: Comparison<EnginesOptions> = {
  name: 'engines',
  question: 'is the default choice of engine and zero-copy as good as the best combination?',
  minutes: 8,
  declare: (command: Command) => declareTurns(command, '2GiB').addOption(pathOption()),
  run,
}

async function run(given: Setting<EnginesOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  const { memory, channels, path: only } = setting.options
  await using open = await Paths.open(only)
  const gathered = new Gathered({ memoryBytes: memory, channels })
  const vsBest: Ratio[] = []
  for (const path of open.paths) {
    const runs = await takeTurns(FIELD, { path, name: path.name }, setting)
    const judged = judge(path, runs)
    const title = `${formatBytes(memory)} of incompressible RAM, ${path.description}`
    vsBest.push(judged.vsBest)
    gathered.add({
      ...judged,
      results: { [path.name]: { ...runs, ...judged.chosen, best: judged.best } },
      table: contestantTable(title, FIELD, runs),
      runs,
    })
  }
  const autoVsBest = leastOf(vsBest) as Ratio
  return gathered.findings(setting.options, {
    ratios: { autoVsBest },
    notes: [`${verdict('autoVsBest', autoVsBest, TARGET)} It is the least over the paths.`],
    interface: open.paths.map(({ description }) => description).join('; '),
    skipped: open.skipped,
  })
}

// The best is the combination with the highest median, the same in every turn: the best of each
// turn would be the luckiest.
function judge(path: Path, runs: Runs<Name>) {
  const suffix = path.name === 'lo' ? 'Lo' : 'Rig'
  const speed = (name: Name) => median(runs[name].map(throughput))
  const [best = 'sendmsgOff'] = [...OTHERS].sort((a, b) => speed(b) - speed(a))
  const vsBest = throughputRatio(runs.auto, runs[best])
  const ratios: Record<string, Ratio> = { [`autoVsBest${suffix}`]: vsBest }
  for (const name of OTHERS) {
    const versus = `autoVs${name.charAt(0).toUpperCase()}${name.slice(1)}${suffix}`
    ratios[versus] = throughputRatio(runs.auto, runs[name])
    // On loopback both sides' work is done in one place; there is no sender to relieve.
    if (path.name === 'rig') ratios[`${versus}SenderCpu`] = senderCpuRatio(runs.auto, runs[name])
  }
  const chosen = { chosen: enginesUsed(runs.auto), chosenBecause: engineReasons(runs.auto) }
  const notes = [
    `${path.name}: the default chose ${chosen.chosen}: ${chosen.chosenBecause}. Its zero-copy ended ` +
      `as: ${policyAnswers(runs.auto)}.`,
    `${path.name}: the fastest of the others by its median is ${FIELD[best].label}.`,
  ]
  return { best, vsBest, ratios, chosen, notes }
}
