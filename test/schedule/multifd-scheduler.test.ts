// The scheduler's decisions, one at a time. What must hold over whole migrations with channels of
// random speed is in multifd-scheduler.property.test.ts.

import { describe, expect, it } from 'vitest'
import { MultifdScheduler, type ScheduleAction } from '../../src/schedule/multifd-scheduler.ts'
import { RateLimiter } from '../../src/schedule/rate-limiter.ts'
import type { Extent } from '../../src/schedule/round-plan.ts'

const PAGE = 4096

function extents(count: number, dirtyPages = 256): Extent[] {
  return Array.from({ length: count }, (_, index) => ({
    blockIndex: 0,
    firstPage: index * 256,
    pageCount: 256,
    dirtyPages,
  }))
}

function scheduler(channels: number, bytesPerSecond = 0): MultifdScheduler {
  const rateLimiter = new RateLimiter({ bytesPerSecond, nowMs: 0 })
  return new MultifdScheduler({ channels, rateLimiter })
}

function extentChannels(actions: ScheduleAction[]): number[] {
  return actions.filter((action) => action.kind === 'extent').map((action) => action.channelId)
}

describe('placing extents', () => {
  it('deals them out in address order, evenly, up to the credits', () => {
    const plan = extents(100)
    const subject = scheduler(3)
    subject.beginRound(plan, 2)
    const actions = subject.next(0)
    expect(actions).toEqual(
      [0, 1, 2, 0, 1, 2].map((channelId, index) => ({
        kind: 'extent',
        channelId,
        extent: plan[index],
      })),
    )
    expect(subject.next(0)).toEqual([])
  })

  it('gives the next one to the channel with the most free credit', () => {
    const subject = scheduler(3)
    subject.beginRound(extents(100), 4)
    subject.next(0)
    subject.extentDone(1, 0, 0)
    subject.extentDone(2, 0, 0)
    subject.extentDone(2, 0, 0)
    // Channel 2 has two free, then 1 and 2 have one each; 2 was served last, so 1 is next.
    expect(extentChannels(subject.next(0))).toEqual([2, 1, 2])
  })

  it('begins a round with the channel after the one that was served last', () => {
    const subject = scheduler(3)
    subject.beginRound(extents(1), 4)
    expect(extentChannels(subject.next(0))).toEqual([0])
    subject.extentDone(0, 0, 0)
    subject.next(0)
    for (const channelId of [0, 1, 2]) subject.syncDone(channelId)
    subject.beginRound(extents(4), 4)
    expect(extentChannels(subject.next(0))).toEqual([1, 2, 0, 1])
  })

  it('keeps back the last extents of a round for whoever is ready for them', () => {
    const subject = scheduler(2)
    subject.beginRound(extents(8), 4)
    expect(extentChannels(subject.next(0))).toEqual([0, 1, 0, 1])
    for (let turn = 0; turn < 4; turn += 1) {
      subject.extentDone(1, 0, 0)
      expect(extentChannels(subject.next(0))).toEqual([1])
    }
  })

  it('follows a change of the credits within a round', () => {
    const subject = scheduler(2)
    subject.beginRound(extents(100), 2)
    expect(subject.next(0)).toHaveLength(4)
    subject.setCredits(1)
    subject.extentDone(0, 0, 0)
    expect(subject.next(0)).toEqual([])
    subject.extentDone(0, 0, 0)
    expect(extentChannels(subject.next(0))).toEqual([0])
    subject.setCredits(4)
    expect(subject.next(0)).toHaveLength(5)
  })

  it('gives each channel its own credits', () => {
    const subject = scheduler(3)
    subject.beginRound(extents(100), [1, 3, 2])
    expect(extentChannels(subject.next(0)).sort()).toEqual([0, 1, 1, 1, 2, 2])
  })

  it('lets a fast channel hold more near the end', () => {
    const subject = scheduler(2)
    subject.beginRound(extents(8), [32, 8])
    // Four are an even share, and an eighth of 32; of 8 it is less than two.
    expect(extentChannels(subject.next(0))).toEqual([0, 1, 0, 1, 0, 0])
  })

  it('counts the pages of extents that are not done as remaining', () => {
    const plan = extents(3, 100)
    const subject = scheduler(1)
    subject.beginRound(plan, 4)
    subject.next(0)
    expect(subject.remainingPages).toBe(300)
    expect(subject.extentDone(0, 0, 0)).toBe(plan[0])
    expect(subject.remainingPages).toBe(200)
  })
})

describe('fewer at once than there are channels', () => {
  const started = (credits: number, count = 100): MultifdScheduler => {
    const rateLimiter = new RateLimiter({ bytesPerSecond: 0, nowMs: 0 })
    const subject = new MultifdScheduler({ channels: 4, atOnce: 2, rateLimiter })
    subject.beginRound(extents(count), credits)
    return subject
  }

  it('gives extents to no more, and to another one when one has none left', () => {
    const subject = started(2)
    expect(extentChannels(subject.next(0))).toEqual([0, 1, 0, 1])
    subject.extentDone(1, 0, 0)
    expect(extentChannels(subject.next(0))).toEqual([1])
    subject.extentDone(0, 0, 0)
    subject.extentDone(0, 0, 0)
    expect(extentChannels(subject.next(0))).toEqual([2, 2])
  })

  it('deals the end of a round out to those that work', () => {
    const subject = started(8, 12)
    // Three each are their even share of the six that are left then.
    expect(extentChannels(subject.next(0))).toEqual([0, 1, 0, 1, 0, 1])
  })

  it('syncs all of them, and begins the next round with those that rested', () => {
    const subject = started(4, 2)
    const actions = subject.next(0)
    expect(extentChannels(actions)).toEqual([0, 1])
    expect(actions.slice(2).map(({ kind, channelId }) => [kind, channelId])).toEqual(
      [0, 1, 2, 3].map((channelId) => ['sync', channelId]),
    )
    for (const channelId of [0, 1]) subject.extentDone(channelId, 0, 0)
    for (const channelId of [0, 1, 2, 3]) subject.syncDone(channelId)
    subject.beginRound(extents(2), 4)
    expect(extentChannels(subject.next(0))).toEqual([2, 3])
  })
})

