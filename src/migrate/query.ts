// The answer to QEMU's query-migrate, with QEMU's field names (QAPI MigrationInfo and
// MigrationStats), from a source's figures: what reads QEMU's answer can read ours. Pure.
//
// What only other features have is left out (postcopy-blocktime, vfio, xbzrle-cache, dirty-limit-*,
// blocked-reasons, socket-address); `skipped` too, which QEMU 9.1 dropped.

import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import type { MigrationStatus } from './status.ts'

/** QEMU's statuses, and two of ours that no QEMU has: `reconnecting` and `unknown`. */
export type QueriedStatus = MigrationStatus | 'pre-switchover' | 'reconnecting'

/** What a source knows about its migration, in our own units. */
export interface MigrationFigures {
  status: QueriedStatus
  /** Since the call; to its end, once it has ended. */
  totalTimeMs: number
  /** From the call to round 0. */
  setupTimeMs: number
  /** Infinity until a round was measured. */
  expectedDowntimeMs: number
  /** Of a completed one. */
  downtimeMs: number
  /** Of all RAM blocks. */
  totalBytes: number
  /** Of pages that are left in the present round. */
  remainingBytes: number
  /** Everything on the wire, main channel included. */
  transferredBytes: number
  /** Of them on the multifd channels; while the guest ran; while it stood still. */
  multifdBytes: number
  precopyBytes: number
  downtimeBytes: number
  zeroPages: number
  normalPages: number
  /** What the guest wrote, over the last round. */
  dirtyBytesPerSecond: number
  /** On the wire, at present; over the whole of a completed one. */
  bytesPerSecond: number
  /** Pages sent, at present. */
  pagesPerSecond: number
  dirtySyncCount: number
  /** Rounds, counted per channel, in which zero-copy was tried and the kernel copied. */
  dirtySyncMissedZeroCopy: number
  /** 0 while the guest is not slowed down. */
  throttlePercent: number
  /** The sentence of the error that ended it. */
  error?: string
}

/** MigrationStats. */
export interface QueryMigrateRam {
  /** Bytes on the wire, main channel and device state included. */
  transferred: number
  /** Bytes of pages left in this round; 0 when completed. */
  remaining: number
  /** Bytes of guest memory. */
  total: number
  /** Zero pages sent. */
  duplicate: number
  /** Pages with data sent. */
  normal: number
  /** Bytes of them, before compression. */
  'normal-bytes': number
  /** Pages the guest dirties per second; 0 when completed. */
  'dirty-pages-rate': number
  /** Megabits (10^6) per second on the wire. */
  mbps: number
  /** How often the dirty log was fetched. */
  'dirty-sync-count': number
  /** Always 0: there is no post-copy. */
  'postcopy-requests': number
  /** Bytes of a page. */
  'page-size': number
  /** Bytes on the multifd channels. */
  'multifd-bytes': number
  /** Pages sent per second; 0 when completed. */
  'pages-per-second': number
  /** Bytes sent while the guest ran. */
  'precopy-bytes': number
  /** Bytes sent while it stood still. */
  'downtime-bytes': number
  /** Always 0: there is no post-copy. */
  'postcopy-bytes': number
  /** Rounds, counted per channel, in which zero-copy was tried and the kernel copied. */
  'dirty-sync-missed-zero-copy': number
}

/** MigrationInfo. A field that QEMU shows in some states only is absent in the others. */
export interface QueryMigrate {
  /** Absent if there was no migration. */
  status?: Exclude<QueriedStatus, 'none'>
  /** Milliseconds since the call. Not in setup, nor after a failure or a cancel. */
  'total-time'?: number
  /** Milliseconds from the call to round 0; where `total-time` is. */
  'setup-time'?: number
  /** Milliseconds the guest stood still; only when completed. */
  downtime?: number
  /** Milliseconds, if it were stopped now; under way only, and only once a round was measured. */
  'expected-downtime'?: number
  /** Where `total-time` is. */
  ram?: QueryMigrateRam
  /** Percent that the guest is slowed down by; only while it is. */
  'cpu-throttle-percentage'?: number
  /** Why it failed: for people, not to be parsed. */
  'error-desc'?: string
}

/** In these QEMU shows figures: under way, and completed. The last two are ours. */
const WITH_FIGURES: readonly QueriedStatus[] = [
  ...(['active', 'cancelling', 'pre-switchover', 'device', 'completed'] as const),
  ...(['reconnecting', 'unknown'] as const),
]

export function queryMigrate(figures: MigrationFigures): QueryMigrate {
  const { status, error } = figures
  if (status === 'none') return {}
  return {
    status,
    ...(WITH_FIGURES.includes(status) ? timesAndRam(figures) : {}),
    ...(error === undefined ? {} : { 'error-desc': error }),
  }
}

function timesAndRam(figures: MigrationFigures): QueryMigrate {
  const { expectedDowntimeMs, throttlePercent } = figures
  const completed = figures.status === 'completed'
  // JSON has no infinity, and the QAPI type is a whole number.
  const expected = !completed && Number.isFinite(expectedDowntimeMs)
  return {
    'total-time': Math.round(figures.totalTimeMs),
    'setup-time': Math.round(figures.setupTimeMs),
    ...(completed ? { downtime: Math.round(figures.downtimeMs) } : {}),
    ...(expected ? { 'expected-downtime': Math.round(expectedDowntimeMs) } : {}),
    ram: ramOf(figures, completed),
    ...(throttlePercent > 0 && !completed ? { 'cpu-throttle-percentage': throttlePercent } : {}),
  }
}

function ramOf(figures: MigrationFigures, completed: boolean): QueryMigrateRam {
  return {
    transferred: figures.transferredBytes,
    remaining: completed ? 0 : figures.remainingBytes,
    total: figures.totalBytes,
    duplicate: figures.zeroPages,
    normal: figures.normalPages,
    'normal-bytes': figures.normalPages * PAGE_SIZE_BYTES,
    'dirty-pages-rate': completed ? 0 : Math.round(figures.dirtyBytesPerSecond / PAGE_SIZE_BYTES),
    mbps: (figures.bytesPerSecond * 8) / 1e6,
    'dirty-sync-count': figures.dirtySyncCount,
    'postcopy-requests': 0,
    'page-size': PAGE_SIZE_BYTES,
    'multifd-bytes': figures.multifdBytes,
    'pages-per-second': completed ? 0 : Math.round(figures.pagesPerSecond),
    'precopy-bytes': figures.precopyBytes,
    'downtime-bytes': figures.downtimeBytes,
    'postcopy-bytes': 0,
    'dirty-sync-missed-zero-copy': figures.dirtySyncMissedZeroCopy,
  }
}
