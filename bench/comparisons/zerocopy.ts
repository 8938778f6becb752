// What `zeroCopy: 'auto'` costs where the kernel copies anyway (loopback), and what it gains where
// it does not (the veth rig). On loopback it must notice and stop, on the rig it must stay.
import type { Command } from 'commander'
import type { Comparison, Findings, Setting, Table } from '../comparison.ts'
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
  turnNotes,
  verdict,
  zeroCopyShare,
} from '../contestants.ts'
import type { MigrationRun } from '../migration.ts'
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
  declare: (command: Command) => declareTurns(command, '2GiB').addOption(pathOption()),
  run,
}

async function run(given: Setting<ZerocopyOptions>): Promise<Findings> {
  const setting = { ...given, options: sized(given.options) }
  const { memory, channels, path: only } = setting.options
  await using open = await Paths.open(only)
  const results: Record<string, unknown> = { memoryBytes: memory, channels }
  const ratios: Record<string, Ratio> = {}
  const tables: Table[] = []
  const notes: string[] = []
  const all: MigrationRun[] = []
  for (const path of open.paths) {
    const course = { path, name: path.name }
    const title = `${formatBytes(memory)} of incompressible RAM, ${path.description}`
    const add = <Name extends string>(
      field: Field<Name>,
      runs: Runs<Name>,
      judge: (runs: Runs<Name>, ratios: Record<string, Ratio>) => string[],
    ) => {
      results[path.name] = runs
      tables.push(contestantTable(title, field, runs))
      notes.push(...judge(runs, ratios))
      all.push(...Object.values<readonly MigrationRun[]>(runs).flat())
    }
    if (path.name === 'lo')
      add(ON_LOOPBACK, await takeTurns(ON_LOOPBACK, course, setting), onLoopback)
    else add(ON_RIG, await takeTurns(ON_RIG, course, setting), onRig)
  }
  return {
    results,
    ratios,
    tables,
    notes: [...notes, ...turnNotes(setting.options, all)],
    interface: open.paths.map(({ description }) => description).join('; '),
    skipped: open.skipped,
  }
}

function onLoopback(runs: Runs<keyof typeof ON_LOOPBACK>, ratios: Record<string, Ratio>): string[] {
  const sendmsg = throughputRatio(runs.sendmsgAuto, runs.sendmsgOff)
  const ioUring = throughputRatio(runs.ioUringAuto, runs.ioUringOff)
  const worse = leastOf([sendmsg, ioUring]) as Ratio
  Object.assign(ratios, {
    autoVsOffLo: worse,
    autoVsOffLoSendmsg: sendmsg,
    autoVsOffLoIoUring: ioUring,
  })
  return [
    `${verdict('autoVsOffLo', worse, THROUGHPUT_TARGET)} It is the worse of the two engines.`,
    `lo: auto ended as: ${policyAnswers([...runs.sendmsgAuto, ...runs.ioUringAuto])}.`,
  ]
}

function onRig(runs: Runs<keyof typeof ON_RIG>, ratios: Record<string, Ratio>): string[] {
  const throughput = throughputRatio(runs.auto, runs.off)
  const senderCpu = senderCpuRatio(runs.auto, runs.off)
  const share = ratioOf(runs.auto.map(zeroCopyShare))
  Object.assign(ratios, {
    autoVsOffRig: throughput,
    autoVsOffRigSenderCpu: senderCpu,
    zeroCopyShareRig: share,
    onVsOffRig: throughputRatio(runs.on, runs.off),
    onVsOffRigSenderCpu: senderCpuRatio(runs.on, runs.off),
  })
  return [
    verdict('autoVsOffRig', throughput, THROUGHPUT_TARGET),
    verdict('autoVsOffRigSenderCpu', senderCpu, SENDER_CPU_TARGET),
    verdict('zeroCopyShareRig', share, SHARE_TARGET),
    `rig: auto ended as: ${policyAnswers(runs.auto)}.`,
  ]
}
