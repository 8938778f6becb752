// What a channel reported since the last decision of the adaptive policy. Subtraction and nothing
// else: counters come from a snapshot, what they mean is up to adaptive-policy.ts.

import type { AdaptiveSnapshot, SeenCounters } from './adaptive-thresholds.ts'

/** What happened since the last decision. */
export interface Since extends SeenCounters {
  /** Zero-copy bytes that were released, copied or not. */
  readonly answeredBytes: number
}

/** Never negative: cells are read while the channel writes them, and may be a send apart. */
export function sinceLast(snapshot: AdaptiveSnapshot, before: SeenCounters): Since {
  const grown = (name: keyof SeenCounters) => Math.max(0, snapshot[name] - before[name])
  const zeroCopyBytes = grown('zeroCopyBytes')
  const copiedBytes = grown('copiedBytes')
  return {
    zeroCopyTriedBytes: grown('zeroCopyTriedBytes'),
    zeroCopyBytes,
    copiedBytes,
    answeredBytes: zeroCopyBytes + copiedBytes,
    waitsAtHighWater: grown('waitsAtHighWater'),
    dryWaits: grown('dryWaits'),
    queuedWaits: grown('queuedWaits'),
    refusedByMemlock: grown('refusedByMemlock'),
    refusedByOptmem: grown('refusedByOptmem'),
  }
}

/** Why zero-copy sends were refused, if any were; locked memory is the harder of the two. */
export function refusalOf(since: Since): 'locked memory' | 'option memory' | undefined {
  if (since.refusedByMemlock > 0) return 'locked memory'
  return since.refusedByOptmem > 0 ? 'option memory' : undefined
}

/** The counters to subtract from the next snapshot. */
export function seen(snapshot: AdaptiveSnapshot): SeenCounters {
  return Object.freeze({
    zeroCopyTriedBytes: snapshot.zeroCopyTriedBytes,
    zeroCopyBytes: snapshot.zeroCopyBytes,
    copiedBytes: snapshot.copiedBytes,
    waitsAtHighWater: snapshot.waitsAtHighWater,
    dryWaits: snapshot.dryWaits,
    queuedWaits: snapshot.queuedWaits,
    refusedByMemlock: snapshot.refusedByMemlock,
    refusedByOptmem: snapshot.refusedByOptmem,
  })
}
