// io_uring that is refused, as a whole or by what it may lock, is a step down and a sentence in the
// result, never a failure: registered memory, zero-copy without it, plain sends, sendmsg.

import { describe, expect, it, type TestContext } from 'vitest'
import type { MigrationResult } from '../../src/index.ts'
import { native } from '../../src/kit/native.ts'
import { freshUser } from '../support/restricted.ts'
import { KIB, MIB, migrateUnderLimits, total } from './limited-migration.ts'

const modes = (result: MigrationResult) => result.channels.map(({ sendMode }) => sendMode)
const engines = (result: MigrationResult) => result.channels.map(({ engine }) => engine)

describe.each(['EPERM', 'ENOSYS'] as const)('where a filter answers %s to io_uring', (error) => {
  const limits = { deny: [{ calls: 'io_uring', error }] } as const

  it.for(['on', 'auto', 'off'] as const)(
    "the engine 'io-uring' is sendmsg, and says so (zeroCopy '%s')",
    async (zeroCopy, context) => {
      const options = { engine: 'io-uring', zeroCopy } as const
      const result = await migrateUnderLimits(context, { limits, options })
      expect(result.engine).toBe('sendmsg')
      expect(engines(result)).toEqual(['sendmsg', 'sendmsg'])
      expect(result.engineReason).toMatch(/^engine: 'io-uring' was asked for, but .*io_uring/)
      if (zeroCopy === 'on') expect(modes(result)).toEqual(['zero-copy', 'zero-copy'])
    },
  )

  it("the engine 'auto' is sendmsg", async (context) => {
    const options = { engine: 'auto', zeroCopy: 'on' } as const
    const result = await migrateUnderLimits(context, { limits, options })
    expect(result.engine).toBe('sendmsg')
    expect(result.engineReason).not.toBe('')
  })
})

// All of it is populated and nothing is discarded: only locked memory is in the way.
describe('registered memory of an ordinary user', () => {
  // With the other block three quarters of 8 MiB at most: nobody may raise a limit.
  const RAM_BYTES = 4 * MIB
  const options = { engine: 'io-uring', zeroCopy: 'on' } as const

  async function migrate(
    context: TestContext,
    limits: { memlockBytes: number; heldBytes?: number },
  ): Promise<MigrationResult> {
    const found = await native().probeIoUring()
    if ('detail' in found) return context.skip(found.detail)
    if (!found.fixedSend.there) return context.skip(found.fixedSend.reason)
    const run = { ramBytes: RAM_BYTES, discards: false, options }
    return migrateUnderLimits(context, { ...run, limits: { ...limits, user: freshUser() } })
  }

  it('is registered where the limit holds all of it', async (context) => {
    const result = await migrate(context, { memlockBytes: 8 * MIB })
    expect(modes(result)).toEqual(['zero-copy-fixed', 'zero-copy-fixed'])
    expect(result.engine).toBe('io-uring')
    expect(total(result, 'refusedByMemlock')).toBe(0)
  })

  it('is not registered where the limit is smaller', async (context) => {
    const result = await migrate(context, { memlockBytes: 2 * MIB })
    expect(modes(result)).toEqual(['zero-copy', 'zero-copy'])
    expect(result.engineReason).toMatch(/not registered: .*RLIMIT_MEMLOCK/)
  })

  it('is not registered where others of the user have taken the limit', async (context) => {
    const limits = { memlockBytes: 8 * MIB, heldBytes: 5 * MIB }
    const result = await migrate(context, limits)
    expect(modes(result)).toEqual(['zero-copy', 'zero-copy'])
    expect(result.engineReason).toMatch(/not registered: .*locked/)
  })

  it('is copied where the limit has room for the rings and little more', async (context) => {
    const limits = { memlockBytes: 8 * MIB, heldBytes: 8 * MIB - 256 * KIB }
    const result = await migrate(context, limits)
    expect(engines(result)).toEqual(['io-uring', 'io-uring'])
    expect(total(result, 'refusedByMemlock')).toBeGreaterThan(0)
  })

  it('goes with sendmsg where the limit has no room for a ring', async (context) => {
    const limits = { memlockBytes: 8 * MIB, heldBytes: 8 * MIB - 16 * KIB }
    const result = await migrate(context, limits)
    expect(engines(result)).toEqual(['sendmsg', 'sendmsg'])
    expect(result.engineReason).toMatch(/io_uring/)
    expect(total(result, 'refusedByMemlock')).toBeGreaterThan(0)
  })
})
