// Shares of one limit on a made-up clock: senders of random sizes and lateness ask, are charged and
// settle; what went out when is compared with the limit and with each other.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { BandwidthAccounts } from '../../src/schedule/bandwidth-accounts.ts'
import { RateLimiter } from '../../src/schedule/rate-limiter.ts'
import { testSeed } from '../support/pages.ts'
import { type Sent, worstWindows } from './windows.ts'

const MB = 1e6
const seed = testSeed()

interface Sender {
  /** Share of 20 ms of the limit that each of its sends holds, by turn. */
  sizes: number[]
  /** How late it asks again after a wait, by turn. */
  latenessMs: number[]
  /** Of a send, what really goes out. */
  wireShare: number
  /** It wants something only in this part of the time. */
  from?: number
  to?: number
}

interface Run {
  sent: Sent[]
  bytesOf: number[]
  /** Most sends of all others together between two of a sender that wanted to. */
  passedOverMost: number
}

/** All senders over one limiter for so long; each settles a send 5 ms after it began. */
function simulate(
  limits: { atMs: number; bytesPerSecond: number }[],
  senders: Sender[],
  lengthMs: number,
  from = 0,
): Run {
  const limiter = new RateLimiter({ bytesPerSecond: limits[0]?.bytesPerSecond ?? 0, nowMs: 0 })
  const accounts = new BandwidthAccounts(limiter)
  const states = senders.map((sender) => ({
    sender,
    account: accounts.open(),
    turn: 0,
    askMs: (sender.from ?? 0) * lengthMs,
    passedOver: 0,
  }))
  const sent: Sent[] = []
  const bytesOf = senders.map(() => 0)
  const settlements: { atMs: number; run: () => void }[] = []
  const changes = [...limits.slice(1)]
  let passedOverMost = 0
  let nowMs = 0
  while (nowMs < lengthMs) {
    const change = changes[0]
    if (change !== undefined && change.atMs <= nowMs) {
      limiter.setLimit(change.bytesPerSecond, nowMs)
      changes.shift()
    }
    while ((settlements[0]?.atMs ?? Number.POSITIVE_INFINITY) <= nowMs) settlements.shift()?.run()
    for (const [index, state] of states.entries()) {
      const { sender, account } = state
      if (state.askMs > nowMs) continue
      if (nowMs >= (sender.to ?? 1) * lengthMs) {
        account.leave()
        state.askMs = Number.POSITIVE_INFINITY
        continue
      }
      const cyclic = (values: number[]) => values[state.turn % values.length] as number
      while (account.mayStart(nowMs)) {
        state.turn += 1
        passedOverMost = Math.max(passedOverMost, state.passedOver)
        for (const other of states) other.passedOver += 1
        state.passedOver = 0
        const bytes = Math.ceil(cyclic(sender.sizes) * 0.02 * limiter.bytesPerSecond)
        const charge = account.charge(bytes, nowMs)
        const wireBytes = bytes * sender.wireShare
        const doneMs = nowMs + 5
        settlements.push({ atMs: doneMs, run: () => account.settle(charge, wireBytes, doneMs) })
        sent.push({ atMs: nowMs, bytes: wireBytes })
        if (nowMs >= from) bytesOf[index] = (bytesOf[index] ?? 0) + wireBytes
      }
      state.askMs = nowMs + account.waitMs(nowMs) + cyclic(sender.latenessMs)
    }
    nowMs += 1
  }
  return { sent, bytesOf, passedOverMost }
}

const anySender = fc.record({
  sizes: fc.array(fc.double({ min: 0.1, max: 1, noNaN: true }), { minLength: 1, maxLength: 6 }),
  latenessMs: fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 6 }),
  wireShare: fc.constantFrom(1, 1.003),
})

