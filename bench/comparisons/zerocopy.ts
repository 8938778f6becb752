// What `zeroCopy: 'auto'` costs where the kernel copies anyway (loopback), and what it gains where
// it does not (the veth rig). On loopback it must notice and stop, on the rig it must stay.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting } from '../comparison.ts'
import {
  contestantTable,
  declareTurns,
  type Field,
  leastOf,
  policyAnswers,
  type Runs,
  senderCpuRatio,
  sized,
  type TurnOptions,
  takeTurns,
  throughputRatio,
  verdict,
  zeroCopyShare,
} from '../contestants.ts'
import { Gathered, type Part } from '../gathered.ts'
import { type PathName, Paths, pathOption } from '../path.ts'
import { formatBytes } from '../report.ts'
import { type Ratio, ratioOf } from '../run.ts'

const THROUGHPUT_TARGET = { atLeast: 0.97 }
const SENDER_CPU_TARGET = { atMost: 0.75 }
const SHARE_TARGET = { atLeast: 0.95 }

const ON_LOOPBACK = {
  sendmsgAuto: { engine: 'sendmsg', zeroCopy: 'auto', label: 'sendmsg, auto' },
  sendmsgOff: { engine: 'sendmsg', zeroCopy: 'off', label: 'sendmsg, off' },
  ioUringAuto: { engine: 'io-uring', zeroCopy: 'auto', label: 'io-uring, auto' },
  ioUringOff: { engine: 'io-uring', zeroCopy: 'off', label: 'io-uring, off' },
} as const satisfies Field<string>

const ON_RIG = {
  auto: { engine: 'auto', zeroCopy: 'auto', label: 'auto' },
  off: { engine: 'auto', zeroCopy: 'off', label: 'off' },
  on: { engine: 'auto', zeroCopy: 'on', label: 'on' },
} as const satisfies Field<string>

export interface ZerocopyOptions extends TurnOptions {
  readonly path?: PathName
}

export const zerocopy: Comparison<ZerocopyOptions> = {
  name: 'zerocopy',
  question: 'does zero-copy "auto" stop where it does not pay, and stay where it does?',
  minutes: 7,
  declare: (command: Command) => declareTurns(command, '2GiB').addOption(pathOption()),
  run,
}

async function run(given: Setting<ZerocopyOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  const { memory, channels, path: only } = setting.options
  await using open = await Paths.open(only)
  const gathered = new Gathered({ memoryBytes: memory, channels })
  for (const path of open.paths) {
    const course = { path, name: path.name }
    const title = `${formatBytes(memory)} of incompressible RAM, ${path.description}`
    const add = <Name extends string>(
      field: Field<Name>,
      runs: Runs<Name>,
      judged: Pick<Part, 'ratios' | 'notes'>,
    ) => {
      const table = contestantTable(title, field, runs)
      gathered.add({ results: { [path.name]: runs }, table, runs, ...judged })
    }
    if (path.name === 'lo') {
      const runs = await takeTurns(ON_LOOPBACK, course, setting)
      add(ON_LOOPBACK, runs, onLoopback(runs))
    } else {
      const runs = await takeTurns(ON_RIG, course, setting)
      add(ON_RIG, runs, onRig(runs))
    }
  }
  return gathered.findings(setting.options, {
    interface: open.paths.map(({ description }) => description).join('; '),
    skipped: open.skipped,
  })
}

function onLoopback(runs: Runs<keyof typeof ON_LOOPBACK>) {
  const sendmsg = throughputRatio(runs.sendmsgAuto, runs.sendmsgOff)
  const ioUring = throughputRatio(runs.ioUringAuto, runs.ioUringOff)
  const worse = leastOf([sendmsg, ioUring]) as Ratio
  return {
    ratios: { autoVsOffLo: worse, autoVsOffLoSendmsg: sendmsg, autoVsOffLoIoUring: ioUring },
    notes: [
      `${verdict('autoVsOffLo', worse, THROUGHPUT_TARGET)} It is the worse of the two engines.`,
      `lo: auto ended as: ${policyAnswers([...runs.sendmsgAuto, ...runs.ioUringAuto])}.`,
    ],
  }
}

function onRig(runs: Runs<keyof typeof ON_RIG>) {
  const throughput = throughputRatio(runs.auto, runs.off)
  const senderCpu = senderCpuRatio(runs.auto, runs.off)
  const share = ratioOf(runs.auto.map(zeroCopyShare))
  return {
    ratios: {
      autoVsOffRig: throughput,
      autoVsOffRigSenderCpu: senderCpu,
      zeroCopyShareRig: share,
      onVsOffRig: throughputRatio(runs.on, runs.off),
      onVsOffRigSenderCpu: senderCpuRatio(runs.on, runs.off),
    },
    notes: [
      verdict('autoVsOffRig', throughput, THROUGHPUT_TARGET),
      verdict('autoVsOffRigSenderCpu', senderCpu, SENDER_CPU_TARGET),
      verdict('zeroCopyShareRig', share, SHARE_TARGET),
      `rig: auto ended as: ${policyAnswers(runs.auto)}.`,
    ],
  }
}
