// Whole migrations on a fake clock: channels of random speed work off what the scheduler gives
// them, and each step checks what must never happen. fast-check prints the seed of a failure.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MultifdScheduler } from '../../src/schedule/multifd-scheduler.ts'
import { RateLimiter } from '../../src/schedule/rate-limiter.ts'
import { type Extent, extentTargetBytes, LIMITED_CREDITS } from '../../src/schedule/round-plan.ts'
import { type Sent, worstWindows } from './windows.ts'

const PAGE = 4096

interface Plan {
  channels: number
  /** How many may work at a time; without it all. */
  atOnce?: number
  credits: number
  bytesPerSecond: number
  /** Per channel, by channelId modulo length: milliseconds for one dirty page. */
  pageMs: number[]
  /** Share of an extent's bytes that really goes out, by extent modulo length. */
  wireShare: number[]
  /** Dirty pages of each extent, per round. */
  rounds: number[][]
}

/** What one channel thread is doing. */
interface Worker {
  queue: Extent[]
  doneAtMs: number
  /** Behind the extents in the queue. */
  syncQueued: boolean
}

function toExtents(dirtyPages: number[]): Extent[] {
  return dirtyPages.map((dirty, index) => ({
    blockIndex: 0,
    firstPage: index * 8192,
    pageCount: 8192,
    dirtyPages: dirty,
  }))
}

function cyclic<T>(values: readonly T[], index: number): T {
  return values[index % values.length] as T
}

/** What is over first: a channel's extent or sync, or (channelId -1) the limiter's wait. */
function soonest(workers: Worker[], waitOverMs: number): { channelId: number; atMs: number } {
  let channelId = -1
  let atMs = waitOverMs
  for (const [id, worker] of workers.entries()) {
    const busy = worker.syncQueued || worker.queue.length > 0
    if (busy && worker.doneAtMs < atMs) {
      atMs = worker.doneAtMs
      channelId = id
    }
  }
  return { channelId, atMs }
}

/** Runs all rounds to their end, checks each step, and tells what each channel sent and when. */
function simulate(plan: Plan): { sent: Sent[]; pagesByChannel: number[]; endMs: number } {
  const rateLimiter = new RateLimiter({ bytesPerSecond: plan.bytesPerSecond, nowMs: 0 })
  const { channels, atOnce = channels } = plan
  const subject = new MultifdScheduler({ channels, atOnce, rateLimiter })
  const sent: Sent[] = []
  const pagesByChannel = Array<number>(plan.channels).fill(0)
  let nowMs = 0

  for (const dirtyPages of plan.rounds) {
    const extents = toExtents(dirtyPages)
    const workers = Array.from(
      { length: plan.channels },
      (): Worker => ({ queue: [], doneAtMs: 0, syncQueued: false }),
    )
    const syncs: number[] = []
    let handedOut = 0
    let done = 0
    subject.beginRound(extents, plan.credits)

    const syncMs = (channelId: number) => cyclic(plan.pageMs, channelId)
    const durationMs = (channelId: number, extent: Extent) =>
      extent.dirtyPages * cyclic(plan.pageMs, channelId)

    while (subject.roundState !== 'synced') {
      for (const action of subject.next(nowMs)) {
        const worker = workers[action.channelId] as Worker
        if (action.kind === 'sync') {
          expect(handedOut, 'a sync before the last extent').toBe(extents.length)
          syncs.push(action.channelId)
          worker.syncQueued = true
          if (worker.queue.length === 0) worker.doneAtMs = nowMs + syncMs(action.channelId)
          continue
        }
        // In address order, so each exactly once: the object itself is compared.
        expect(action.extent).toBe(extents[handedOut])
        handedOut += 1
        worker.queue.push(action.extent)
        expect(worker.queue.length).toBeLessThanOrEqual(plan.credits)
        const working = workers.filter(({ queue }) => queue.length > 0).length
        expect(working).toBeLessThanOrEqual(atOnce)
        if (worker.queue.length === 1) {
          worker.doneAtMs = nowMs + durationMs(action.channelId, action.extent)
        }
      }
      const waitMs = subject.waitMs(nowMs)
      if (waitMs !== undefined) expect(waitMs).toBeGreaterThan(0)

      const { channelId, atMs } = soonest(workers, nowMs + (waitMs ?? Number.POSITIVE_INFINITY))
      expect(atMs, 'nothing will ever happen again').toBeLessThan(Number.POSITIVE_INFINITY)
      nowMs = atMs
      if (channelId < 0) continue

      const worker = workers[channelId] as Worker
      if (worker.queue.length === 0) {
        worker.syncQueued = false
        subject.syncDone(channelId)
        continue
      }
      const extent = worker.queue.shift() as Extent
      const bytes = extent.dirtyPages * PAGE * cyclic(plan.wireShare, done)
      expect(subject.extentDone(channelId, bytes, nowMs)).toBe(extent)
      done += 1
      sent.push({ atMs: nowMs, bytes })
      pagesByChannel[channelId] = (pagesByChannel[channelId] as number) + extent.dirtyPages
      const following = worker.queue[0]
      if (following) worker.doneAtMs = nowMs + durationMs(channelId, following)
      else worker.doneAtMs = nowMs + syncMs(channelId)
    }

    expect(handedOut).toBe(extents.length)
    expect(subject.remainingPages).toBe(0)
    expect(syncs).toEqual(workers.map((_, id) => id))
  }
  return { sent, pagesByChannel, endMs: nowMs }
}

