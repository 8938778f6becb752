// The first error of a migration, and what becomes of those behind it.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { describe, expect, it } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import { FirstError } from '../../src/migrate/teardown.ts'

const lost = new MultifdError('ERR_MULTIFD_CHANNEL', 'a channel was lost')
const late = new MultifdError('ERR_MULTIFD_TIMEOUT', 'the peer is silent')

describe('the first error', () => {
  it('is what everybody hears, and later ones are traced', async () => {
    const traced: unknown[] = []
    const note = (payload: unknown): void => void traced.push(payload)
    subscribe('multifd:error', note)
    try {
      const first = new FirstError('source')
      const waiting = first.unless(new Promise(() => {}))
      first.set(lost)
      first.set(late)
      await expect(waiting).rejects.toBe(lost)
      await expect(first.promise).rejects.toBe(lost)
      await expect(first.unless(new Promise(() => {}))).rejects.toBe(lost)
      expect(first.error).toBe(lost)
      const { code, message } = late
      expect(traced).toEqual([expect.objectContaining({ side: 'source', code, message })])
    } finally {
      unsubscribe('multifd:error', note)
    }
  })

  it('of a migration is that of its connection too, and not the other way round', async () => {
    const ofMigration = new FirstError('source')
    const broken = new FirstError('source', ofMigration)
    broken.set(lost)
    await expect(broken.promise).rejects.toBe(lost)
    expect(ofMigration.error).toBeUndefined()
    const next = new FirstError('source', ofMigration)
    ofMigration.set(late)
    await expect(ofMigration.promise).rejects.toBe(late)
    await expect(next.promise).rejects.toBe(late)
    expect(broken.error).toBe(lost)
    const after = new FirstError('source', ofMigration)
    await expect(after.promise).rejects.toBe(late)
  })
})
