// What a reception tells about itself while it runs and when it is over.

import type { ReceiveCounters } from '../channel/counters.ts'
import type { SnapshotManifest } from './manifest.ts'

/**
 * `listening`: no source came yet. `receiving`: RAM and devices come in. `storing`: everything came
 * and is made durable; the guest is still the source's. `hashing`: the source was told that it may
 * give its guest up; the snapshot is whole, and its RAM is being hashed. Then `completed`, `failed`
 * or `cancelled`.
 */
export type ReceptionStatus =
  | 'listening'
  | 'receiving'
  | 'storing'
  | 'hashing'
  | 'completed'
  | 'failed'
  | 'cancelled'

export interface ReceptionProgress {
  status: ReceptionStatus
  /** Sync points passed: one per section or per round of the source. */
  round: number
  /** Everything read so far, main channel included. */
  receivedBytes: number
  /** Since the event before. */
  bytesPerSecond: number
  /** The guest's RAM as the source announced it; 0 until it did. */
  ramBytes: number
  /** Pages that came, with contents and zero; one that came twice counts twice. */
  normalPages: number
  zeroPages: number
  /** From the first connection on. */
  elapsedMs: number
}

export interface ReceptionResult {
  status: 'completed'
  directory: string
  manifest: SnapshotManifest
  /** Every file has its hashes; false if the caller cancelled when all was stored already. */
  hashed: boolean
  /** Sentences for the operator; mostly none. */
  warnings: readonly string[]
  /** Sync points passed. */
  syncs: number
  /** Everything on the wire, main channel included. */
  receivedBytes: number
  normalPages: number
  zeroPages: number
  /** From the first connection until the source was told that everything is durable. */
  storedMs: number
  /** From the first connection to the last hash. */
  totalMs: number
  channels: readonly (ReceiveCounters & { channelId: number })[]
}
