// What a report needs to know about one migration, as plain data: samples while it ran, its rounds,
// what was decided when, and what came of it. Any side's report can be made from it.

import type { Environment } from './environment.ts'

/** One moment. Rates are since the sample before. */
export interface Sample {
  readonly elapsedMs: number
  readonly status: string
  /** Of each channel, or of each destination where there are several; bytes per second. */
  readonly series: Readonly<Record<string, number>>
  /** Everything on the wire, main channel included. */
  readonly bytesPerSecond: number
  readonly transferredBytes: number
  readonly remainingBytes?: number
  readonly dirtyBytesPerSecond?: number
}

/** One pass over memory. */
export interface RoundRecord {
  readonly round: number
  /** Of pages that were dirty when it began. */
  readonly dirtyBytes: number
  readonly beganMs: number
  /** Until every channel had sent its SYNC; undefined if it did not end. */
  readonly tookMs?: number
  /** What the guest wrote per second since the round before; not of the first and the last. */
  readonly dirtyBytesPerSecond?: number
  /** The guest had stopped. */
  readonly final: boolean
}

export interface Decision {
  readonly elapsedMs: number
  readonly text: string
}

/** What the guest's standstill consisted of, in order; milliseconds. */
export interface DowntimeParts {
  readonly stopMs: number
  readonly collectMs: number
  readonly roundMs: number
  readonly saveMs: number
  readonly loadMs: number
  readonly resumeMs: number
}

/** What came of it. Undefined: not known at this side, or it did not come so far. */
export interface Outcome {
  readonly status: string
  /** Why it ended so, if it did not complete. */
  readonly reason?: string
  readonly totalTimeMs?: number
  readonly downtimeMs?: number
  readonly transferredBytes?: number
  readonly throughputBytesPerSecond?: number
  /** CPU time, and whose it is. */
  readonly cpuSeconds?: number
  readonly cpuOf?: string
  /** Bytes that left without a copy, and those for which that was tried in vain; of all sent. */
  readonly uncopiedShare?: number
  readonly triedAndCopiedShare?: number
  readonly engine?: string
  readonly engineReason?: string
  /** More to show, by name. */
  readonly facts?: Readonly<Record<string, string | number>>
}

export interface MigrationRecord {
  readonly title: string
  /** What was moved, from where to where; a sentence. */
  readonly lead: string
  /** ISO 8601, when it began. */
  readonly startedAt: string
  readonly environment: Environment
  readonly samples: readonly Sample[]
  readonly rounds: readonly RoundRecord[]
  /** Rounds between the kept ones, of a migration with very many. */
  readonly roundsLeftOut: number
  readonly decisions: readonly Decision[]
  /** When the guest was told to stop; undefined at other sides than its source. */
  readonly stoppedMs?: number
  readonly outcome: Outcome
  readonly downtimeParts?: DowntimeParts
  /** The last counters of each channel, as the library gave them. */
  readonly channels: readonly object[]
}