const anyPlan: fc.Arbitrary<Plan> = fc.record({
  channels: fc.oneof(fc.constantFrom(1, 255), fc.integer({ min: 1, max: 16 })),
  atOnce: fc.oneof(fc.constant(255), fc.integer({ min: 1, max: 6 })),
  credits: fc.integer({ min: 1, max: 6 }),
  bytesPerSecond: fc.oneof(fc.constant(0), fc.integer({ min: 1e6, max: 1e10 })),
  pageMs: fc.array(fc.double({ min: 0.001, max: 1, noNaN: true }), { minLength: 1, maxLength: 8 }),
  wireShare: fc.array(fc.double({ min: 0, max: 1.1, noNaN: true }), { minLength: 1 }),
  rounds: fc.array(fc.array(fc.integer({ min: 1, max: 4096 }), { maxLength: 60 }), {
    minLength: 1,
    maxLength: 4,
  }),
})

describe('over whole migrations', () => {
  it('every extent goes out once, within the credits, and one sync per channel follows', () => {
    const run = fc.property(anyPlan, (plan) => {
      const { pagesByChannel } = simulate(plan)
      const planned = plan.rounds.flat().reduce((sum, pages) => sum + pages, 0)
      expect(pagesByChannel.reduce((sum, pages) => sum + pages, 0)).toBe(planned)
    })
    fc.assert(run, { numRuns: 200 })
  })

  it.each([1, 255])('a large round over %d channels comes to its end', (channels) => {
    const { pagesByChannel } = simulate({
      channels,
      credits: 4,
      bytesPerSecond: 0,
      pageMs: [0.002],
      wireShare: [1],
      rounds: [[], Array<number>(3000).fill(512), []],
    })
    const total = pagesByChannel.reduce((sum, pages) => sum + pages, 0)
    expect(total).toBe(3000 * 512)
    const evenShare = total / channels
    for (const pages of pagesByChannel) expect(pages).toBeGreaterThan(evenShare * 0.8)
  })

  it('a slow channel gets less, and holds up the end by no more than what it holds', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 12 }),
        fc.integer({ min: 3, max: 50 }),
        fc.integer({ min: 4, max: 40 }),
        (channels, slowness, extentsPerChannel) => {
          const pageMs = [slowness, ...Array<number>(channels - 1).fill(1)]
          const rounds = [Array<number>(channels * extentsPerChannel).fill(1)]
          const plan = { channels, credits: 4, bytesPerSecond: 0, wireShare: [1] }
          const { pagesByChannel, endMs } = simulate({ ...plan, pageMs, rounds })
          const [slow, ...fast] = pagesByChannel
          for (const pages of fast) expect(pages).toBeGreaterThan(slow as number)
          // The fast ones alone would need this long; the slow one may add its four credits and
          // its sync.
          const fastMs = (channels * extentsPerChannel) / (channels - 1)
          expect(endMs).toBeLessThanOrEqual(fastMs + (4 + 1) * slowness + 1)
        },
      ),
    )
  })

  it('a limit holds within 5 % in every second, with extents of random size', () => {
    const scenario = fc.record({
      channels: fc.oneof(fc.constantFrom(1, 255), fc.integer({ min: 1, max: 16 })),
      bytesPerSecond: fc.integer({ min: 13_107_200, max: 5e9 }),
      // Never all zero pages: then nothing could reach the limit.
      wireShare: fc.array(fc.double({ min: 0.3, max: 1.01, noNaN: true }), { minLength: 1 }),
      fill: fc.array(fc.double({ min: 0.05, max: 1, noNaN: true }), { minLength: 1 }),
    })
    fc.assert(
      fc.property(scenario, ({ channels, bytesPerSecond, wireShare, fill }) => {
        const targetPages = extentTargetBytes({ dirtyBytes: 1e12, channels, bytesPerSecond }) / PAGE
        const pages: number[] = []
        let wirePages = 0
        // Three seconds' worth.
        for (let index = 0; wirePages * PAGE < 3 * bytesPerSecond; index += 1) {
          pages.push(Math.max(1, Math.floor(cyclic(fill, index) * targetPages)))
          wirePages += (pages[index] as number) * cyclic(wireShare, index)
        }
        const { sent } = simulate({
          channels,
          credits: LIMITED_CREDITS,
          bytesPerSecond,
          // Each channel is twenty times as fast as the limit: a slow one has a limit of its own.
          pageMs: [(PAGE * 1000) / (20 * bytesPerSecond)],
          wireShare,
          rounds: [pages],
        })
        const { leastBytes, mostBytes } = worstWindows(sent, { fromMs: 0, toMs: 2500 })
        expect(mostBytes / bytesPerSecond).toBeLessThanOrEqual(1.05)
        expect(leastBytes / bytesPerSecond).toBeGreaterThanOrEqual(0.95)
        expect(leastBytes).toBeLessThanOrEqual(mostBytes)
      }),
      { numRuns: 20 },
    )
  })
})
