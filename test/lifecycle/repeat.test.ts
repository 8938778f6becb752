// Twenty migrations in a row, failed ones among them: what the process holds does not grow.

import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kit/native.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import { guestMemory, HeldMigration } from './held-migration.ts'

const MIGRATIONS = 20
/** The addon was built with a sanitizer (scripts/test.mjs). */
const SANITIZED = process.env.MULTIFD_NATIVE !== undefined
/** glibc keeps an arena and a stack per thread it has seen at once; five threads here. */
const MAPPINGS_TOLERANCE = 16
/** V8's heap pages come and go with its garbage: 200 migrations in a row stay under 400 of them. */
const V8_PAGE_BYTES = 256 * 1024

function mappings(): number {
  const lines = readFileSync('/proc/self/maps', 'utf8').trim().split('\n')
  return lines.filter((line) => {
    const [, from = '', to = '', path = ''] =
      /^(\w+)-(\w+) .{4} \S+ \S+ \S+\s*(.*)$/.exec(line) ?? []
    const bytes = Number.parseInt(to, 16) - Number.parseInt(from, 16)
    return path !== '' || bytes % V8_PAGE_BYTES !== 0
  }).length
}

const threads = (): number => readdirSync('/proc/self/task').length

describe('twenty migrations in a row', () => {
  it('leave descriptors, threads, mappings and the census as they were', async () => {
    const memory = guestMemory()
    const migrate = async (fails: boolean): Promise<void> => {
      const migration = await HeldMigration.begin(memory)
      if (fails) await migration.destination.close()
      const { source } = await migration.ends()
      expect(source === 'completed').toBe(!fails)
      await migration.close()
    }
    // Thread pools, code and arenas come with the first ones.
    for (const fails of [false, true, false]) await migrate(fails)
    const before = held()
    const [threadsBefore, mappingsBefore] = [threads(), mappings()]
    for (let count = 0; count < MIGRATIONS; count += 1) await migrate(count % 4 === 3)
    expectNothingLeft(before)
    expect(threads()).toBe(threadsBefore)
    // AddressSanitizer's allocator maps as it likes; the census is exact there too.
    if (!SANITIZED) expect(mappings() - mappingsBefore).toBeLessThan(MAPPINGS_TOLERANCE)
    await memory.close()
    expect(native().census().mappings).toBe(0)
  })
})
