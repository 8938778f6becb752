// Thresholds: what is refused, and that no budget is ever exceeded.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type ChannelSnapshot,
  clampToBudget,
  DEFAULT_FLUSH_THRESHOLDS,
  fixedPolicy,
  flushThresholds,
  lockedMemoryShareBytes,
} from '../../src/schedule/flush-policy.ts'

const MIB = 1024 * 1024

const snapshot: ChannelSnapshot = {
  channelId: 0,
  sentBytes: 100 * MIB,
  unreleasedBytes: 16 * MIB,
  unreleasedHighBytes: 16 * MIB,
  zeroCopyBytes: 0,
  copiedBytes: 84 * MIB,
  waitsAtHighWater: 9,
  refusals: 3,
}

describe('flush thresholds', () => {
  it('are 16 MiB and 8 MiB by default, and frozen', () => {
    expect(flushThresholds()).toEqual({ highWaterBytes: 16 * MIB, lowWaterBytes: 8 * MIB })
    expect(flushThresholds()).toEqual(DEFAULT_FLUSH_THRESHOLDS)
    expect(Object.isFrozen(flushThresholds())).toBe(true)
    expect(Object.isFrozen(DEFAULT_FLUSH_THRESHOLDS)).toBe(true)
  })

  it('take half of the high mark where the low one is not given', () => {
    expect(flushThresholds({ highWaterBytes: 4 * MIB }).lowWaterBytes).toBe(2 * MIB)
    expect(flushThresholds({ lowWaterBytes: 0 }).highWaterBytes).toBe(16 * MIB)
  })

  it('are refused by name and value', () => {
    expect(() => flushThresholds({ highWater: 1 } as object)).toThrow(/"highWater"; expected/)
    expect(() => flushThresholds({ toString: 1 } as object)).toThrow(TypeError)
    expect(() => flushThresholds({ highWaterBytes: -1 })).toThrow(/highWaterBytes is -1/)
    expect(() => flushThresholds({ lowWaterBytes: 0.5 })).toThrow(/lowWaterBytes is 0.5/)
    expect(() => flushThresholds({ highWaterBytes: 1, lowWaterBytes: 2 })).toThrow(
      /lowWaterBytes is 2; expected at most highWaterBytes, which is 1/,
    )
  })
})

describe('fixed policy', () => {
  it('returns the very thresholds that it was given when they fit', () => {
    const thresholds = flushThresholds()
    expect(fixedPolicy(snapshot, thresholds, Number.POSITIVE_INFINITY)).toBe(thresholds)
    expect(fixedPolicy(snapshot, thresholds, 16 * MIB)).toBe(thresholds)
  })

  it('lowers the marks to the budget and keeps the proportion, and all else', () => {
    const clamped = fixedPolicy(snapshot, { ...flushThresholds(), more: 'kept' }, 4 * MIB)
    expect(clamped).toEqual({ highWaterBytes: 4 * MIB, lowWaterBytes: 2 * MIB, more: 'kept' })
  })

  it('sends plain where the budget is nothing', () => {
    const none = { highWaterBytes: 0, lowWaterBytes: 0 }
    expect(fixedPolicy(snapshot, flushThresholds(), 0)).toEqual(none)
  })

  it('never exceeds a budget, and never raises a mark', () => {
    const bytes = fc.integer({ min: 0, max: 64 * MIB })
    fc.assert(
      fc.property(bytes, bytes, bytes, (first, second, budgetBytes) => {
        const thresholds = flushThresholds({
          highWaterBytes: Math.max(first, second),
          lowWaterBytes: Math.min(first, second),
        })
        const clamped = clampToBudget(thresholds, budgetBytes)
        expect(flushThresholds(clamped)).toEqual(clamped)
        expect(Object.isFrozen(clamped)).toBe(true)
        expect(clamped.highWaterBytes).toBeLessThanOrEqual(thresholds.highWaterBytes)
        expect(clamped.lowWaterBytes).toBeLessThanOrEqual(thresholds.lowWaterBytes)
        expect(clamped.highWaterBytes).toBeLessThanOrEqual(budgetBytes)
        expect(clampToBudget(clamped, budgetBytes)).toBe(clamped)
      }),
    )
  })

  it('asserts that the budget is a number of bytes', () => {
    expect(() => clampToBudget(flushThresholds(), -1)).toThrow(/budgetBytes/)
    expect(() => clampToBudget(flushThresholds(), Number.NaN)).toThrow(/budgetBytes/)
  })
})

it('shares three quarters of the locked-memory limit among the channels', () => {
  expect(lockedMemoryShareBytes({ lockedMemoryLimitBytes: 8 * MIB, channels: 4 })).toBe(1.5 * MIB)
  const unlimited = { lockedMemoryLimitBytes: Number.POSITIVE_INFINITY, channels: 4 }
  expect(lockedMemoryShareBytes(unlimited)).toBe(Number.POSITIVE_INFINITY)
})
