// How many bytes a zero-copy channel may leave with the kernel before it must wait for some of them
// to be released. Only numbers in and numbers out: reaping is done by the native channel thread,
// which compares its own counter with these thresholds. Snapshots come from the channel's counters.

import assert from 'node:assert/strict'

/**
 * The two water marks of one zero-copy channel, frozen. They bound guest memory that is sent but
 * not yet released (the kernel may still read it), and so the memory that is pinned.
 *
 * ```
 * 0 ........ lowWaterBytes ............... highWaterBytes
 *            ^ a flush reaps down to here  ^ a send that would exceed this waits for a flush first
 * ```
 *
 * The gap between them is what one flush waits for; the part below the low mark keeps the pipe
 * filled meanwhile. At the end of each scan and at switchover a channel flushes to zero, whatever
 * these say. A channel that does not use zero-copy ignores them.
 */
export interface FlushThresholds {
  /**
   * Bytes; no more is ever unreleased. Sends are cut to a quarter of it, and below 16 KiB, the
   * least that a zero-copy send is worth, they are plain.
   */
  readonly highWaterBytes: number
  /** Bytes; a flush ends as soon as no more than this is unreleased. 0..highWaterBytes. */
  readonly lowWaterBytes: number
}

/** All that a channel is told: its water marks, and how long it may try zero-copy at all. */
export interface ChannelMarks extends FlushThresholds {
  /** Plain sends once so many bytes were tried with zero-copy; Infinity for no such bound. */
  readonly zeroCopyUntilBytes: number
}

/**
 * One channel's counters at one moment, since the start of the migration unless it says otherwise.
 */
export interface ChannelSnapshot {
  /** 0-based multifd channel. */
  readonly channelId: number
  /** Bytes the kernel accepted, headers included. */
  readonly sentBytes: number
  /** Bytes accepted and not yet released, now. */
  readonly unreleasedBytes: number
  /** The most `unreleasedBytes` ever was. */
  readonly unreleasedHighBytes: number
  /** Bytes the kernel released without having copied them. */
  readonly zeroCopyBytes: number
  /** Bytes that were sent with zero-copy and that the kernel copied after all. */
  readonly copiedBytes: number
  /** How often a send had to wait at the high-water mark. */
  readonly waitsAtHighWater: number
  /** How often the kernel refused a zero-copy send (ENOBUFS). */
  readonly refusals: number
}

/**
 * The decision for one channel, run when an extent completes: what was seen and the present
 * thresholds give the next ones. It must be pure, must return a frozen object, and must return
 * `thresholds` itself when nothing changes. `budgetBytes` is this channel's share of the memory
 * that may be pinned (`lockedMemoryShareBytes`); Infinity means that nothing limits it.
 */
export type FlushPolicy<
  Snapshot extends ChannelSnapshot = ChannelSnapshot,
  Thresholds extends FlushThresholds = FlushThresholds,
> = (snapshot: Snapshot, thresholds: Thresholds, budgetBytes: number) => Thresholds

/**
 * 16 MiB high: a channel of 10 Gbit/s whose releases take 10 ms (they come with the peer's
 * acknowledgements) has 12.5 MB unreleased all the time; 16 MiB is the next power of two, one
 * extent, and 4 GiB over 255 channels. 8 MiB low: the 8 MiB that stay are 6.7 ms of such a channel,
 * longer than a flush takes to wake up, so the pipe does not run dry while the others are reaped.
 */
export const DEFAULT_FLUSH_THRESHOLDS: FlushThresholds = Object.freeze({
  highWaterBytes: 16 * 1024 * 1024,
  lowWaterBytes: 8 * 1024 * 1024,
})

/**
 * Three quarters of the locked-memory limit are ours. The rest is for what the kernel adds to each
 * zero-copy send (two pages, 1.6 % of a packet) and for whatever else the same user has pinned, as
 * the limit counts per user and not per program.
 */
export const LOCKED_MEMORY_SHARE = 0.75

/**
 * Makes a checked, frozen pair of thresholds. What is not given is taken from the default; a
 * low mark that is not given is half of a given high one.
 *
 * @throws TypeError for an unknown name, RangeError for a value that is not a whole number of bytes
 * or a low mark above the high one.
 */
export function flushThresholds(options: Partial<FlushThresholds> = {}): FlushThresholds {
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(DEFAULT_FLUSH_THRESHOLDS, name)) continue
    throw new TypeError(
      `Unknown flush threshold "${name}"; expected highWaterBytes or lowWaterBytes`,
    )
  }
  const highWaterBytes = options.highWaterBytes ?? DEFAULT_FLUSH_THRESHOLDS.highWaterBytes
  const lowWaterBytes = options.lowWaterBytes ?? Math.floor(highWaterBytes / 2)
  checkBytes('highWaterBytes', highWaterBytes)
  checkBytes('lowWaterBytes', lowWaterBytes)
  if (lowWaterBytes > highWaterBytes) {
    throw new RangeError(
      `The flush threshold lowWaterBytes is ${lowWaterBytes}; ` +
        `expected at most highWaterBytes, which is ${highWaterBytes}`,
    )
  }
  return Object.freeze({ highWaterBytes, lowWaterBytes })
}

/**
 * One channel's share of the memory that may be pinned, in whole bytes.
 * @param options.lockedMemoryLimitBytes RLIMIT_MEMLOCK; Infinity where it does not bind (root).
 */
export function lockedMemoryShareBytes(options: {
  lockedMemoryLimitBytes: number
  channels: number
}): number {
  return Math.floor((options.lockedMemoryLimitBytes * LOCKED_MEMORY_SHARE) / options.channels)
}

/**
 * Lowers the high mark to the budget; the low one keeps its proportion. Marks that fit are returned
 * as they are.
 */
export function clampToBudget<Thresholds extends FlushThresholds>(
  thresholds: Thresholds,
  budgetBytes: number,
): Thresholds {
  assert(budgetBytes >= 0, `budgetBytes must not be negative, got ${budgetBytes}`)
  if (thresholds.highWaterBytes <= budgetBytes) return thresholds
  const highWaterBytes = Math.floor(budgetBytes)
  // The high mark is above zero here, as it is above the budget.
  const ratio = highWaterBytes / thresholds.highWaterBytes
  const lowWaterBytes = Math.floor(thresholds.lowWaterBytes * ratio)
  return Object.freeze({ ...thresholds, highWaterBytes, lowWaterBytes })
}

/** The policy of fixed marks: whatever the channel reports, they stay, within the budget. */
export function fixedPolicy<Thresholds extends FlushThresholds>(
  _snapshot: ChannelSnapshot,
  thresholds: Thresholds,
  budgetBytes: number,
): Thresholds {
  return clampToBudget(thresholds, budgetBytes)
}

function checkBytes(name: keyof FlushThresholds, value: number): void {
  if (Number.isSafeInteger(value) && value >= 0) return
  throw new RangeError(
    `The flush threshold ${name} is ${value}; expected a whole number of bytes from 0 up`,
  )
}
