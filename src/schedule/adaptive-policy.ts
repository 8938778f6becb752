// The flush policy that finds out: whether zero-copy is worth it on this channel's path, and the
// fewest unreleased bytes that keep that path busy. A pure function of counters; it knows no
// socket and no clock, and everything it remembers is in the thresholds that it returns.
//
//              probe answered, not copied
//   probing ────────────────────────────────► on: grows while waiting lets the pipe run dry,
//    ▲  │ ▲     mostly copied, proven before   │   tries less when that was enough for long
//    │  │ └────────────────────────────────────┤
//    │  │ copied, or refused                   │ copied soon after a probe,
//    │  ▼                                      │ or refused at the least mark
//    └─ off ◄──────────────────────────────────┘   (probes again after N plain bytes, N doubles)

import assert from 'node:assert/strict'
import { refusalOf, type Since, seen, sinceLast } from './adaptive-counters.ts'
import {
  type AdaptiveMemory,
  type AdaptiveSnapshot,
  type AdaptiveThresholds,
  ANSWER_MIN_BYTES,
  CEILING_MAX_BYTES,
  type FlushReason,
  HIGH_MAX_BYTES,
  HIGH_MIN_BYTES,
  HIGH_START_BYTES,
  marks,
  PROBE_ANSWER_BYTES,
  PROBE_BYTES,
  PROBE_INTERVAL_MAX_BYTES,
  PROBE_INTERVAL_MIN_BYTES,
  PROVEN_BYTES,
  REFUSED_IN_ROW_MAX,
  TRY_LESS_MAX_BYTES,
  WAITS_MIN,
} from './adaptive-thresholds.ts'
import type { FlushPolicy } from './flush-policy.ts'

interface Change {
  reason: FlushReason
  highWaterBytes?: number
  mode?: AdaptiveThresholds['mode']
  zeroCopyUntilBytes?: number
  memory?: Partial<AdaptiveMemory>
}

/**
 * Decides when an extent completes. Returns `thresholds` itself when there is nothing to decide,
 * otherwise a frozen successor; `marksDiffer` says whether the channel must hear of it.
 * The high mark never exceeds `budgetBytes`; a budget below the least mark switches zero-copy off.
 */
export const adaptivePolicy: FlushPolicy<AdaptiveSnapshot, AdaptiveThresholds> = (
  snapshot,
  thresholds,
  budgetBytes,
) => {
  assert(budgetBytes >= 0, `budgetBytes must not be negative, got ${budgetBytes}`)
  const limitBytes = Math.min(HIGH_MAX_BYTES, budgetBytes)
  if (thresholds.mode === 'off') return whenOff(snapshot, thresholds, limitBytes)
  if (limitBytes < HIGH_MIN_BYTES) return switchOff(snapshot, thresholds, 'locked memory')
  if (thresholds.highWaterBytes > limitBytes) {
    // What was seen is kept: the next decision judges it.
    return next(thresholds, { reason: 'budget changed', highWaterBytes: limitBytes })
  }
  const since = sinceLast(snapshot, thresholds.memory.seen)
  if (thresholds.mode === 'probing') return whenProbing(snapshot, thresholds, since, limitBytes)
  return whenOn(snapshot, thresholds, since, limitBytes)
}

function whenOff(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  limitBytes: number,
): AdaptiveThresholds {
  const due = snapshot.sentBytes >= thresholds.memory.probeAtSentBytes
  if (!due || limitBytes < HIGH_MIN_BYTES) return thresholds
  return probe(snapshot, thresholds, 'probing', limitBytes)
}

function whenProbing(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  since: Since,
  limitBytes: number,
): AdaptiveThresholds {
  const settled = snapshot.unreleasedBytes === 0
  const spent = snapshot.zeroCopyTriedBytes >= thresholds.zeroCopyUntilBytes
  const judged =
    since.answeredBytes >= PROBE_ANSWER_BYTES || (spent && settled && since.answeredBytes > 0)
  if (!judged) {
    const refusal = refusalOf(since)
    if (refusal !== undefined && settled) return switchOff(snapshot, thresholds, refusal)
    // The channel may have tried more than the bound allowed before it heard of the bound, and then
    // there is no burst: ask for another one.
    if (spent && settled) return probe(snapshot, thresholds, 'probing', limitBytes)
    return thresholds
  }
  if (since.copiedBytes * 2 >= since.answeredBytes) {
    return switchOff(snapshot, thresholds, 'copied by the kernel')
  }
  return next(thresholds, {
    reason: 'probe succeeded',
    mode: 'on',
    zeroCopyUntilBytes: Number.POSITIVE_INFINITY,
    highWaterBytes: Math.min(HIGH_START_BYTES, ceiling(snapshot, thresholds), limitBytes),
    memory: { ...fresh(snapshot), onAtTriedBytes: snapshot.zeroCopyTriedBytes },
  })
}

