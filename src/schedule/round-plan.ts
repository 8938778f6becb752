// Decides how large the extents of a round are. The native planner cuts the round bitmap by these
// numbers; this file never sees a bitmap, a page or a channel. In: dirty bytes, channels, bandwidth
// limit. Out: a target size in bytes.

import assert from 'node:assert/strict'
import { CHANNELS_MAX, PAGE_SIZE_BYTES } from '../kit/limits.ts'

/** A run of guest pages within one RAM block: what one channel scans and sends in one go. */
export interface Extent {
  /** Index of the RAM block, in the order of the memory's block list. */
  blockIndex: number
  /** First page of the run, counted in pages from the start of the block. */
  firstPage: number
  /** Length of the run in pages, dirty or not. */
  pageCount: number
  /** How many of them were dirty when the round was planned: at most this many pages travel. */
  dirtyPages: number
}

/**
 * Largest extent: 16 MiB. At 7 GB/s that is about 450 decisions a second, which is nothing for the
 * JS thread, and the two that wait in a channel when it wakes us keep it busy for 16 ms at 2 GB/s:
 * longer than the 10 ms for which a VMM keeps the event loop to itself.
 */
export const EXTENT_BYTES_MAX = 16 * 1024 * 1024

/**
 * Smallest extent without a limit: 2 MiB, about 1 ms of a channel at 2 GB/s, so that even a round
 * of smallest extents costs the JS thread no more than one decision per channel and millisecond.
 */
export const EXTENT_BYTES_MIN = 2 * 1024 * 1024

/**
 * A round is cut into at least this many extents per channel (as far as the 2 MiB floor allows):
 * 4, of which a slow channel is given two at first and the fast ones can take the others
 * (TAIL_CREDITS in multifd-scheduler.ts).
 */
export const EXTENTS_PER_CHANNEL_MIN = 4

/**
 * Under a bandwidth limit an extent is at most 20 ms of it: with the limiter's burst of 20 ms a
 * window of one second is then off by 40 ms, 4 %, at most (see rate-limiter.ts).
 */
export const LIMITED_EXTENT_MS = 20

/**
 * The planner's granule: extents begin and end on a 64-page boundary (one word of the bitmap), so
 * a fully dirty one cannot be below 64 * 4096 = 256 KiB. Under 13,107,200 bytes/s (256 KiB in
 * 20 ms) this floor wins over the 20 ms.
 */
export const EXTENT_GRANULE_BYTES = 64 * PAGE_SIZE_BYTES

/**
 * Under a limit the limiter paces every extent, so queueing more than one only delays its answer.
 */
export const LIMITED_CREDITS = 1

/**
 * The most dirty bytes one extent of the coming round should hold: a multiple of the page size.
 * `min(16 MiB, max(2 MiB, dirtyBytes / (4 * channels)))`; under a limit additionally at most 20 ms
 * of it, and never below 256 KiB.
 *
 * @param bytesPerSecond the bandwidth limit; 0 means unlimited.
 */
export function extentTargetBytes(options: {
  dirtyBytes: number
  channels: number
  bytesPerSecond: number
}): number {
  const { dirtyBytes, channels, bytesPerSecond } = options
  assert(dirtyBytes >= 0, `dirtyBytes must not be negative, got ${dirtyBytes}`)
  assert(
    Number.isInteger(channels) && channels >= 1 && channels <= CHANNELS_MAX,
    `channels must be 1..${CHANNELS_MAX}, got ${channels}`,
  )
  assert(bytesPerSecond >= 0, `bytesPerSecond must not be negative, got ${bytesPerSecond}`)
  const shareBytes = dirtyBytes / (EXTENTS_PER_CHANNEL_MIN * channels)
  const unlimitedBytes = Math.min(EXTENT_BYTES_MAX, Math.max(EXTENT_BYTES_MIN, shareBytes))
  if (bytesPerSecond === 0) return wholePages(unlimitedBytes)
  const limitedBytes = (bytesPerSecond * LIMITED_EXTENT_MS) / 1000
  return wholePages(Math.max(EXTENT_GRANULE_BYTES, Math.min(unlimitedBytes, limitedBytes)))
}

/** Extents as the native planner gives them: block, first page, page count, dirty pages. */
export function extentsOf(numbers: Float64Array): Extent[] {
  const extents: Extent[] = []
  for (let at = 0; at < numbers.length; at += 4) {
    extents.push({
      blockIndex: numbers[at] ?? 0,
      firstPage: numbers[at + 1] ?? 0,
      pageCount: numbers[at + 2] ?? 0,
      dirtyPages: numbers[at + 3] ?? 0,
    })
  }
  return extents
}

function wholePages(bytes: number): number {
  return Math.floor(bytes / PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES
}
