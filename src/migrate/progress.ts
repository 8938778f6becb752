// What a migration tells about itself while it runs and when it is over. Statistics carry QEMU's
// names (QAPI MigrationStats) in camel case, with units.

import type { ReceiveCounters, SendCounters } from '../channel/counters.ts'
import type { NativeCompression, NativeEngineName } from '../kit/native.ts'
import type { FlushReport } from './flush-control.ts'
import type { DeviceProgress } from './passes.ts'
import type { MigrationStatus } from './status.ts'

/** One sending channel: its counters since it was opened, what it does, and why. */
export interface ChannelReport extends SendCounters, FlushReport {
  channelId: number
  engine: NativeEngineName
  /** What it can do; whether zero-copy is worth it is in `zeroCopyMode`. `fixed`: registered. */
  sendMode: 'plain' | 'zero-copy' | 'splice' | 'zero-copy-fixed'
  /** Why this engine and this mode: the choice, then each step down from it. */
  engineReason: string
}

/** One channel in a progress event. */
export interface ChannelProgress extends ChannelReport {
  /** Since the event before, bytes. */
  bytesPerSecond: number
}

export interface MigrationProgress {
  status: MigrationStatus
  /** 0-based pass over memory; round 0 sends everything that is populated. */
  round: number
  /** How often the dirty log was fetched. */
  dirtySyncCount: number
  /** Bytes of pages the present round still has to send. */
  remainingBytes: number
  /** Bytes of pages the guest dirtied per second, over the last round; 0 in round 0. */
  dirtyBytesPerSecond: number
  /** Everything on the wire, main channel included. */
  transferredBytes: number
  /** The share of the multifd channels: pages as they were sent, and packet headers. */
  multifdBytes: number
  /** Bytes of the pages that were sent and are not zero, before compression. */
  normalBytes: number
  compression: NativeCompression
  /** Over all channels, since the event before. */
  bytesPerSecond: number
  /** If the guest were stopped now; Infinity until a round was measured. */
  expectedDowntimeMs: number
  elapsedMs: number
  /** What the guest is slowed down by; 0 while it is not. */
  throttlePercent: number
  /** The latest decision, in words; none before round 0 was collected. */
  decision?: string
  /** When more rounds do not help: what an operator can do. */
  advice?: string
  devices: readonly DeviceProgress[]
  channels: readonly ChannelProgress[]
}

/** Where the time went in which nobody ran, milliseconds, in the order in which it passed. */
export interface DowntimeParts {
  /** The VMM stopped the guest. */
  stopMs: number
  /** Devices were saved. */
  saveMs: number
  /** What was written since the round began was found. */
  collectMs: number
  /** The last round was sent. */
  roundMs: number
  /** The devices' state was sent, and the destination loaded it and said so. */
  loadMs: number
  /** The commit went out, and the destination said that it has the guest. */
  resumeMs: number
}

export interface MigrationResult {
  status: 'completed'
  /** Passes over memory, the last one with the guest stopped included. */
  rounds: number
  dirtySyncCount: number
  /** Everything on the wire, main channel and packet headers included. */
  transferredBytes: number
  /** The share of the multifd channels: pages as they were sent, and packet headers. */
  multifdBytes: number
  /** Bytes of the normal pages before compression. */
  normalBytes: number
  normalPages: number
  zeroPages: number
  /** From the call to the destination's last word. */
  totalTimeMs: number
  /** From the call to the first round. */
  setupTimeMs: number
  /**
   * From the guest's stop to the destination's last word: an upper bound of the time in which
   * nobody runs, as the source sees it.
   */
  downtimeMs: number
  /** What it consists of; a wait in `pre-switchover` is in none of them. */
  downtimeParts: DowntimeParts
  /** transferredBytes over the time from the first connect to the destination's last word. */
  throughputBytesPerSecond: number
  /** What ran: `sendmsg`, `io-uring`, or both where some channels had to fall back. */
  engine: string
  /** Who asked for it, or what decided. */
  engineReason: string
  /** What was asked for; what came of it is in `channels`. */
  zeroCopy: 'auto' | 'off' | 'on'
  /** What pages were compressed with; `normalBytes` is before, `multifdBytes` after it. */
  compression: NativeCompression
  /** `userfaultfd`, `hash` or `vmm`, and why. */
  dirtyTracker: string
  dirtyTrackerReason: string
  /** CPU time of the JavaScript thread from start to end; of the channel threads see `channels`. */
  jsThreadCpuNanoseconds: number
  channels: readonly ChannelReport[]
}

export interface IncomingResult {
  status: 'completed'
  /** SYNCs collected per channel, the one of setup included. */
  syncs: number
  /** Everything on the wire, main channel included. */
  receivedBytes: number
  normalPages: number
  zeroPages: number
  /** What the source compressed pages with. */
  compression: NativeCompression
  /** From the first connection to the commit. */
  totalTimeMs: number
  channels: readonly (ReceiveCounters & { channelId: number })[]
}