function whenOn(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  since: Since,
  limitBytes: number,
): AdaptiveThresholds {
  const refusal = refusalOf(since)
  if (refusal !== undefined) return whenRefused(snapshot, thresholds, refusal)
  if (since.answeredBytes < ANSWER_MIN_BYTES) return thresholds
  const copiedShare = since.copiedBytes / since.answeredBytes
  if (copiedShare >= 1 / 2) return whenMostlyCopied(snapshot, thresholds, limitBytes)
  const { highWaterBytes } = thresholds
  if (copiedShare >= 1 / 8 && highWaterBytes > HIGH_START_BYTES) {
    return shrink(snapshot, thresholds, 'copied by the kernel', highWaterBytes / 2)
  }
  return whenZeroCopied(snapshot, thresholds, since, limitBytes)
}

/** Zero-copy works. What remains is the question how much of it the path needs. */
function whenZeroCopied(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  since: Since,
  limitBytes: number,
): AdaptiveThresholds {
  const { highWaterBytes, memory } = thresholds
  // Right after a change the channel waits for what it sent under the old marks: a window that
  // begins later is judged, or one so long that this is the least of it.
  const skippedBytes = memory.seen.zeroCopyTriedBytes - memory.changedAtTriedBytes
  const settled =
    skippedBytes >= 2 * highWaterBytes || since.zeroCopyTriedBytes >= 8 * highWaterBytes
  const enoughWaits = since.waitsAtHighWater >= WAITS_MIN
  const dry = settled && enoughWaits && wouldMoreHelp(since)
  // A try of less that failed goes back to where it came from.
  const { reason } = thresholds
  const tooLittle = reason === 'trying less' || reason === 'rarely full'
  // A pipe that is nearly always dry at the first mark is far larger than it.
  const first = highWaterBytes <= HIGH_START_BYTES && !tooLittle
  const far = first && since.dryWaits * 8 >= since.waitsAtHighWater * 7
  const wantedBytes = highWaterBytes * (far ? 4 : 2)
  const growToBytes = Math.min(wantedBytes, ceiling(snapshot, thresholds), limitBytes)
  if (dry && marks(growToBytes).highWaterBytes > highWaterBytes) {
    const tryLessBytes = tooLittle ? memory.tryLessBytes * 2 : memory.tryLessBytes
    return next(thresholds, {
      reason: 'waited at the mark',
      highWaterBytes: growToBytes,
      memory: {
        ...fresh(snapshot),
        tryLessBytes: Math.min(tryLessBytes, TRY_LESS_MAX_BYTES),
      },
    })
  }
  const quiet = dry
    ? quietFrom(snapshot)
    : {
        quietAtTriedBytes: memory.quietAtTriedBytes,
        quietHighBytes: Math.max(memory.quietHighBytes, snapshot.unreleasedRecentHighBytes),
      }
  const quietBytes = snapshot.zeroCopyTriedBytes - quiet.quietAtTriedBytes
  if (quietBytes >= memory.tryLessBytes && highWaterBytes > HIGH_START_BYTES) {
    return next(thresholds, {
      reason: quiet.quietHighBytes < highWaterBytes / 4 ? 'rarely full' : 'trying less',
      highWaterBytes: Math.max(HIGH_START_BYTES, highWaterBytes / 2),
      memory: fresh(snapshot),
    })
  }
  // A large mark is reached less than once per extent: too few waits count for the next decision.
  const { waitsAtHighWater, dryWaits, queuedWaits } = memory.seen
  const kept = enoughWaits || !settled ? {} : { waitsAtHighWater, dryWaits, queuedWaits }
  return next(thresholds, {
    reason: 'steady',
    memory: { seen: Object.freeze({ ...seen(snapshot), ...kept }), ...quiet, refusedInRow: 0 },
  })
}

/**
 * Many dry waits cost throughput. A few cost CPU time: a sender that finds the pipe empty transmits
 * by itself what otherwise goes out with the acknowledgements. Where the network or the receiver
 * was full in an eighth of the waits, more memory would only queue there.
 */
function wouldMoreHelp({ waitsAtHighWater, dryWaits, queuedWaits }: Since): boolean {
  return dryWaits * 8 >= waitsAtHighWater && queuedWaits * 8 < waitsAtHighWater
}

function whenMostlyCopied(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  limitBytes: number,
): AdaptiveThresholds {
  const reason = 'copied by the kernel'
  if (!proven(snapshot, thresholds)) return switchOff(snapshot, thresholds, reason)
  const fresh = remember(thresholds, { probeIntervalBytes: PROBE_INTERVAL_MIN_BYTES })
  return probe(snapshot, fresh, reason, limitBytes)
}

