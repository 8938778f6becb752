// What `multifd bench` makes of its migrations: sums, the best number of channels, and what a real
// guest would take. Pure arithmetic, and the words for it.

import type { ChannelReport } from '../../migrate/progress.ts'
import type { Environment } from '../../report/environment.ts'

const GB = 1e9
/** Channels that gain less than this are not worth their sockets and threads. */
const GAIN_MIN = 1.03
const GUESTS_GIB = [4, 16, 64, 256]

/** One migration, or as much of it as there was time for. */
export interface Passage {
  /** From the first page on, for the throughput. */
  readonly bytes: number
  readonly seconds: number
  /** All that was sent, for what it cost. */
  readonly sentBytes: number
  readonly sourceCpuSeconds: number
  readonly destinationCpuSeconds: number
  readonly channels: readonly ChannelReport[]
}

/** Migrations with the same number of channels. */
export interface Trial {
  readonly channels: number
  readonly migrations: number
  readonly throughputBytesPerSecond: number
  readonly sourceCpuSecondsPerGb: number
  readonly destinationCpuSecondsPerGb: number
  /** Of what the channels sent: released without a copy; sent with zero-copy, and copied. */
  readonly zeroCopyShare: number
  readonly copiedShare: number
  readonly engine: string
  readonly engineReason: string
}

/** What `--json` prints of a measurement. */
export interface BenchResult extends Trial {
  readonly status: 'completed'
  readonly uri: string
  readonly guestBytes: number
  /** The search for the number of channels; the fields above are of the measurement after it. */
  readonly trials: readonly Trial[]
  /** Of idle guests with so much populated memory. */
  readonly estimates: readonly { readonly guestBytes: number; readonly seconds: number }[]
  /** A guest that dirties less than this is followed; at half of it a move takes twice as long. */
  readonly dirtyBytesPerSecondMax: number
  /** Of the machine that sends. */
  readonly environment: Environment
}

export function trialOf(channels: number, passages: readonly Passage[]): Trial {
  const sum = (of: (passage: Passage) => number) =>
    passages.reduce((all, passage) => all + of(passage), 0)
  const ofChannels = (of: 'sentBytes' | 'zeroCopyBytes' | 'copiedBytes') =>
    sum((passage) => passage.channels.reduce((all, channel) => all + channel[of], 0))
  const gigabytes = sum(({ sentBytes }) => sentBytes) / GB
  const reports = passages.flatMap((passage) => passage.channels)
  const distinct = (of: (report: ChannelReport) => string) =>
    [...new Set(reports.map(of))].join(', ')
  return {
    channels,
    migrations: passages.length,
    throughputBytesPerSecond: sum(({ bytes }) => bytes) / sum(({ seconds }) => seconds),
    sourceCpuSecondsPerGb: sum((passage) => passage.sourceCpuSeconds) / gigabytes,
    destinationCpuSecondsPerGb: sum((passage) => passage.destinationCpuSeconds) / gigabytes,
    zeroCopyShare: ofChannels('zeroCopyBytes') / ofChannels('sentBytes'),
    copiedShare: ofChannels('copiedBytes') / ofChannels('sentBytes'),
    engine: distinct(({ engine }) => engine),
    engineReason: distinct(({ engineReason }) => engineReason),
  }
}

/** The fewest channels that are about as fast as the fastest. */
export function bestChannels(trials: readonly Trial[]): number {
  const speed = (trial: Trial) => trial.throughputBytesPerSecond
  const fastest = Math.max(...trials.map(speed))
  const enough = trials.filter((trial) => speed(trial) * GAIN_MIN >= fastest)
  return Math.min(...enough.map(({ channels }) => channels))
}

export function estimates(bytesPerSecond: number): BenchResult['estimates'] {
  return GUESTS_GIB.map((size) => {
    const guestBytes = size * 2 ** 30
    return { guestBytes, seconds: guestBytes / bytesPerSecond }
  })
}

/** `1 channel: 5.12 GB/s, 0.115 + 0.110 CPU-s per GB`. */
export function trialText(trial: Trial): string {
  const { channels, sourceCpuSecondsPerGb: here, destinationCpuSecondsPerGb: there } = trial
  const cpu = `${here.toFixed(3)} + ${there.toFixed(3)} CPU-s per GB`
  return `${channelsText(channels)}: ${speedText(trial.throughputBytesPerSecond)}, ${cpu}`
}

export function resultText(result: BenchResult): string {
  const percent = (share: number) => `${(share * 100).toFixed(1)} %`
  const { throughputBytesPerSecond: speed, sourceCpuSecondsPerGb: here } = result
  const guests = result.estimates.map(
    ({ guestBytes, seconds }) => `${guestBytes / 2 ** 30} GiB in ${duration(seconds)}`,
  )
  return [
    `Throughput    ${speedText(speed)} with ${channelsText(result.channels)}`,
    `CPU time      ${here.toFixed(3)} s per GB here, ` +
      `${result.destinationCpuSecondsPerGb.toFixed(3)} s per GB there`,
    `Engine        ${result.engine} (${result.engineReason})`,
    `Zero-copy     ${percent(result.zeroCopyShare)} not copied, ` +
      `${percent(result.copiedShare)} copied after all`,
    `Idle guests   ${guests.join(', ')}, as far as populated`,
    `Busy guests   are followed up to ${speedText(speed)} of pages written; at half of it a move ` +
      'takes twice as long',
  ].join('\n')
}

export const channelsText = (count: number) => (count === 1 ? '1 channel' : `${count} channels`)

/** Where bytes per second are few, in smaller units. */
export function speedText(bytesPerSecond: number): string {
  if (bytesPerSecond >= GB) return `${(bytesPerSecond / GB).toFixed(2)} GB/s`
  return `${(bytesPerSecond / 1e6).toPrecision(3)} MB/s`
}

function duration(seconds: number): string {
  if (seconds < 100) return `${seconds.toPrecision(2)} s`
  return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`
}
