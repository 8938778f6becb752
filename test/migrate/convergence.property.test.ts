// Whole migrations of guests that are made up, decided by what their rounds show: that they end or
// say that they do not, and that what is promised of the stop is kept. fast-check prints the seed.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { checkConvergence } from '../../src/migrate/convergence-options.ts'
import type { Decision } from '../../src/migrate/decision.ts'
import { type GuestModel, migrate, transferMs, trueDowntimeMs } from './guest-model.ts'

const KIB = 1024
const MIB = 1024 * KIB
const GIB = 1024 * MIB

/** Over orders of magnitude. */
const spread = (min: number, max: number) =>
  fc
    .double({ min: Math.log(min), max: Math.log(max), noNaN: true })
    .map((power) => Math.round(Math.exp(power)))

const guest: fc.Arbitrary<GuestModel> = fc
  .record({
    memoryBytes: spread(8 * MIB, 64 * GIB),
    workingSetShare: fc.double({ min: 0.001, max: 1, noNaN: true }),
    writtenBytesPerSecond: fc.oneof(fc.constant(0), spread(4 * KIB, 20 * GIB)),
    bandwidthBytesPerSecond: spread(MIB, 10 * GIB),
    latencyMs: fc.double({ min: 0.5, max: 10, noNaN: true }),
    roundTripMs: fc.double({ min: 0, max: 100, noNaN: true }),
    heldUpMs: fc.oneof(
      fc.constant([]),
      fc.array(fc.double({ min: 0, max: 90, noNaN: true }), { maxLength: 5 }),
    ),
    devicePendingBytes: fc.oneof(fc.constant(0), spread(1, 16 * MIB)),
    stopOnlyDeviceBytes: fc.oneof(fc.constant(0), spread(1, 64 * MIB)),
    loadTimeMs: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 500 })),
    ackedInRound: fc.integer({ min: 0, max: 5 }),
  })
  .map(({ workingSetShare, ...model }) => ({
    ...model,
    workingSetBytes: Math.max(4 * KIB, Math.round(model.memoryBytes * workingSetShare)),
  }))

const limits = fc.record({ downtimeLimitMs: fc.integer({ min: 0, max: 1000 }) })
const causes = (decisions: Decision[]) => decisions.map(({ cause }) => cause)
const stalled = (decisions: Decision[]) => decisions.at(-1)?.cause === 'stalled'
const never = () => false
const runs = { numRuns: 200 }
/** A stall takes a second after the last notable fall to be one: 2000 rounds of latency alone. */
const ROUNDS_MAX = 10_000

describe('any guest', () => {
  it('is stopped, or its migration says that it stalls and what would help', () => {
    fc.assert(
      fc.property(guest, limits, (model, options) => {
        const settings = checkConvergence(options, false)
        const course = migrate(model, settings, (decisions) => {
          return stalled(decisions) || decisions.length > ROUNDS_MAX
        })
        expect(course.decisions.length).toBeLessThanOrEqual(ROUNDS_MAX)
        const { kind, cause, advice } = course.last
        expect(kind === 'switchover' || cause === 'stalled').toBe(true)
        if (cause === 'stalled') expect(advice).toMatch(/raise downtimeLimitMs/)
      }),
      runs,
    )
  })

  it('is not stopped above the limit, nor before the destination agrees', () => {
    fc.assert(
      fc.property(guest, limits, (model, options) => {
        const settings = checkConvergence(options, false)
        const { last, begun, decisions, downtimeMs } = migrate(model, settings, stalled)
        if (last.kind !== 'switchover') return
        expect(decisions.length - 1).toBeGreaterThanOrEqual(Math.max(1, model.ackedInRound))
        if (begun.dirtyBytes + begun.devicePendingBytes === 0) return
        expect(last.expectedDowntimeMs).toBeLessThanOrEqual(settings.downtimeLimitMs)
        expect(downtimeMs).toBeLessThanOrEqual(settings.downtimeLimitMs + 2 * model.latencyMs)
      }),
      runs,
    )
  })

  it('stands still about as long as was predicted', () => {
    fc.assert(
      fc.property(guest, limits, (model, options) => {
        const settings = checkConvergence(options, false)
        const quiet = { ...model, heldUpMs: [] }
        const { last, downtimeMs } = migrate(quiet, settings, stalled)
        if (downtimeMs === undefined) return
        expect(last.expectedDowntimeMs).toBeGreaterThanOrEqual(downtimeMs / 2 - 2 * model.latencyMs)
        expect(last.expectedDowntimeMs).toBeLessThanOrEqual(downtimeMs * 2 + 4 * model.latencyMs)
      }),
      runs,
    )
  })

  it('takes at most 8 rounds more than it must', () => {
    fc.assert(
      fc.property(guest, limits, (model, options) => {
        const { decisions } = migrate(model, checkConvergence(options, false), stalled)
        const further = causes(decisions).filter((cause) => cause === 'further-round')
        expect(further.length).toBeLessThanOrEqual(8)
      }),
      runs,
    )
  })
})

