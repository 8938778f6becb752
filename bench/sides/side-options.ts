// What a comparison tells one side of a migration, and what the side answers: JSON, because each
// side is a process of its own. Both ends of every JSON line import their types from here.
import type { FlushThresholds, MigrationResult, MigrationSourceOptions } from '../../src/index.ts'
import type { NetworkSettings } from '../../src/report/environment.ts'

/** How the guest's RAM is made. */
export interface GuestPlan {
  /** `anonymous`: pre-faulted in full; `memfd`: sparse, only `runs` are written. */
  readonly kind: 'anonymous' | 'memfd'
  /** Bytes, a multiple of the page size. */
  readonly sizeBytes: number
  /** Transparent huge pages are asked for (`anonymous` only). */
  readonly hugePages: boolean
  /** The populated stretches (`memfd` only): `count` of `runBytes` each, evenly spread. */
  readonly runs: { readonly count: number; readonly runBytes: number }
  /** What the pages hold; `random`, which nothing shortens, unless given. */
  readonly content?: 'random' | 'text' | 'mixed'
  /** Of 100 pages so many are written with zeros (`anonymous` only); 0 unless given. */
  readonly zeroPercent?: number
  /** It rewrites its pages in turn, so many bytes of them per second; 0 unless given. */
  readonly dirtyBytesPerSecond?: number
  /** Its VMM tells what was written by a log of its own, and nothing writes (`memfd` only). */
  readonly markedLog?: MarkedLog
}

/** In each of the first `rounds` rounds the VMM marks one page of every `everyPages`. */
export interface MarkedLog {
  readonly rounds: number
  readonly everyPages: number
}

/** What a comparison asks of a migration; the same for both sides. */
export interface MigrationOrder {
  readonly guest: GuestPlan
  readonly channels: number
  readonly engine: NonNullable<MigrationSourceOptions['engine']>
  readonly zeroCopy: NonNullable<MigrationSourceOptions['zeroCopy']>
  /** `none` unless given. */
  readonly compression?: NonNullable<MigrationSourceOptions['compression']>
  /** The library's own unless given. */
  readonly downtimeLimitMs?: number
  /** The same fixed marks for every channel, with zero-copy `on` only. */
  readonly flushThresholds?: FlushThresholds
  /** Small migrations that each side's process makes before this one; 0 unless given. */
  readonly warmUps?: number
  /** Devices of the source that always have something to send; 0 unless given. */
  readonly unendingDevices?: number
  /** Hash the RAM after the clock has stopped. */
  readonly checksum: boolean
  /** Watch the transport's own memory while it runs (costs a little of the JS thread's time). */
  readonly watchMemory: boolean
}

/** One side's whole order, the only argument of its process. */
export interface SideOptions extends MigrationOrder {
  /** IPv4, where the destination listens. */
  readonly address: string
  /** The address is not this machine's loopback: nothing is encrypted, and that is meant. */
  readonly allowPlaintext: boolean
}

/** First line of a side: guest memory is there, and at the destination the listener too. */
export interface SideReady {
  readonly event: 'ready'
  /** Bytes of the side's anonymous memory that the kernel backs with huge pages. */
  readonly hugePageBytes: number
  /** Of the network namespace the side runs in. */
  readonly network: NetworkSettings
  /** Destination only: where the source connects to. */
  readonly uri?: string
}

/** Last line of a side. */
export interface SideDone {
  readonly event: 'done'
  /** From before the first connect to the final answer; at the destination, since it listened. */
  readonly seconds: number
  /** CPU time of the whole process but its guest over that span, seconds. */
  readonly cpuSeconds: number
  /** The part of it that the JavaScript thread took, seconds. */
  readonly jsThreadCpuSeconds: number
  /** Guest memory resident on this side afterwards, bytes. */
  readonly guestResidentBytes: number
  /** Anonymous memory beside the guest's, above what Node had before; 0 unless watched. Bytes. */
  readonly transportBytes: number
  /** SHA-1 of the populated RAM, hex; empty unless asked for. */
  readonly checksum: string
}

/** Last line of the source. */
export interface SourceDone extends SideDone {
  /** The migration's own account. */
  readonly migration: MigrationResult
  /** What the guest rewrote; null where it did not. */
  readonly written: GuestWrites | null
  /** Of a marked log, each round but the first: from the SYNC before it to its extents, ms. */
  readonly planMs: readonly number[]
}

/** What a guest that writes did until it was stopped. */
export interface GuestWrites {
  readonly bytesPerSecond: number
  readonly cpuSeconds: number
}
