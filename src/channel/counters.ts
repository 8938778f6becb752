// Counters of channels, read in place: native threads write the cells, JavaScript only looks. Field
// names come from the addon, so that there is one layout.

import { native } from '../kit/native.ts'

/** One sending channel's counters since it was opened; bytes count everything on the wire. */
export interface SendCounters {
  /** Bytes the kernel accepted: initial packet, headers, pages. */
  sentBytes: number
  packets: number
  normalPages: number
  zeroPages: number
  /** Send requests to the kernel: sendmsg calls, or the sends in an io_uring. */
  sendCalls: number
  /** Zero-copy bytes the kernel still holds: now, at most, at most during the last extent. */
  unreleasedBytes: number
  unreleasedHighBytes: number
  unreleasedRecentHighBytes: number
  /** Bytes for which zero-copy was tried, also where it was refused and they were copied then. */
  zeroCopyTriedBytes: number
  /** Zero-copy bytes released uncopied, and those the kernel copied after all. */
  zeroCopyBytes: number
  copiedBytes: number
  notifications: number
  /** Notifications for sends that were not outstanding; always 0 on a sane kernel. */
  strayNotifications: number
  waitsAtHighWater: number
  /** Those of the waits in which the pipe ran dry: only they cost throughput. */
  dryWaits: number
  /** Those in which the network or the receiver was full: more in flight would not help. */
  queuedWaits: number
  /** ENOBUFS by cause: locked memory, option memory. */
  refusedByMemlock: number
  refusedByOptmem: number
  /** Of sentBytes: device state, with its headers. */
  deviceStateBytes: number
  /** CPU time of the channel thread. */
  cpuNanoseconds: number
}

/** One receiving channel's counters; bytes count everything on the wire. */
export interface ReceiveCounters {
  receivedBytes: number
  packets: number
  normalPages: number
  zeroPages: number
  syncs: number
  /** Of receivedBytes: device state, with its headers. */
  deviceStateBytes: number
  cpuNanoseconds: number
}

export const sendCounterNames = (): readonly string[] => native().sendCounterNames
export const receiveCounterNames = (): readonly string[] => native().receiveCounterNames

let indices: ReadonlyMap<string, number> | undefined

/** Where the cell of a sending counter is; looked up once, as decisions are taken per extent. */
export function sendCounterIndex(name: keyof SendCounters): number {
  indices ??= new Map(sendCounterNames().map((known, index) => [known, index]))
  return indices.get(name) ?? -1
}

/** A copy of the cells by name. */
export function readCounters<T>(names: readonly string[], cells: Float64Array): T {
  return Object.fromEntries(names.map((name, index) => [name, cells[index] ?? 0])) as T
}
