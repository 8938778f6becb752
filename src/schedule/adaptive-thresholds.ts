// What the adaptive flush policy keeps per channel: marks, the bound on zero-copy sends, and the
// memory that its next decision needs. All of it is one frozen value; who decides is
// adaptive-policy.ts, who obeys is the native channel, and neither keeps anything else.

import type { ChannelMarks, ChannelSnapshot, FlushThresholds } from './flush-policy.ts'

const KIB = 1024
const MIB = 1024 * KIB
const GIB = 1024 * MIB

/**
 * The mark a channel starts with after a probe, and the one it returns to when more is of no use:
 * 768 KiB is 6 ms of 1 Gbit/s, far above the round trip of a local network, and enough to keep
 * 5 Gbit/s of two channels busy (measured; 512 KiB let them run dry). It is sent in calls of at
 * most a quarter, 171 or 189 KiB of a full record, where zero-copy already pays ten times over (it
 * does from about 10 KiB). The first step from here may take four times as much: 3 MiB, even where
 * the path needs little more than this.
 */
export const HIGH_START_BYTES = 768 * KIB

/** The least mark that locked memory can force: calls of 32 KiB. Below it zero-copy is off. */
export const HIGH_MIN_BYTES = 128 * KIB

/**
 * The most a channel ever pins, whatever the budget: 64 MiB, what the native pool of 64 records
 * holds at least. It fills 10 Gbit/s over a round trip of 25 ms (two pipes' worth, see `dryWaits`).
 */
export const HIGH_MAX_BYTES = 64 * MIB

/**
 * A probe: zero-copy until this many bytes were tried, so one full record (1 MiB in packets of
 * QEMU's size, 1.85 MiB in large ones) or a few small ones. At three times the price of a plain
 * send, one of 1.85 MiB costs what 3.7 MiB more of plain sends would.
 */
export const PROBE_BYTES = 256 * KIB

/** Half of a probe's bytes answered are a verdict: one notification may still be on its way. */
export const PROBE_ANSWER_BYTES = PROBE_BYTES / 2

/**
 * Plain bytes before the second probe; doubled for each one after it. At every moment after the
 * first 100 MiB the probes since then are below 0.32 % of the bytes since then: 2.1 MiB at 1 GiB of
 * 924, two of them at 3 GiB, and so on; later 0.05 %.
 */
export const PROBE_INTERVAL_MIN_BYTES = 1 * GIB

/** The longest interval: a path that allows zero-copy again is noticed within 4 GiB. */
export const PROBE_INTERVAL_MAX_BYTES = 4 * GIB

/**
 * Zero-copy that worked for this long has proved itself: its end is a change of the path, and the
 * probe interval begins anew. Anything shorter was a false start and doubles it.
 */
export const PROVEN_BYTES = 256 * MIB

/** Fewer answered bytes than this are no basis for a decision; they count for the next one. */
export const ANSWER_MIN_BYTES = 256 * KIB

/** So many waits are judged together; an eighth of them must have been dry to raise the mark. */
export const WAITS_MIN = 2

/**
 * How long a mark must have been enough before less is tried: 512 MiB. Where less is too little,
 * the try costs one extent (16 MiB) at half speed, 3 %, and each one that failed doubles the wait.
 */
export const TRY_LESS_MIN_BYTES = 512 * MIB
export const TRY_LESS_MAX_BYTES = 16 * GIB

/** How long a mark that memory refused is not tried again; doubled by each refusal. */
export const CEILING_MIN_BYTES = 1 * GIB
export const CEILING_MAX_BYTES = 16 * GIB

/** Decisions in a row that saw refusals at the least mark, until zero-copy is switched off. */
export const REFUSED_IN_ROW_MAX = 3

/** Why a decision was taken. */
export const FLUSH_REASONS = [
  /** The channel's first probe. */
  'started',
  /** A burst of zero-copy sends after a time of plain ones. */
  'probing',
  'probe succeeded',
  'copied by the kernel',
  'locked memory',
  'option memory',
  /** The pipe ran dry while the channel waited at the high mark. */
  'waited at the mark',
  /** Far less than the high mark was ever unreleased. */
  'rarely full',
  /** The mark was enough for long; half of it may be, too. */
  'trying less',
  'budget changed',
  'steady',
] as const

export type FlushReason = (typeof FLUSH_REASONS)[number]

/** What the adaptive policy must know on top. All counters are since the start of the migration. */
export interface AdaptiveSnapshot extends ChannelSnapshot {
  /** Bytes of all records for which zero-copy was tried, also where it was refused in the end. */
  readonly zeroCopyTriedBytes: number
  /** The most that was unreleased while the last extent was sent. */
  readonly unreleasedRecentHighBytes: number
  /**
   * How many of the waits at the high mark let the pipe run dry: when they ended, the socket held
   * nothing unsent, the round trip showed no queue in the network, and the receiver's window was
   * not what the channel waited for. A higher mark avoids these and no others.
   */
  readonly dryWaits: number
  /** How many of the waits were the network's or the receiver's: a higher mark only pins more. */
  readonly queuedWaits: number
  /** How often the kernel refused a zero-copy send because of RLIMIT_MEMLOCK. */
  readonly refusedByMemlock: number
  /** The same because of net.core.optmem_max. */
  readonly refusedByOptmem: number
}

