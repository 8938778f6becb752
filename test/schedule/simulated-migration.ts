// Whole migrations of one simulated channel under the adaptive policy. Each decision is checked for
// what must hold whatever was answered.

import fc from 'fast-check'
import { expect } from 'vitest'
import { adaptivePolicy } from '../../src/schedule/adaptive-policy.ts'
import {
  type AdaptiveSnapshot,
  type AdaptiveThresholds,
  FLUSH_REASONS,
  HIGH_MAX_BYTES,
  HIGH_MIN_BYTES,
  marksDiffer,
  startThresholds,
} from '../../src/schedule/adaptive-thresholds.ts'
import { type Path, SimulatedChannel } from './simulated-channel.ts'

const UNLIMITED = Number.POSITIVE_INFINITY

export interface Decision {
  snapshot: AdaptiveSnapshot
  thresholds: AdaptiveThresholds
  /** Simulated time. */
  now: number
}

export interface Course {
  /** Cyclic. */
  extentBytes: number[]
  /** Cyclic: how far the channel gets into the next extent until it hears of a decision. */
  lateBytes: number[]
  /** Extents per round; each round ends in a flush to zero. */
  roundExtents: number
}

export const course: fc.Arbitrary<Course> = fc.record({
  extentBytes: fc.array(fc.integer({ min: 256, max: 4096 }), { minLength: 1, maxLength: 5 }),
  lateBytes: fc.array(fc.integer({ min: 0, max: 1024 }), { minLength: 1, maxLength: 3 }),
  roundExtents: fc.integer({ min: 1, max: 400 }),
})

/** Pages to bytes: shrunk counterexamples are easier to read in pages. */
const cyclicPages = (pages: number[], index: number) => (pages[index % pages.length] ?? 1) * 4096

export function decide(
  snapshot: AdaptiveSnapshot,
  before: AdaptiveThresholds,
  budgetBytes: number,
) {
  const after = adaptivePolicy(snapshot, before, budgetBytes)
  checkDecision(before, after, budgetBytes)
  return after
}

/** What holds for every decision, whatever was answered. */
function checkDecision(
  before: AdaptiveThresholds,
  after: AdaptiveThresholds,
  budgetBytes: number,
): void {
  const { highWaterBytes, lowWaterBytes, zeroCopyUntilBytes, mode } = after
  // Plain comparisons: expect() would take most of the time, at a million decisions.
  const sound =
    (highWaterBytes <= budgetBytes || mode === 'off') &&
    highWaterBytes <= HIGH_MAX_BYTES &&
    lowWaterBytes * 2 === highWaterBytes &&
    Object.isFrozen(after) &&
    Object.isFrozen(after.memory) &&
    Object.isFrozen(after.memory.seen) &&
    (mode === 'off'
      ? highWaterBytes === 0 && zeroCopyUntilBytes === 0
      : highWaterBytes >= HIGH_MIN_BYTES && highWaterBytes % 4096 === 0) &&
    (mode === 'on') === (zeroCopyUntilBytes === UNLIMITED) &&
    (after === before || total(after) === total(before) + 1)
  if (!sound) expect.fail(`unsound at budget ${budgetBytes}: ${JSON.stringify({ before, after })}`)
}

const total = ({ decisions }: AdaptiveThresholds) =>
  FLUSH_REASONS.reduce((sum, reason) => sum + decisions[reason], 0)

export function migrate(
  path: Path,
  { extentBytes, lateBytes, roundExtents }: Course,
  totalBytes: number,
  budgetBytes = UNLIMITED,
): Decision[] {
  let thresholds = startThresholds(budgetBytes)
  const channel = new SimulatedChannel(path, thresholds)
  const decisions: Decision[] = []
  for (let i = 0; channel.counters.sentBytes < totalBytes; i += 1) {
    const snapshot = channel.sendExtent(cyclicPages(extentBytes, i))
    const after = decide(snapshot, thresholds, budgetBytes)
    if (marksDiffer(thresholds, after)) {
      channel.setMarks(after, (lateBytes[i % lateBytes.length] ?? 0) * 4096)
    }
    thresholds = after
    decisions.push({ snapshot, thresholds, now: channel.now })
    if (i % roundExtents === roundExtents - 1) channel.flush()
  }
  return decisions
}
