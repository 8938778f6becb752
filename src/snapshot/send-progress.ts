// What sending a snapshot tells about itself, while it runs and for each destination when it is
// over. Statistics carry the names of a migration's.

import type { MultifdError } from '../kit/errors.ts'
import type { ChannelReport } from '../migrate/progress.ts'

/**
 * `setup` up to the first page, `active` while pages are sent, `device` until QEMU has loaded
 * everything.
 */
export type SendStatus = 'setup' | 'active' | 'device' | 'completed' | 'failed' | 'cancelled'

/** One destination in a progress event. */
export interface DestinationProgress {
  uri: string
  status: SendStatus
  /** Bytes of pages that are not sent. */
  remainingBytes: number
  /** Everything on the wire, main channel included. */
  transferredBytes: number
  /** Since the event before. */
  bytesPerSecond: number
  channels: readonly ChannelReport[]
}

export interface SendProgress {
  /** `verifying` until every file was compared with the manifest; then `sending`. */
  status: 'verifying' | 'sending'
  elapsedMs: number
  /** In the order of the URIs; empty while verifying. */
  destinations: readonly DestinationProgress[]
}

/** A destination that has loaded the snapshot. */
export interface SentSnapshot {
  uri: string
  status: 'completed'
  /** Everything on the wire, main channel and packet headers included. */
  transferredBytes: number
  /** The share of the multifd channels. */
  multifdBytes: number
  normalPages: number
  zeroPages: number
  /** From the first connect to QEMU's last word. */
  totalTimeMs: number
  dialect: 'per-section' | 'per-round'
  /** What ran; empty without channels. */
  engine: string
  engineReason: string
  channels: readonly ChannelReport[]
}

/** One that has not; its guest does not run there unless the error says that it may. */
export interface FailedSend {
  uri: string
  status: 'failed' | 'cancelled'
  error: MultifdError
}

export type SendOutcome = SentSnapshot | FailedSend
