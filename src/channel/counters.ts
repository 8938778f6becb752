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
  /** sendmsg calls. */
  sendCalls: number
  /** Zero-copy bytes the kernel still holds, now and at most. */
  unreleasedBytes: number
  unreleasedHighBytes: number
  /** Zero-copy bytes released uncopied, and those the kernel copied after all. */
  zeroCopyBytes: number
  copiedBytes: number
  notifications: number
  /** Notifications for sends that were not outstanding; always 0 on a sane kernel. */
  strayNotifications: number
  waitsAtHighWater: number
  /** ENOBUFS by cause: locked memory, option memory. */
  refusedByMemlock: number
  refusedByOptmem: number
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
  cpuNanoseconds: number
}

export const sendCounterNames = (): readonly string[] => native().sendCounterNames
export const receiveCounterNames = (): readonly string[] => native().receiveCounterNames

/** A copy of the cells by name. */
export function readCounters<T>(names: readonly string[], cells: Float64Array): T {
  return Object.fromEntries(names.map((name, index) => [name, cells[index] ?? 0])) as T
}
