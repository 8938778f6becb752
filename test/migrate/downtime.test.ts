// Bandwidth from rounds, and the downtime that follows from it.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { BandwidthEstimate, predictDowntimeMs } from '../../src/migrate/downtime.ts'

const MIB = 1024 * 1024

describe('BandwidthEstimate', () => {
  it('is unknown until a round was sent, and ignores one that took no time or held nothing', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(MIB, 0)
    bandwidth.addRound(0, 5)
    expect(bandwidth.bytesPerSecond).toBeUndefined()
    expect(bandwidth.bytesPerSecondFor(MIB)).toBeUndefined()
  })

  it('follows the latest rounds', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(100 * MIB, 1000)
    for (let round = 0; round < 4; round += 1) bandwidth.addRound(50 * MIB, 250)
    expect(bandwidth.bytesPerSecond).toBeGreaterThan(180 * MIB)
    expect(bandwidth.bytesPerSecond).toBeLessThan(200 * MIB)
  })

  it('follows rounds below 4 MiB too, so that a slow round 0 does not hold it for ever', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(1024 * MIB, 200_000)
    for (let round = 0; round < 8; round += 1) bandwidth.addRound(3 * MIB, 30)
    expect(bandwidth.bytesPerSecondFor(3 * MIB)).toBeCloseTo(100 * MIB, -6)
  })

  it('sees that a limit was lowered when only small rounds are sent any more', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(1024 * MIB, 1000)
    bandwidth.addRound(2 * MIB, 2000)
    expect(bandwidth.bytesPerSecondFor(2 * MIB)).toBeLessThan(2 * MIB)
    expect(bandwidth.bytesPerSecondFor(512 * MIB)).toBeLessThan(2 * MIB)
  })

  it('does not take the latency of tiny rounds for the bandwidth of large ones', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(1024 * MIB, 1000)
    for (let round = 0; round < 100; round += 1) bandwidth.addRound(4096, 5)
    expect(bandwidth.bytesPerSecondFor(100 * MIB)).toBeCloseTo(1024 * MIB, -6)
    expect(bandwidth.bytesPerSecondFor(4096)).toBeCloseTo(4096 * 200, -3)
  })

  it('does not take one tiny round that was held up for a path that became slow', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(1024 * MIB, 1000)
    bandwidth.addRound(4096, 80)
    expect(bandwidth.bytesPerSecondFor(3 * MIB)).toBeCloseTo(1024 * MIB, -6)
  })

  it('lies between the slowest and the fastest round', () => {
    const round = fc.record({
      bytes: fc.integer({ min: 1, max: 1 << 30 }),
      elapsedMs: fc.double({ min: 0.01, max: 1e6, noNaN: true }),
    })
    fc.assert(
      fc.property(
        fc.array(round, { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 0, max: 2 ** 40 }),
        (rounds, bytes) => {
          const bandwidth = new BandwidthEstimate()
          for (const { bytes, elapsedMs } of rounds) bandwidth.addRound(bytes, elapsedMs)
          const speeds = rounds.map(({ bytes, elapsedMs }) => (bytes / elapsedMs) * 1000)
          const estimate = bandwidth.bytesPerSecondFor(bytes) as number
          expect(estimate).toBeGreaterThanOrEqual(Math.min(...speeds) * 0.999)
          expect(estimate).toBeLessThanOrEqual(Math.max(...speeds) * 1.001)
        },
      ),
      { numRuns: 300 },
    )
  })
})

describe('predictDowntimeMs', () => {
  it('is the remaining bytes, their loading, and one round trip', () => {
    const facts = { remainingBytes: 50 * MIB, bandwidthBytesPerSecond: 100 * MIB, roundTripMs: 7 }
    expect(predictDowntimeMs(facts)).toBe(507)
    expect(predictDowntimeMs({ ...facts, loadTimeMs: 30 })).toBe(537)
  })

  it('is only the round trip when nothing remains, whatever the bandwidth', () => {
    for (const bandwidthBytesPerSecond of [undefined, 1]) {
      const facts = { remainingBytes: 0, bandwidthBytesPerSecond, roundTripMs: 7 }
      expect(predictDowntimeMs(facts)).toBe(7)
    }
  })

  it('is infinite while the bandwidth is unknown and something remains', () => {
    const facts = { remainingBytes: 1, bandwidthBytesPerSecond: undefined, roundTripMs: 0 }
    expect(predictDowntimeMs(facts)).toBe(Number.POSITIVE_INFINITY)
  })
})