/** The counters at the last decision: the next one looks at what came since. */
export type SeenCounters = Pick<
  AdaptiveSnapshot,
  | 'zeroCopyTriedBytes'
  | 'zeroCopyBytes'
  | 'copiedBytes'
  | 'waitsAtHighWater'
  | 'dryWaits'
  | 'queuedWaits'
  | 'refusedByMemlock'
  | 'refusedByOptmem'
>

/** What only the policy itself reads. "At" is a point in sent or tried bytes: there is no clock. */
export interface AdaptiveMemory {
  readonly seen: SeenCounters
  /** Sent bytes at which an `off` channel probes. */
  readonly probeAtSentBytes: number
  /** How long the channel will be off when it is switched off the next time. */
  readonly probeIntervalBytes: number
  /** Tried bytes when the last probe succeeded. */
  readonly onAtTriedBytes: number
  /** Tried bytes at the last change of the marks. */
  readonly changedAtTriedBytes: number
  /** Tried bytes since when the present mark was enough. */
  readonly quietAtTriedBytes: number
  /** The most that was unreleased since then. */
  readonly quietHighBytes: number
  readonly tryLessBytes: number
  /** No growth above this until `ceilingBytes` were tried since `ceilingAtTriedBytes`. */
  readonly ceilingHighBytes: number
  readonly ceilingAtTriedBytes: number
  readonly ceilingBytes: number
  readonly refusedInRow: number
}

/** One channel's marks, why they are so, and what the next decision needs. Frozen. */
export interface AdaptiveThresholds extends ChannelMarks {
  /**
   * Zero-copy is used as long as fewer than this many bytes were tried (`zeroCopyTriedBytes`):
   * bounds a probe within an extent. Infinity while zero-copy is on, 0 while it is off.
   */
  readonly zeroCopyUntilBytes: number
  /** `off`: plain sends only, and both marks are 0. */
  readonly mode: 'probing' | 'on' | 'off'
  /** Why the marks are what they are: the last decision that was not `steady`. */
  readonly reason: FlushReason
  /** How often each reason decided. */
  readonly decisions: Readonly<Record<FlushReason, number>>
  readonly memory: AdaptiveMemory
}

/** Marks of `highWaterBytes` and half of it, on whole pages. */
export function marks(highWaterBytes: number): FlushThresholds {
  const high = Math.floor(highWaterBytes / 4096) * 4096
  return { highWaterBytes: high, lowWaterBytes: high / 2 }
}

/**
 * The thresholds to open a channel with: a probe from its first byte on, or off where the budget
 * does not even hold the least mark.
 * @param budgetBytes what the channel may pin; Infinity where nothing limits it.
 */
export function startThresholds(budgetBytes: number): AdaptiveThresholds {
  const mayProbe = budgetBytes >= HIGH_MIN_BYTES
  const reason = mayProbe ? 'started' : 'locked memory'
  const none = Object.fromEntries(FLUSH_REASONS.map((name) => [name, 0]))
  return Object.freeze({
    ...marks(mayProbe ? Math.min(HIGH_START_BYTES, budgetBytes) : 0),
    zeroCopyUntilBytes: mayProbe ? PROBE_BYTES : 0,
    mode: mayProbe ? 'probing' : 'off',
    reason,
    decisions: Object.freeze({ ...none, [reason]: 1 } as Record<FlushReason, number>),
    memory: Object.freeze({
      seen: Object.freeze({
        zeroCopyTriedBytes: 0,
        zeroCopyBytes: 0,
        copiedBytes: 0,
        waitsAtHighWater: 0,
        dryWaits: 0,
        queuedWaits: 0,
        refusedByMemlock: 0,
        refusedByOptmem: 0,
      }),
      probeAtSentBytes: 0,
      probeIntervalBytes: PROBE_INTERVAL_MIN_BYTES,
      onAtTriedBytes: 0,
      changedAtTriedBytes: 0,
      quietAtTriedBytes: 0,
      quietHighBytes: 0,
      tryLessBytes: TRY_LESS_MIN_BYTES,
      ceilingHighBytes: HIGH_MAX_BYTES,
      ceilingAtTriedBytes: 0,
      ceilingBytes: CEILING_MIN_BYTES,
      refusedInRow: 0,
    }),
  })
}

/** Whether anything was decided but to go on as before. */
export function decidedAnew(before: AdaptiveThresholds, after: AdaptiveThresholds): boolean {
  return after !== before && after.decisions.steady === before.decisions.steady
}

/** Whether the native channel must be told; a `steady` decision changes only the memory. */
export function marksDiffer(before: ChannelMarks, after: ChannelMarks): boolean {
  return (
    before.highWaterBytes !== after.highWaterBytes ||
    before.lowWaterBytes !== after.lowWaterBytes ||
    before.zeroCopyUntilBytes !== after.zeroCopyUntilBytes
  )
}
