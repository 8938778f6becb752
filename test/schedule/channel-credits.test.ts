// How many extents a channel may hold, by what it has done.
import { expect, it } from 'vitest'
import {
  ChannelCredits,
  CREDITS_AT_FIRST,
  CREDITS_MAX,
  CREDITS_MIN,
  HELD_MS,
} from '../../src/schedule/channel-credits.ts'

const DIRTY_BYTES = 16 * 1024 * 1024

function after(doneCounts: number[], nowMs: number, wireBytes = DIRTY_BYTES): number[] {
  const subject = new ChannelCredits(doneCounts.length)
  subject.begin(1000)
  for (const [channelId, count] of doneCounts.entries()) {
    for (let i = 0; i < count; i += 1) subject.extentDone(channelId, wireBytes, DIRTY_BYTES)
  }
  return [...subject.at(1000 + nowMs)]
}

it('gives each channel what it works off in HELD_MS', () => {
  expect(after([20, 10, 5], HELD_MS)).toEqual([20, 10, 5])
  expect(after([20, 10, 5], HELD_MS / 2)).toEqual([32, 20, 10])
  expect(after([45, 31], 3 * HELD_MS)).toEqual([15, 11])
})

it('bounds that on both sides, and knows nothing of a channel that has done nothing', () => {
  expect(after([1, 1000, 0], 10 * HELD_MS)).toEqual([CREDITS_MIN, CREDITS_MAX, CREDITS_AT_FIRST])
  expect(after([1, 0], 0)).toEqual([CREDITS_MAX, CREDITS_AT_FIRST])
})

it('does not take zero pages for a fast path: what comes behind them may take long', () => {
  expect(after([100], HELD_MS, 40_000)).toEqual([CREDITS_AT_FIRST])
  expect(after([100], HELD_MS, DIRTY_BYTES / 8)).toEqual([13])
  expect(after([1], HELD_MS, 40_000)).toEqual([CREDITS_MIN])
})

it('begins anew with each round', () => {
  const subject = new ChannelCredits(1)
  subject.begin(0)
  for (let i = 0; i < 4; i += 1) subject.extentDone(0, DIRTY_BYTES, DIRTY_BYTES)
  expect([...subject.at(HELD_MS)]).toEqual([4])
  subject.begin(5000)
  expect([...subject.at(5000 + HELD_MS)]).toEqual([CREDITS_AT_FIRST])
})
