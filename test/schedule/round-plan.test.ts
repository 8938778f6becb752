// How large an extent may be: the formula at its edges, and its bounds over random rounds.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  EXTENT_BYTES_MAX,
  EXTENT_BYTES_MIN,
  EXTENT_GRANULE_BYTES,
  extentTargetBytes,
} from '../../src/schedule/round-plan.ts'

const MIB = 1024 * 1024
const GIB = 1024 * MIB

describe('extent size', () => {
  it.each([
    {
      name: 'a large round has extents of 16 MiB',
      dirtyBytes: 4 * GIB,
      channels: 2,
      want: 16 * MIB,
    },
    { name: 'a middling one a quarter share', dirtyBytes: 64 * MIB, channels: 4, want: 4 * MIB },
    { name: 'a small one 2 MiB', dirtyBytes: 4 * MIB, channels: 4, want: 2 * MIB },
    { name: 'an empty one 2 MiB', dirtyBytes: 0, channels: 1, want: 2 * MIB },
    { name: 'whole pages only', dirtyBytes: 64 * MIB, channels: 3, want: 5_591_040 },
  ])('without a limit $name', ({ dirtyBytes, channels, want }) => {
    expect(extentTargetBytes({ dirtyBytes, channels, bytesPerSecond: 0 })).toBe(want)
  })

  it.each([
    { name: '20 ms of it, below the 2 MiB floor', bytesPerSecond: 51_200_000, want: 1_024_000 },
    { name: 'never below a granule', bytesPerSecond: 1, want: 256 * 1024 },
    {
      name: 'the granule at the limit where it is 20 ms',
      bytesPerSecond: 13_107_200,
      want: 262_144,
    },
    { name: 'the 16 MiB of no limit if that is less', bytesPerSecond: 1e12, want: 16 * MIB },
  ])('under a limit an extent is $name', ({ bytesPerSecond, want }) => {
    expect(extentTargetBytes({ dirtyBytes: 4 * GIB, channels: 4, bytesPerSecond })).toBe(want)
  })

  it('stays within its bounds, in whole pages, for every round', () => {
    const round = fc.record({
      dirtyBytes: fc.integer({ min: 0, max: 1024 * GIB }),
      channels: fc.integer({ min: 1, max: 255 }),
      bytesPerSecond: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 1e11 })),
    })
    fc.assert(
      fc.property(round, (options) => {
        const bytes = extentTargetBytes(options)
        const limited = options.bytesPerSecond > 0
        expect(bytes % 4096).toBe(0)
        expect(bytes).toBeLessThanOrEqual(EXTENT_BYTES_MAX)
        expect(bytes).toBeGreaterThanOrEqual(limited ? EXTENT_GRANULE_BYTES : EXTENT_BYTES_MIN)
        if (limited && bytes > EXTENT_GRANULE_BYTES) {
          expect(bytes).toBeLessThanOrEqual(options.bytesPerSecond / 50)
        }
      }),
    )
  })

  it('refuses what no round can be', () => {
    const round = { dirtyBytes: 0, channels: 1, bytesPerSecond: 0 }
    expect(() => extentTargetBytes({ ...round, channels: 0 })).toThrow(/channels must be 1\.\.255/)
    expect(() => extentTargetBytes({ ...round, channels: 256 })).toThrow(/got 256/)
    expect(() => extentTargetBytes({ ...round, dirtyBytes: -1 })).toThrow(/dirtyBytes/)
    expect(() => extentTargetBytes({ ...round, bytesPerSecond: Number.NaN })).toThrow(/bytesPerSec/)
  })
})
