// The token bucket on a fake clock. The accuracy property records what started when, then looks at
// every window of one second that begins or ends at a start: no other window holds more or less.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { BURST_MS, RateLimiter } from '../../src/schedule/rate-limiter.ts'
import { worstWindows } from './windows.ts'

const MB = 1e6

describe('rate limiter', () => {
  it('lets everything start at once without a limit', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 0, nowMs: 0 })
    limiter.charge(1e12, 0)
    expect(limiter.mayStart(0)).toBe(true)
    expect(limiter.waitMs(0)).toBe(0)
  })

  it('waits for exactly what was overdrawn', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 100 * MB, nowMs: 1000 })
    // 5 MB are 50 ms; 20 ms of them were saved up.
    limiter.charge(5 * MB, 1000)
    expect(limiter.mayStart(1000)).toBe(false)
    expect(limiter.waitMs(1000)).toBe(31)
    expect(limiter.mayStart(1030)).toBe(false)
    expect(limiter.mayStart(1031)).toBe(true)
  })

  it('saves up no more than the burst, however long it was idle', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 100 * MB, nowMs: 0 })
    limiter.charge((100 * MB * (BURST_MS - 1)) / 1000, 1e6)
    expect(limiter.mayStart(1e6)).toBe(true)
    limiter.charge((100 * MB) / 1000, 1e6)
    expect(limiter.mayStart(1e6)).toBe(false)
  })

  it('gives back what did not go out, and charges what went out on top', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 100 * MB, nowMs: 0 })
    const zeroPages = limiter.charge(10 * MB, 0)
    expect(limiter.waitMs(0)).toBe(81)
    limiter.settle(zeroPages, 0, 0)
    expect(limiter.mayStart(0)).toBe(true)

    const headers = limiter.charge(10 * MB, 0)
    limiter.settle(headers, 11 * MB, 0)
    expect(limiter.waitMs(0)).toBe(91)
  })

  it('charges in full at the end what was estimated at nothing', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 100 * MB, nowMs: 0 })
    limiter.settle(limiter.charge(0, 0), 10 * MB, 0)
    expect(limiter.waitMs(0)).toBe(81)
  })

  it('a lower limit keeps the wait, a higher one shortens it', () => {
    const lowered = new RateLimiter({ bytesPerSecond: 100 * MB, nowMs: 0 })
    lowered.charge(12 * MB, 0)
    lowered.setLimit(1 * MB, 0)
    expect(lowered.waitMs(0)).toBe(101)

    const raised = new RateLimiter({ bytesPerSecond: 100 * MB, nowMs: 0 })
    raised.charge(12 * MB, 0)
    raised.setLimit(1000 * MB, 0)
    expect(raised.bytesPerSecond).toBe(1000 * MB)
    expect(raised.waitMs(0)).toBe(11)
  })

  it('lifting the limit lets everything start and forgets the debt', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 1 * MB, nowMs: 0 })
    limiter.charge(1000 * MB, 0)
    limiter.setLimit(0, 0)
    expect(limiter.mayStart(0)).toBe(true)
    limiter.setLimit(1 * MB, 1)
    expect(limiter.waitMs(1)).toBe(0)
  })

  it('neither charges nor repays what started before there was a limit', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 0, nowMs: 0 })
    const early = limiter.charge(1000 * MB, 0)
    limiter.setLimit(100 * MB, 0)
    limiter.charge(12 * MB, 0)
    limiter.settle(early, 0, 0)
    expect(limiter.waitMs(0)).toBe(101)
    limiter.settle(early, 2000 * MB, 0)
    expect(limiter.waitMs(0)).toBe(101)
  })

  it('an older clock sample neither fills nor empties the bucket', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 100 * MB, nowMs: 100 })
    limiter.charge(12 * MB, 100)
    expect(limiter.waitMs(50)).toBe(101)
    expect(limiter.waitMs(150)).toBe(51)
    expect(limiter.waitMs(100)).toBe(51)
  })

  it.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY])('refuses a limit of %d', (limit) => {
    expect(() => new RateLimiter({ bytesPerSecond: limit, nowMs: 0 })).toThrow(RangeError)
    const limiter = new RateLimiter({ bytesPerSecond: 7, nowMs: 0 })
    expect(() => limiter.setLimit(limit, 0)).toThrow(/bytesPerSecond is .*0 for no limit/)
    expect(limiter.bytesPerSecond).toBe(7)
  })

  it('asserts that nobody charges a negative amount', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 7, nowMs: 0 })
    expect(() => limiter.charge(-1, 0)).toThrow(/must not be negative/)
    expect(() => limiter.settle({ bytes: 1, priceMs: 0 }, -1, 0)).toThrow(/must not be negative/)
  })

  it('is ready after the wait it named, at every limit and time', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1e11 }),
        fc.double({ min: 0, max: 1e6, noNaN: true }),
        fc.integer({ min: 0, max: 1e9 }),
        (bytesPerSecond, nowMs, bytes) => {
          const limiter = new RateLimiter({ bytesPerSecond, nowMs })
          limiter.charge(bytes, nowMs)
          const waitMs = limiter.waitMs(nowMs)
          expect(Number.isInteger(waitMs)).toBe(true)
          expect(limiter.mayStart(nowMs + waitMs)).toBe(true)
          // And it names no longer a wait than it must.
          const early = new RateLimiter({ bytesPerSecond, nowMs })
          early.charge(bytes, nowMs)
          if (waitMs > 1) expect(early.mayStart(nowMs + waitMs - 1.01)).toBe(false)
        },
      ),
    )
  })

  it('keeps every second within 5 % of the limit, late wake-ups and limit changes included', () => {
    const scenario = fc.record({
      limits: fc.array(fc.integer({ min: 13_107_200, max: 5e9 }), { minLength: 1, maxLength: 3 }),
      sizes: fc.array(fc.double({ min: 0.01, max: 1, noNaN: true }), { minLength: 1 }),
      latenessMs: fc.array(fc.integer({ min: 0, max: 15 }), { minLength: 1 }),
    })
    fc.assert(
      fc.property(scenario, ({ limits, sizes, latenessMs }) => {
        let nowMs = 0
        let turn = 0
        const limiter = new RateLimiter({ bytesPerSecond: 1, nowMs })
        for (const bytesPerSecond of limits) {
          limiter.setLimit(bytesPerSecond, nowMs)
          const startMs = nowMs
          const starts: { atMs: number; bytes: number }[] = []
          while (nowMs < startMs + 2500) {
            while (limiter.mayStart(nowMs)) {
              // At most 20 ms of the limit, as the round plan has it.
              const bytes = (sizes[turn % sizes.length] as number) * 0.02 * bytesPerSecond
              limiter.charge(bytes, nowMs)
              starts.push({ atMs: nowMs, bytes })
              turn += 1
            }
            nowMs += limiter.waitMs(nowMs) + (latenessMs[turn % latenessMs.length] as number)
          }
          const { leastBytes, mostBytes } = worstWindows(starts, { fromMs: startMs, toMs: nowMs })
          expect(mostBytes / bytesPerSecond).toBeLessThanOrEqual(1.05)
          expect(leastBytes / bytesPerSecond).toBeGreaterThanOrEqual(0.95)
          expect(leastBytes).toBeLessThanOrEqual(mostBytes)
        }
      }),
      { numRuns: 60 },
    )
  })
})
