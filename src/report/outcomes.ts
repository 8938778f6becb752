// What came of a migration, for each side that reports one: from the library's results to the
// figures at the top of a report. Pure.

import type { MigrationResult } from '../migrate/progress.ts'
import type { RelayResult } from '../relay/progress.ts'
import type { ReceptionResult } from '../snapshot/reception.ts'
import type { SendOutcome } from '../snapshot/send-progress.ts'
import type { Outcome } from './migration-record.ts'

interface SentCounters {
  readonly sentBytes: number
  readonly zeroCopyBytes: number
  readonly copiedBytes: number
  readonly cpuNanoseconds: number
}

/** `destinationCpuSeconds`: of the other side's channel threads, where it is known. */
export function outcomeOfMigration(
  result: MigrationResult,
  destinationCpuSeconds?: number,
): Outcome {
  const { channels, jsThreadCpuNanoseconds } = result
  const known = destinationCpuSeconds !== undefined
  return {
    status: result.status,
    totalTimeMs: result.totalTimeMs,
    downtimeMs: result.downtimeMs,
    transferredBytes: result.transferredBytes,
    throughputBytesPerSecond: result.throughputBytesPerSecond,
    cpuSeconds: cpuOf(channels) + (destinationCpuSeconds ?? 0),
    cpuOf: known ? 'channel threads, both sides' : 'channel threads of this side',
    ...sharesOf(channels),
    engine: result.engine,
    engineReason: result.engineReason,
    facts: {
      rounds: result.rounds,
      'set-up, ms': Math.round(result.setupTimeMs),
      channels: channels.length,
      'zero-copy asked for': result.zeroCopy,
      compression: result.compression,
      'normal pages': result.normalPages,
      'zero pages': result.zeroPages,
      'dirty tracker': `${result.dirtyTracker} (${result.dirtyTrackerReason})`,
      'CPU of the JavaScript thread, ms': Math.round(jsThreadCpuNanoseconds / 1e6),
    },
  }
}

export function outcomeOfReception(result: ReceptionResult): Outcome {
  const { storedMs, receivedBytes, manifest, channels } = result
  const ramBytes = manifest.ram.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  return {
    status: result.status,
    totalTimeMs: storedMs,
    transferredBytes: receivedBytes,
    throughputBytesPerSecond: (receivedBytes / storedMs) * 1000,
    cpuSeconds: cpuOf(channels),
    cpuOf: 'channel threads of this side',
    facts: {
      machine: manifest.machine,
      'guest RAM, MiB': ramBytes / 2 ** 20,
      'sync points': result.syncs,
      channels: channels.length,
      'normal pages': result.normalPages,
      'zero pages': result.zeroPages,
      'with hashing, ms': Math.round(result.totalMs),
      directory: result.directory,
      ...Object.fromEntries(result.warnings.map((text, i) => [`warning ${i + 1}`, text])),
    },
  }
}

/** Of all destinations together: the longest time, the sum of the bytes. */
export function outcomeOfSending(outcomes: readonly SendOutcome[]): Outcome {
  const sent = outcomes.filter((outcome) => outcome.status === 'completed')
  const failed = outcomes.filter((outcome) => outcome.status !== 'completed')
  const channels = sent.flatMap((outcome) => outcome.channels)
  const totalTimeMs = Math.max(0, ...sent.map((outcome) => outcome.totalTimeMs))
  const transferredBytes = sent.reduce((sum, outcome) => sum + outcome.transferredBytes, 0)
  const distinct = (texts: readonly string[]): string => [...new Set(texts)].join('; ')
  const common = {
    status: failed[0]?.status ?? 'completed',
    ...(failed.length === 0
      ? {}
      : { reason: failed.map(({ uri, error }) => `${uri}: ${error.message}`).join('; ') }),
    facts: Object.fromEntries(outcomes.map(({ uri, status }) => [uri, status])),
  }
  if (sent.length === 0) return common
  return {
    ...common,
    totalTimeMs,
    transferredBytes,
    throughputBytesPerSecond: (transferredBytes / totalTimeMs) * 1000,
    cpuSeconds: cpuOf(channels),
    cpuOf: 'channel threads of this side',
    ...sharesOf(channels),
    engine: distinct(sent.map((outcome) => outcome.engine)),
    engineReason: distinct(sent.map((outcome) => outcome.engineReason)),
  }
}

export function outcomeOfRelay(result: RelayResult): Outcome {
  const { totalTimeMs, sentBytes, receivedBytes, sourceChannels } = result
  return {
    status: result.status,
    totalTimeMs,
    transferredBytes: sentBytes,
    throughputBytesPerSecond: (sentBytes / totalTimeMs) * 1000,
    cpuSeconds: cpuOf(sourceChannels),
    cpuOf: 'threads that receive',
    facts: {
      machine: result.machine,
      dialect: result.dialect ?? 'multifd is off',
      'received, bytes': receivedBytes,
      'sync points': result.syncs,
      'normal pages': result.normalPages,
      'zero pages in packets': result.zeroPages,
      'the source was told': result.sourceTold ? 'yes' : 'no',
    },
  }
}

function cpuOf(channels: readonly { readonly cpuNanoseconds: number }[]): number {
  return channels.reduce((sum, { cpuNanoseconds }) => sum + cpuNanoseconds / 1e9, 0)
}

function sharesOf(channels: readonly SentCounters[]) {
  const sum = (name: 'sentBytes' | 'zeroCopyBytes' | 'copiedBytes'): number =>
    channels.reduce((total, channel) => total + channel[name], 0)
  const sentBytes = sum('sentBytes')
  if (sentBytes === 0) return {}
  return {
    uncopiedShare: sum('zeroCopyBytes') / sentBytes,
    triedAndCopiedShare: sum('copiedBytes') / sentBytes,
  }
}
