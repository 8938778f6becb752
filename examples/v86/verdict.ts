// The end of the example: turns what both sides measured into the verdict, as one JSON object and
// as a few lines to read. It measures nothing.
import type { DowntimeParts, MigrationResult } from '../../src/index.ts'
import { mega, paint } from './display.ts'
import type { Move } from './source.ts'

/** The last line of `npm start -- --json`. Times in milliseconds, rates per second. */
export type Verdict = {
  readonly status: 'completed'
  readonly rounds: number
  readonly dirtySyncCount: number
  readonly transferredBytes: number
  readonly totalTimeMs: number
  /**
   * Last guest instruction at the source to first at the destination, less the hashing in between;
   * one monotonic clock.
   */
  readonly downtimeMs: number
  /** What the library says that it consists of, less the same hashing. */
  readonly downtimeParts: DowntimeParts
  /** Hashing the stopped guest's RAM at both sides. */
  readonly verifyMs: number
  readonly sourceVerifyMs: number
  readonly destinationVerifyMs: number
  readonly throughputBytesPerSecond: number
  readonly channels: number
  /** Counters, engine, water marks, and why they are so: all that the library tells. */
  readonly perChannel: MigrationResult['channels']
  readonly engine: string
  readonly engineReason: string
  readonly zeroCopy: string
  readonly compression: string
  /** Of pages before compression, and of all that the channels sent. */
  readonly normalBytes: number
  readonly multifdBytes: number
  readonly dirtyTracker: string
  readonly ramIdentical: boolean
  /** The same of the display adapter's memory, which travels in pieces over the channels. */
  readonly videoIdentical: boolean
  /** Device state that the channels carried beside RAM. */
  readonly deviceStateBytes: number
  /** What the guest found wrong in its own memory, before and after the move. */
  readonly guestErrors: number
  readonly guestPagesChecked: number
  /** While it was being migrated; the same before and after it. */
  readonly guestPagesPerSecond: number
  readonly guestPagesPerSecondBefore: number
  readonly guestPagesPerSecondAfter: number
  /** CPU time of the channel threads per 10^9 bytes transferred. */
  readonly cpuSecondsPerGb: number
  readonly sourceCpuSecondsPerGb: number
  readonly destinationCpuSecondsPerGb: number
}

export function judge(move: Move): Verdict {
  const { result, arrived, checked } = move
  const gigabytes = result.transferredBytes / 1e9
  const sourceCpuSeconds = result.channels.reduce(
    (sum, { cpuNanoseconds }) => sum + cpuNanoseconds / 1e9,
    0,
  )
  return {
    status: result.status,
    rounds: result.rounds,
    dirtySyncCount: result.dirtySyncCount,
    transferredBytes: result.transferredBytes,
    totalTimeMs: result.totalTimeMs - arrived.verifyMs,
    downtimeMs: move.downtimeMs,
    downtimeParts: withoutHashing(move),
    verifyMs: move.sourceVerifyMs + arrived.verifyMs,
    sourceVerifyMs: move.sourceVerifyMs,
    destinationVerifyMs: arrived.verifyMs,
    throughputBytesPerSecond: throughput(move),
    channels: result.channels.length,
    perChannel: result.channels,
    engine: result.engine,
    engineReason: result.engineReason,
    zeroCopy: result.zeroCopy,
    compression: result.compression,
    normalBytes: result.normalBytes,
    multifdBytes: result.multifdBytes,
    dirtyTracker: result.dirtyTracker,
    ramIdentical: arrived.ramHash === move.sourceHash,
    videoIdentical: arrived.videoHash === move.videoHash,
    deviceStateBytes: result.channels.reduce((sum, channel) => sum + channel.deviceStateBytes, 0),
    guestErrors: checked.guestErrors,
    guestPagesChecked: checked.pagesChecked,
    guestPagesPerSecond: move.pagesPerSecondDuring,
    guestPagesPerSecondBefore: move.pagesPerSecondBefore,
    guestPagesPerSecondAfter: checked.pagesPerSecond,
    cpuSecondsPerGb: (sourceCpuSeconds + arrived.channelCpuSeconds) / gigabytes,
    sourceCpuSecondsPerGb: sourceCpuSeconds / gigabytes,
    destinationCpuSecondsPerGb: arrived.channelCpuSeconds / gigabytes,
  }
}

/** The destination hashes while it loads its devices. */
function withoutHashing({ result: { downtimeParts }, arrived }: Move): DowntimeParts {
  return { ...downtimeParts, loadMs: downtimeParts.loadMs - arrived.verifyMs }
}

/**
 * The library's throughput counts to the destination's last word; the hashing in between is ours.
 */
function throughput({ result, arrived }: Move): number {
  const spanSeconds = result.transferredBytes / result.throughputBytesPerSecond
  return result.transferredBytes / (spanSeconds - arrived.verifyMs / 1000)
}

