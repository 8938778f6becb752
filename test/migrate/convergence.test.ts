// The decision to stop: bandwidth from rounds, and the downtime that follows from it.

import { describe, expect, it } from 'vitest'
import { BandwidthEstimate, predictDowntimeMs } from '../../src/migrate/convergence.ts'

const MIB = 1024 * 1024

describe('BandwidthEstimate', () => {
  it('is unknown until a round was sent, and ignores one that took no time', () => {
    const bandwidth = new BandwidthEstimate()
    expect(bandwidth.bytesPerSecond).toBeUndefined()
    bandwidth.addRound(MIB, 0)
    expect(bandwidth.bytesPerSecond).toBeUndefined()
  })

  it('follows the latest round that was large enough', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(100 * MIB, 1000)
    bandwidth.addRound(10 * MIB, 50)
    expect(bandwidth.bytesPerSecond).toBe(200 * MIB)
  })

  it('takes a small round only while nothing better is known', () => {
    const bandwidth = new BandwidthEstimate()
    bandwidth.addRound(4096, 100)
    expect(bandwidth.bytesPerSecond).toBe(40960)
    bandwidth.addRound(8192, 100)
    expect(bandwidth.bytesPerSecond).toBe(81920)
    bandwidth.addRound(100 * MIB, 1000)
    bandwidth.addRound(4096, 100)
    expect(bandwidth.bytesPerSecond).toBe(100 * MIB)
  })
})

describe('predictDowntimeMs', () => {
  it('is the remaining bytes and one round trip', () => {
    const facts = { remainingBytes: 50 * MIB, bandwidthBytesPerSecond: 100 * MIB, roundTripMs: 7 }
    expect(predictDowntimeMs(facts)).toBe(507)
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
