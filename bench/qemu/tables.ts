// What the turns of the comparison with QEMU are, and the tables that people read of them. It
// measures and judges nothing.
import type { Table } from '../comparison.ts'
import type { MigrationRun } from '../migration.ts'
import { formatBytes } from '../report.ts'
import { median } from '../run.ts'
import type { Span } from '../sides/snapshot-lines.ts'
import type { SentTransfer, StoredTransfer } from './snapshot-transfer.ts'
import type { PairFigures } from './transfer.ts'

const GB = 1e9

/** In order of turns; empty where it could not be measured. */
export interface QemuTurns {
  readonly qemu: readonly PairFigures[]
  readonly ours: readonly MigrationRun[]
  readonly receive: readonly StoredTransfer[]
  readonly send: readonly SentTransfer[]
  readonly receiveDisk: readonly StoredTransfer[]
}

/** GB of guest RAM per second. */
export const throughputOf = (ramBytes: number, seconds: number): number => ramBytes / seconds / GB

/** One row's turns; CPU time of each side's whole process. */
interface Cells {
  readonly seconds: number
  readonly sourceCpuSeconds: number
  readonly destinationCpuSeconds: number
}

/** A row per way, the ways of counting of the same runs below each other. */
export function transferTable(memoryBytes: number, channels: number, turns: QemuTurns): Table {
  const { qemu, ours, receive, send, receiveDisk } = turns
  const cpuPerGb = (runs: readonly Cells[], side: 'sourceCpuSeconds' | 'destinationCpuSeconds') =>
    median(runs.map((run) => run[side] / (memoryBytes / GB))).toFixed(3)
  const row = (name: string, runs: readonly Cells[]): string[][] => {
    if (runs.length === 0) return []
    const speeds = runs.map(({ seconds }) => throughputOf(memoryBytes, seconds))
    return [
      [
        name,
        ...[median(speeds), Math.min(...speeds), Math.max(...speeds)].map((n) => n.toFixed(2)),
        cpuPerGb(runs, 'sourceCpuSeconds'),
        cpuPerGb(runs, 'destinationCpuSeconds'),
      ],
    ]
  }
  return {
    title: `${formatBytes(memoryBytes)} of incompressible RAM, ${channels} channels, loopback`,
    columns: ['', 'GB/s median', 'min', 'max', 'source CPU-s/GB', 'dest. CPU-s/GB'],
    rows: [
      ...row('QEMU to QEMU', qemu),
      ...row('ours to ours', ours.map(cellsOf)),
      ...row('QEMU to receive, tmpfs', receive),
      ...row('... to the last hash', receive.map(hashedCells)),
      ...row('send to QEMU', send),
      ...row('... from the first connect', send.map(unverifiedCells)),
      ...row('QEMU to receive, disk', receiveDisk),
    ],
  }
}

/** What hashing takes, in seconds of its own. */
export function hashTable({ receive, send }: QemuTurns): Table {
  const row = (name: string, spans: readonly Span[], ramBytes: number): string[][] => {
    if (spans.length === 0) return []
    const seconds = median(spans.map((span) => span.seconds))
    const cpuSeconds = median(spans.map((span) => span.cpuSeconds))
    const perGb = cpuSeconds / (ramBytes / GB)
    const speed = throughputOf(ramBytes, seconds)
    return [[name, seconds.toFixed(2), speed.toFixed(2), perGb.toFixed(3)]]
  }
  return {
    title: 'Hashes of the snapshot in the tmpfs, medians',
    columns: ['', 'seconds', 'GB/s', 'CPU-s/GB'],
    rows: [
      ...row(
        'receive, behind the word',
        receive.map(({ hashing }) => hashing),
        receive[0]?.ramBytes ?? 0,
      ),
      ...row('send, before the connect', send.map(verifying), send[0]?.ramBytes ?? 0),
    ],
  }
}

/** What of a sending is not between the first connect and the last word. */
function verifying({ seconds, sourceCpuSeconds, sending }: SentTransfer): Span {
  return {
    seconds: seconds - sending.seconds,
    cpuSeconds: sourceCpuSeconds - sending.cpuSeconds,
  }
}

function cellsOf({ seconds, source, destination }: MigrationRun): Cells {
  return {
    seconds,
    sourceCpuSeconds: source.cpuSeconds,
    destinationCpuSeconds: destination.cpuSeconds,
  }
}

function hashedCells({ hashing, ...run }: StoredTransfer): Cells {
  return {
    seconds: run.seconds + hashing.seconds,
    sourceCpuSeconds: run.sourceCpuSeconds,
    destinationCpuSeconds: run.destinationCpuSeconds + hashing.cpuSeconds,
  }
}

function unverifiedCells({ sending, destinationCpuSeconds }: SentTransfer): Cells {
  const { seconds, cpuSeconds } = sending
  return { seconds, sourceCpuSeconds: cpuSeconds, destinationCpuSeconds }
}