describe('accounts of one limit', () => {
  it('keep every second within 5 % of it, with the limit changed while they run', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 13_107_200, max: 5e9 }), { minLength: 1, maxLength: 3 }),
        fc.array(anySender, { minLength: 1, maxLength: 6 }),
        (limits, senders) => {
          const stepMs = 2500
          const changes = limits.map((bytesPerSecond, i) => ({ atMs: i * stepMs, bytesPerSecond }))
          const { sent } = simulate(changes, senders, limits.length * stepMs)
          for (const { atMs, bytesPerSecond } of changes) {
            const within = sent.filter((one) => one.atMs >= atMs && one.atMs < atMs + stepMs)
            const span = { fromMs: atMs, toMs: atMs + stepMs }
            const { leastBytes, mostBytes } = worstWindows(within, span)
            expect(mostBytes / bytesPerSecond).toBeLessThanOrEqual(1.05)
            expect(leastBytes / bytesPerSecond).toBeGreaterThanOrEqual(0.95)
          }
        },
      ),
      { numRuns: 40, seed },
    )
  })

  it('give equal shares within 10 %, and no one is passed over for long', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 4 * MB, max: 5000 * MB }),
        fc.array(anySender, { minLength: 2, maxLength: 6 }),
        (bytesPerSecond, senders) => {
          const { bytesOf, passedOverMost } = simulate(
            [{ atMs: 0, bytesPerSecond }],
            senders,
            20_000,
          )
          const mean = bytesOf.reduce((sum, bytes) => sum + bytes, 0) / senders.length
          for (const bytes of bytesOf) {
            expect(bytes / mean).toBeGreaterThan(0.9)
            expect(bytes / mean).toBeLessThan(1.1)
          }
          // In bytes a sender is at most 20 + 10 + 20 ms ahead of another; a smallest send is 2 ms.
          expect(passedOverMost).toBeLessThanOrEqual(25 * (senders.length - 1))
        },
      ),
      { numRuns: 30, seed },
    )
  })

  it('of equal sends pass nobody over for more than two passes', () => {
    const sender = { sizes: [1], latenessMs: [0, 3, 1], wireShare: 1 }
    const senders = Array.from({ length: 5 }, () => sender)
    const { passedOverMost } = simulate([{ atMs: 0, bytesPerSecond: 32 * MB }], senders, 10_000)
    expect(passedOverMost).toBeLessThanOrEqual(2 * senders.length)
  })

  it('leave the share of one that is away to the others, and it comes back without savings', () => {
    const steady = { sizes: [1], latenessMs: [0], wireShare: 1 }
    const late = { ...steady, from: 0.5 }
    const limit = [{ atMs: 0, bytesPerSecond: 32 * MB }]
    const whole = simulate(limit, [steady, late], 20_000)
    expect(whole.bytesOf[0]).toBeGreaterThan(0.74 * 20 * 32 * MB)
    const { bytesOf } = simulate(limit, [steady, late], 20_000, 10_000)
    expect((bytesOf[1] as number) / (bytesOf[0] as number)).toBeGreaterThan(0.95)
    expect((bytesOf[1] as number) / (bytesOf[0] as number)).toBeLessThan(1.05)
  })

  it('wait for nobody who was refused and never came back', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 1 * MB, nowMs: 0 })
    const accounts = new BandwidthAccounts(limiter)
    const [gone, here] = [accounts.open(), accounts.open()]
    here.charge(0.1 * MB, 0)
    expect(gone.mayStart(0)).toBe(false)
    const waitMs = here.waitMs(0)
    expect(waitMs).toBe(81)
    expect(here.mayStart(waitMs)).toBe(false)
    expect(here.waitMs(waitMs)).toBe(1)
    expect(here.mayStart(waitMs + 20)).toBe(false)
    expect(here.mayStart(waitMs + 21)).toBe(true)
  })

  it('let the others go at once when one leaves', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 1 * MB, nowMs: 0 })
    const accounts = new BandwidthAccounts(limiter)
    const [leaving, here] = [accounts.open(), accounts.open()]
    here.charge(0.1 * MB, 0)
    expect(leaving.mayStart(0)).toBe(false)
    expect(here.mayStart(81)).toBe(false)
    leaving.leave()
    expect(here.mayStart(81)).toBe(true)
  })

  it('make nobody wait where there is no limit, and a later limit finds them equal', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 0, nowMs: 0 })
    const accounts = new BandwidthAccounts(limiter)
    const [ram, device] = [accounts.open(), accounts.open()]
    const unpriced = ram.charge(1e12, 0)
    expect([ram.mayStart(0), ram.waitMs(0), device.mayStart(0)]).toEqual([true, 0, true])
    limiter.setLimit(1 * MB, 0)
    ram.settle(unpriced, 0, 0)
    expect(ram.bytesPerSecond).toBe(1 * MB)
    ram.charge(0.1 * MB, 0)
    device.waitMs(0)
    ram.waitMs(0)
    expect([ram.mayStart(81), device.mayStart(81)]).toEqual([false, true])
    device.charge(0.15 * MB, 81)
    device.waitMs(81)
    ram.waitMs(81)
    expect([device.mayStart(231), ram.mayStart(231)]).toEqual([false, true])
  })

  it('give back to the share what did not go out', () => {
    const limiter = new RateLimiter({ bytesPerSecond: 1 * MB, nowMs: 0 })
    const accounts = new BandwidthAccounts(limiter)
    const [zeros, device] = [accounts.open(), accounts.open()]
    const charges = [1, 2, 3].map(() => zeros.charge(0.02 * MB, 0))
    device.charge(0.02 * MB, 0)
    for (const charge of charges) zeros.settle(charge, 0, 0)
    device.charge(0.02 * MB, 0)
    expect([zeros.mayStart(0), device.mayStart(0)]).toEqual([false, false])
    expect([device.mayStart(30), zeros.mayStart(30)]).toEqual([false, true])
  })
})