describe('auto-converge', () => {
  it('slows the guest down in steps that only grow, until it is stopped or no step is left', () => {
    fc.assert(
      fc.property(
        guest,
        limits,
        fc.integer({ min: 1, max: 99 }),
        fc.integer({ min: 1, max: 99 }),
        (model, options, cpuThrottleInitial, cpuThrottleIncrement) => {
          const settings = checkConvergence(
            { ...options, autoConverge: true, cpuThrottleInitial, cpuThrottleIncrement },
            true,
          )
          const capped = { ...model, writtenBytesPerSecond: model.writtenBytesPerSecond + MIB }
          const { decisions, last } = migrate(capped, settings, (all) => {
            return stalled(all) || all.length > ROUNDS_MAX
          })
          const steps = decisions.flatMap(({ throttlePercent }) => throttlePercent ?? [])
          const wanted = steps.map((_, index) =>
            Math.min(99, cpuThrottleInitial + index * cpuThrottleIncrement),
          )
          expect(steps).toEqual(wanted)
          if (last.cause === 'stalled') expect(steps.at(-1)).toBe(99)
        },
      ),
      { numRuns: 50 },
    )
  })

  it('stops a guest that writes three times as fast as it is sent', () => {
    const model = {
      memoryBytes: 4 * GIB,
      workingSetBytes: GIB,
      writtenBytesPerSecond: 3 * GIB,
      bandwidthBytesPerSecond: GIB,
      latencyMs: 1,
      roundTripMs: 1,
      heldUpMs: [],
      devicePendingBytes: 0,
      stopOnlyDeviceBytes: 0,
      loadTimeMs: 0,
      ackedInRound: 0,
    }
    const plain = migrate(model, checkConvergence({}, false), stalled)
    expect(plain.last.cause).toBe('stalled')
    const settings = checkConvergence({ autoConverge: true }, true)
    const { last, downtimeMs } = migrate(model, settings, stalled)
    expect(last.kind).toBe('switchover')
    expect(downtimeMs).toBeLessThanOrEqual(302)
  })
})

describe('a time limit', () => {
  it.each(['cancel', 'switchover'] as const)('ends every migration by %s', (timeLimitEnd) => {
    fc.assert(
      fc.property(guest, limits, spread(1, 3_000), (model, options, timeLimitMs) => {
        const settings = checkConvergence({ ...options, timeLimitMs, timeLimitEnd }, false)
        const { last, decisions, elapsedMs, begun, downtimeMs } = migrate(model, settings, never)
        expect(['switchover', timeLimitEnd]).toContain(last.kind)
        // One round, and the ones until the destination agreed, may outlast it.
        const longestMs = transferMs(model, model.memoryBytes) + model.latencyMs + 191
        const rounds = 1 + Math.max(1, model.ackedInRound)
        expect(elapsedMs).toBeLessThanOrEqual(timeLimitMs + rounds * longestMs)
        if (last.cause !== 'time-limit') return
        expect(last.reason).toMatch(/time limit/)
        if (last.kind === 'switchover') {
          expect(decisions.length - 1).toBeGreaterThanOrEqual(model.ackedInRound)
          expect(downtimeMs).toBe(trueDowntimeMs(model, begun.dirtyBytes))
        }
      }),
      runs,
    )
  })
})
