// What a relay reports while it runs, and in the end.

import type { ReceiveCounters } from '../channel/counters.ts'
import type { RelayPortCounters } from '../channel/relay-ports.ts'
import type { MigrationStatus } from '../migrate/status.ts'
import type { Dialect } from '../wire/dialect.ts'

export interface RelayCounts {
  /** Everything read from the source, main channel included; bytes. */
  receivedBytes: number
  /** Everything the destination's connections took, main channel included; bytes. */
  sentBytes: number
  /** Packets of the source that carried pages or a SYNC, or neither. */
  packets: number
  normalPages: number
  /** Zero pages in packets; those on the main channel are not counted. */
  zeroPages: number
  /** Sync points passed, that of RAM's setup included. */
  syncs: number
  /**
   * Sync points behind the setup: scans of the source's memory in the per-round dialect, RAM
   * sections in the per-section one.
   */
  round: number
}

export interface RelayProgress extends RelayCounts {
  /** Of the migration as the relay sees it; `device`: the destination has everything. */
  status: MigrationStatus
  /** With status `unknown`: what happened, and what the operator has to do; else empty. */
  reason: string
  /** Since the source's first connection; milliseconds. */
  elapsedMs: number
}

export interface RelayResult extends RelayCounts {
  status: 'completed'
  /** As the source's configuration section names it, e.g. `pc-q35-7.2`. */
  machine: string
  /** Undefined where multifd is off. */
  dialect: Dialect | undefined
  /** False: the source was gone when the destination said that it has the guest. */
  sourceTold: boolean
  totalTimeMs: number
  sourceChannels: ({ channelId: number } & ReceiveCounters)[]
  destinationChannels: ({ channelId: number } & RelayPortCounters)[]
}
