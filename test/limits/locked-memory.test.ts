// Little locked memory, as ordinary users have it, never fails a migration with zero-copy: sends
// stay within the limit, are split, or are copied, and the counters tell which.

import { describe, expect, it } from 'vitest'
import { LOCKED_MEMORY_SHARE } from '../../src/schedule/flush-policy.ts'
import { freshUser } from '../support/restricted.ts'
import { CHANNELS, KIB, MIB, migrateUnderLimits, total } from './limited-migration.ts'

/** Larger than any budget here, so that the budget is what binds. */
const LARGE_MARKS = { highWaterBytes: 16 * MIB, lowWaterBytes: 8 * MIB }
const ENGINES = ['sendmsg', 'io-uring'] as const

describe.each(ENGINES)('as an ordinary user, with the engine %s', (engine) => {
  it.for([8 * MIB, MIB, 256 * KIB, 64 * KIB, 0])(
    "and zeroCopy 'on', a locked-memory limit of %d bytes is kept",
    async (memlockBytes, context) => {
      const result = await migrateUnderLimits(context, {
        limits: { memlockBytes, user: freshUser() },
        options: { engine, zeroCopy: 'on', flushThresholds: LARGE_MARKS },
      })
      const budgetBytes = (memlockBytes * LOCKED_MEMORY_SHARE) / CHANNELS
      for (const channel of result.channels) {
        expect(channel.unreleasedHighBytes).toBeLessThanOrEqual(budgetBytes)
      }
      const zeroCopyTriedBytes = total(result, 'zeroCopyBytes') + total(result, 'copiedBytes')
      if (memlockBytes === 0) expect(zeroCopyTriedBytes).toBe(0)
      if (memlockBytes === 8 * MIB) expect(zeroCopyTriedBytes).toBeGreaterThan(16 * MIB)
    },
  )

  it.for([8 * MIB, 256 * KIB, 0])(
    "and zeroCopy 'auto', a locked-memory limit of %d bytes is kept",
    async (memlockBytes, context) => {
      const result = await migrateUnderLimits(context, {
        limits: { memlockBytes, user: freshUser() },
        options: { engine, zeroCopy: 'auto' },
      })
      const budgetBytes = (memlockBytes * LOCKED_MEMORY_SHARE) / CHANNELS
      for (const channel of result.channels) {
        expect(channel.unreleasedHighBytes).toBeLessThanOrEqual(budgetBytes)
      }
    },
  )

  // What the budget cannot foresee: the limit is the user's, and others have used it up.
  it.for(['on', 'auto'] as const)(
    "and zeroCopy '%s', sends that the limit has no room for are split, then copied",
    async (zeroCopy, context) => {
      const limits = { memlockBytes: 8 * MIB, heldBytes: 8 * MIB - 64 * KIB, user: freshUser() }
      const split = await migrateUnderLimits(context, {
        limits,
        options: {
          engine,
          zeroCopy,
          ...(zeroCopy === 'on' ? { flushThresholds: LARGE_MARKS } : {}),
        },
      })
      expect(total(split, 'refusedByMemlock')).toBeGreaterThan(0)
      expect(total(split, 'refusedByOptmem')).toBe(0)
    },
  )

  it('several migrations of one user share the limit', async (context) => {
    const limits = { memlockBytes: 2 * MIB, user: freshUser() }
    const options = { engine, zeroCopy: 'on', flushThresholds: LARGE_MARKS } as const
    const runs = Array.from({ length: 3 }, () => migrateUnderLimits(context, { limits, options }))
    for (const result of await Promise.all(runs)) {
      expect(total(result, 'unreleasedHighBytes')).toBeLessThanOrEqual(2 * MIB)
    }
  })
})
