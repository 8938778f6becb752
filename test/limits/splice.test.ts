// Splicing that a sandbox refuses is a step down and a sentence in the result, never a failure. It
// takes no locked memory, so no limit of that stands in its way.

import { describe, expect, it } from 'vitest'
import { freshUser } from '../support/restricted.ts'
import { MIB, migrateUnderLimits, total } from './limited-migration.ts'

describe.each(['vmsplice', 'splice'] as const)('where a filter refuses %s', (calls) => {
  it.for(['EPERM', 'ENOSYS'] as const)(
    'pages are copied, and it is said why (%s)',
    async (error, context) => {
      const result = await migrateUnderLimits(context, { limits: { deny: [{ calls, error }] } })
      for (const channel of result.channels) {
        expect(channel).toMatchObject({ engine: 'splice', sendMode: 'plain', zeroCopyMode: 'off' })
        expect(channel.engineReason).toContain(`plain instead of splice: ${calls} is refused: `)
        expect(channel.flushReason).toContain(`${calls} is refused`)
        expect(channel.zeroCopyBytes).toBe(0)
      }
    },
  )
})

it('an ordinary user who may lock nothing has it all the same', async (context) => {
  const limits = { user: freshUser(), memlockBytes: 0 }
  const result = await migrateUnderLimits(context, { limits })
  for (const channel of result.channels) {
    expect(channel).toMatchObject({ engine: 'splice', sendMode: 'splice', copiedBytes: 0 })
  }
  expect(total(result, 'zeroCopyBytes')).toBeGreaterThan(32 * MIB * 0.9)
})

it('where the pipes of a user are full, pages are copied, and it is said why', async (context) => {
  const limits = { user: freshUser(), pipesAreFull: true }
  const result = await migrateUnderLimits(context, { limits })
  for (const channel of result.channels) {
    expect(channel).toMatchObject({ engine: 'splice', sendMode: 'plain', zeroCopyBytes: 0 })
    expect(channel.engineReason).toContain('plain instead of splice: F_SETPIPE_SZ is refused: ')
  }
})