/** The same guest, unharmed, and still alive. */
export function passed(verdict: Verdict): boolean {
  const { ramIdentical, videoIdentical, guestErrors, guestPagesChecked } = verdict
  return ramIdentical && videoIdentical && guestErrors === 0 && guestPagesChecked > 0
}

export function verdictText(verdict: Verdict, colour: boolean): string {
  const good = passed(verdict)
  const headline = good
    ? 'The guest was moved while it ran, and is unharmed.'
    : 'The guest was moved, but is not the same: this is a defect.'
  const painted = paint(['bold', good ? 'green' : 'red'], headline, colour)
  const ms = (value: number): string => value.toFixed(1)
  const whole = (value: number): string => String(Math.round(value))
  const cpu = (value: number): string => value.toFixed(2)
  const rows: readonly [string, string][] = [
    ['rounds', `${verdict.rounds} in ${whole(verdict.totalTimeMs)} ms`],
    [
      'transferred',
      `${mega(verdict.transferredBytes)} MB at ${mega(verdict.throughputBytesPerSecond)} MB/s, ${verdict.channels} channels`,
    ],
    ['engine', `${verdict.engine} (${verdict.engineReason})`],
    ['zero-copy', zeroCopyText(verdict)],
    ...compressionRow(verdict),
    [
      'CPU',
      `${cpu(verdict.cpuSecondsPerGb)} s per GB in channel threads: source ${cpu(verdict.sourceCpuSecondsPerGb)}, destination ${cpu(verdict.destinationCpuSecondsPerGb)}`,
    ],
    [
      'downtime',
      `${ms(verdict.downtimeMs)} ms, without hashing (source ${ms(verdict.sourceVerifyMs)} ms, destination ${ms(verdict.destinationVerifyMs)} ms)`,
    ],
    ['of which', partsText(verdict.downtimeParts)],
    ['RAM identical', verdict.ramIdentical ? 'yes' : 'NO'],
    [
      'video memory',
      `${mega(verdict.deviceStateBytes)} MB over the channels, identical: ${verdict.videoIdentical ? 'yes' : 'NO'}`,
    ],
    [
      'guest errors',
      `${verdict.guestErrors}, after ${verdict.guestPagesChecked} more pages checked at the destination`,
    ],
    [
      'guest pages/s',
      `${whole(verdict.guestPagesPerSecondBefore)} before, ${whole(verdict.guestPagesPerSecond)} during, ${whole(verdict.guestPagesPerSecondAfter)} after`,
    ],
  ]
  return [painted, ...rows.map(([name, text]) => `  ${name.padEnd(14)} ${text}`)].join('\n')
}

/** As the source sees it, so the parts and the downtime differ by how both ends are told. */
function partsText(parts: DowntimeParts): string {
  const words: readonly [keyof DowntimeParts, string][] = [
    ['stopMs', 'stopping the guest'],
    ['saveMs', 'saving devices'],
    ['collectMs', 'last collect'],
    ['roundMs', 'last round'],
    ['loadMs', 'loading devices'],
    ['resumeMs', 'handing over'],
  ]
  return words.map(([name, word]) => `${word} ${parts[name].toFixed(1)} ms`).join(', ')
}

/** Nothing where nothing was compressed. */
function compressionRow(verdict: Verdict): [string, string][] {
  const { compression, normalBytes, multifdBytes } = verdict
  if (compression === 'none') return []
  const ratio = (normalBytes / Math.max(multifdBytes, 1)).toFixed(2)
  const sizes = `${mega(normalBytes)} MB of pages in ${mega(multifdBytes)} MB`
  return [['compression', `${compression}: ${sizes}, ${ratio} to 1`]]
}

/** What came of zero-copy: who was asked, how much was and was not copied, and why it ended so. */
export function zeroCopyText({ zeroCopy, perChannel }: Verdict): string {
  const sum = (name: 'zeroCopyTriedBytes' | 'zeroCopyBytes' | 'copiedBytes' | 'sentBytes') =>
    perChannel.reduce((total, channel) => total + channel[name], 0)
  const share = (bytes: number): string => {
    return `${((100 * bytes) / Math.max(sum('sentBytes'), 1)).toFixed(1)} %`
  }
  const reasons = new Set(perChannel.map((channel) => channel.flushReason))
  const ended = [...new Set(perChannel.map((channel) => channel.zeroCopyMode))].join(', ')
  const tried =
    sum('zeroCopyTriedBytes') === 0
      ? 'not tried'
      : `${share(sum('zeroCopyBytes'))} of the bytes not copied, ` +
        `${share(sum('copiedBytes'))} tried and copied`
  return `${zeroCopy}: ${tried}, at the end ${ended} (${[...reasons].join(', ')})`
}