describe('syncing', () => {
  it('syncs every channel once, behind the last extents of the round', () => {
    const subject = scheduler(2)
    subject.beginRound(extents(3), 1)
    expect(extentChannels(subject.next(0))).toEqual([0, 1])
    expect(subject.roundState).toBe('sending')
    subject.extentDone(1, 0, 0)
    expect(subject.next(0)).toMatchObject([
      { kind: 'extent', channelId: 1 },
      { kind: 'sync', channelId: 0 },
      { kind: 'sync', channelId: 1 },
    ])
    expect(subject.next(0)).toEqual([])
    expect(subject.roundState).toBe('syncing')
    subject.extentDone(1, 0, 0)
    subject.syncDone(1)
    subject.extentDone(0, 0, 0)
    expect(subject.remainingPages).toBe(0)
    expect(subject.roundState).toBe('syncing')
    subject.syncDone(0)
    expect(subject.roundState).toBe('synced')
  })

  it('syncs every channel of an empty round, a limiter in debt notwithstanding', () => {
    const rateLimiter = new RateLimiter({ bytesPerSecond: 1, nowMs: 0 })
    rateLimiter.charge(1e9, 0)
    const subject = new MultifdScheduler({ channels: 255, rateLimiter })
    subject.beginRound([], 1)
    const actions = subject.next(0)
    expect(actions.map((action) => action.kind)).toEqual(Array(255).fill('sync'))
    expect(new Set(actions.map((action) => action.channelId)).size).toBe(255)
  })
})

describe('a bandwidth limit', () => {
  // An extent of 256 pages is 1 MiB: 20 ms of this limit, and the whole burst.
  const limit = 50 * 1024 * 1024

  it('holds extents back and says for how long', () => {
    const subject = scheduler(4, limit)
    subject.beginRound(extents(8), 1)
    expect(subject.next(0)).toHaveLength(1)
    expect(subject.waitMs(0)).toBe(1)
    expect(subject.next(1)).toHaveLength(1)
    expect(subject.waitMs(1)).toBe(20)
    expect(subject.next(20)).toHaveLength(0)
    expect(subject.next(21)).toHaveLength(1)
  })

  it('costs a zero page no more than went out for it', () => {
    const subject = scheduler(1, limit)
    subject.beginRound(extents(50), 1)
    for (let turn = 0; turn < 50; turn += 1) {
      expect(extentChannels(subject.next(0))).toEqual([0])
      subject.extentDone(0, 1344, 0)
    }
    expect(subject.roundState).toBe('syncing')
  })

  it('names no wait when something else is awaited', () => {
    const subject = scheduler(1, limit)
    expect(subject.waitMs(0)).toBeUndefined()
    subject.beginRound(extents(2), 1)
    expect(subject.waitMs(0)).toBeUndefined()
    subject.next(0)
    // No credit: extentDone comes first, whatever the limiter says.
    expect(subject.waitMs(0)).toBeUndefined()
    subject.extentDone(0, 256 * PAGE, 0)
    expect(subject.waitMs(0)).toBe(1)
    subject.next(1)
    // Everything is placed.
    expect(subject.waitMs(1)).toBeUndefined()
    subject.extentDone(0, 256 * PAGE, 1)
    subject.next(1)
    expect(subject.waitMs(1)).toBeUndefined()
  })
})

describe('a call in the wrong order is an assertion', () => {
  const wrong: [string, RegExp, (subject: MultifdScheduler) => void][] = [
    ['an extent that nobody holds', /channel 1 reports an extent/, (s) => s.extentDone(1, 0, 0)],
    ['a channel that is none', /no channel 2 of 2/, (s) => s.extentDone(2, 0, 0)],
    ['a sync before its extents', /channel 0 reports a sync before/, (s) => s.syncDone(0)],
    ['no credits', /at least 1, got 0/, (s) => s.setCredits(0)],
    ['less than none', /at least 1, got -1/, (s) => s.setCredits([2, -1])],
    ['half a credit', /at least 1, got 1.5/, (s) => s.setCredits(1.5)],
    [
      'a round before the last channel is synced',
      /while the last one is syncing/,
      (s) => {
        s.extentDone(0, 0, 0)
        s.next(0)
        s.syncDone(0)
        s.beginRound([], 1)
      },
    ],
    [
      'a second sync',
      /channel 0 reports a second sync/,
      (s) => {
        s.extentDone(0, 0, 0)
        s.next(0)
        s.syncDone(0)
        s.syncDone(0)
      },
    ],
  ]
  it.each(wrong)('%s', (_name, message, call) => {
    const subject = scheduler(2)
    subject.beginRound(extents(1), 1)
    subject.next(0)
    expect(() => call(subject)).toThrow(message)
  })

  it('a round in a round', () => {
    const subject = scheduler(1)
    subject.beginRound(extents(2), 1)
    subject.next(0)
    expect(() => subject.beginRound([], 1)).toThrow(/while the last one is sending/)
  })

  it('more channels than there can be', () => {
    expect(() => scheduler(0)).toThrow(/1\.\.255/)
    expect(() => scheduler(256)).toThrow(/1\.\.255/)
  })
})
