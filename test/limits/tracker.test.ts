// Where the kernel's dirty tracking is denied, pages are compared by hash and private copies are
// sent: zero-copy has nothing to gain and steps aside, unless it is insisted on.

import { describe, expect, it } from 'vitest'
import { migrateUnderLimits, total } from './limited-migration.ts'

describe.each(['EPERM', 'ENOSYS'] as const)('where a filter answers %s to userfaultfd', (error) => {
  const limits = { deny: [{ calls: 'userfaultfd', error }] } as const

  it.for(['auto', 'sendmsg', 'io-uring'] as const)(
    "the engine '%s' sends copies, and says why",
    async (engine, context) => {
      const options = { engine, zeroCopy: 'auto', dirty: 'auto' } as const
      const result = await migrateUnderLimits(context, { limits, options })
      expect(result.dirtyTracker).toBe('hash')
      expect(result.dirtyTrackerReason).toMatch(/userfaultfd/)
      expect(total(result, 'zeroCopyTriedBytes')).toBe(0)
      for (const { sendMode, engineReason, flushReason } of result.channels) {
        expect(sendMode).toBe('plain')
        expect(`${engineReason}; ${flushReason}`).toMatch(/hash tracker/)
      }
    },
  )

  it("zeroCopy 'on' is refused with the reason", async (context) => {
    const options = { zeroCopy: 'on', dirty: 'auto' } as const
    const migration = migrateUnderLimits(context, { limits, options })
    await expect(migration).rejects.toThrow(/ERR_MULTIFD_UNSUPPORTED: .*hash tracker/)
  })
})