function whenRefused(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  reason: 'locked memory' | 'option memory',
): AdaptiveThresholds {
  const { highWaterBytes, memory } = thresholds
  if (highWaterBytes > HIGH_MIN_BYTES) {
    // The most that was unreleased was too much to have one send more: stay below it.
    const pinnedBytes = snapshot.unreleasedRecentHighBytes
    const below = reason === 'locked memory' ? (pinnedBytes * 3) / 4 : highWaterBytes
    return shrink(snapshot, thresholds, reason, Math.min(highWaterBytes / 2, below))
  }
  const refusedInRow = memory.refusedInRow + 1
  if (refusedInRow >= REFUSED_IN_ROW_MAX) return switchOff(snapshot, thresholds, reason)
  return next(thresholds, { reason, memory: { ...fresh(snapshot), refusedInRow } })
}

/** Lowers the mark and keeps it there for a while, longer each time. */
function shrink(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  reason: FlushReason,
  toBytes: number,
): AdaptiveThresholds {
  const { memory } = thresholds
  const floorBytes = reason === 'copied by the kernel' ? HIGH_START_BYTES : HIGH_MIN_BYTES
  const { highWaterBytes } = marks(Math.max(floorBytes, toBytes))
  // A descent of several steps is one finding; one after the ceiling was lifted is the next.
  const lifted = ceilingSinceBytes(snapshot, memory) >= memory.ceilingBytes
  const again = lifted && memory.ceilingAtTriedBytes > 0
  const ceilingBytes = again ? memory.ceilingBytes * 2 : memory.ceilingBytes
  return next(thresholds, {
    reason,
    highWaterBytes,
    memory: {
      ...fresh(snapshot),
      ceilingHighBytes: highWaterBytes,
      ceilingAtTriedBytes: snapshot.zeroCopyTriedBytes,
      ceilingBytes: Math.min(ceilingBytes, CEILING_MAX_BYTES),
    },
  })
}

function probe(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  reason: FlushReason,
  limitBytes: number,
): AdaptiveThresholds {
  return next(thresholds, {
    reason,
    mode: 'probing',
    zeroCopyUntilBytes: snapshot.zeroCopyTriedBytes + PROBE_BYTES,
    highWaterBytes: Math.min(HIGH_START_BYTES, limitBytes),
    memory: { seen: seen(snapshot) },
  })
}

function switchOff(
  snapshot: AdaptiveSnapshot,
  thresholds: AdaptiveThresholds,
  reason: FlushReason,
): AdaptiveThresholds {
  const intervalBytes = proven(snapshot, thresholds)
    ? PROBE_INTERVAL_MIN_BYTES
    : thresholds.memory.probeIntervalBytes
  return next(thresholds, {
    reason,
    mode: 'off',
    zeroCopyUntilBytes: 0,
    highWaterBytes: 0,
    memory: {
      seen: seen(snapshot),
      probeAtSentBytes: snapshot.sentBytes + intervalBytes,
      probeIntervalBytes: Math.min(intervalBytes * 2, PROBE_INTERVAL_MAX_BYTES),
      refusedInRow: 0,
    },
  })
}

/** Zero-copy has been on for so long that what ends it is a change, and not a false start. */
function proven({ zeroCopyTriedBytes }: AdaptiveSnapshot, thresholds: AdaptiveThresholds): boolean {
  const onBytes = zeroCopyTriedBytes - thresholds.memory.onAtTriedBytes
  return thresholds.mode === 'on' && onBytes >= PROVEN_BYTES
}

/** The mark above which memory was refused not long ago. */
function ceiling(snapshot: AdaptiveSnapshot, { memory }: AdaptiveThresholds): number {
  const lifted = ceilingSinceBytes(snapshot, memory) >= memory.ceilingBytes
  return lifted ? HIGH_MAX_BYTES : memory.ceilingHighBytes
}

function ceilingSinceBytes({ zeroCopyTriedBytes }: AdaptiveSnapshot, memory: AdaptiveMemory) {
  return zeroCopyTriedBytes - memory.ceilingAtTriedBytes
}

function quietFrom({ zeroCopyTriedBytes }: AdaptiveSnapshot) {
  return { quietAtTriedBytes: zeroCopyTriedBytes, quietHighBytes: 0 }
}

/** What every change of the marks begins anew. */
function fresh(snapshot: AdaptiveSnapshot) {
  return {
    seen: seen(snapshot),
    changedAtTriedBytes: snapshot.zeroCopyTriedBytes,
    ...quietFrom(snapshot),
    refusedInRow: 0,
  }
}

function remember(thresholds: AdaptiveThresholds, patch: Partial<AdaptiveMemory>) {
  return { ...thresholds, memory: { ...thresholds.memory, ...patch } }
}

function next(thresholds: AdaptiveThresholds, change: Change): AdaptiveThresholds {
  const { reason, memory, highWaterBytes = thresholds.highWaterBytes, ...rest } = change
  const { decisions } = thresholds
  return Object.freeze({
    ...thresholds,
    ...rest,
    ...marks(highWaterBytes),
    reason: reason === 'steady' ? thresholds.reason : reason,
    decisions: Object.freeze({ ...decisions, [reason]: decisions[reason] + 1 }),
    memory: Object.freeze({ ...thresholds.memory, ...memory }),
  })
}
