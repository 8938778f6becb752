// Our answer to query-migrate beside that of a live QEMU, of whatever version: each field of ours
// is one of its, in the same state.

import { beforeEach, expect, it } from 'vitest'
import { QemuGuest } from '../../bench/qemu/guest.ts'
import { type MigrationFigures, type QueriedStatus, queryMigrate } from '../../src/migrate/query.ts'
import { shapeOf } from '../migrate/recorded-query-migrate.ts'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'

beforeEach(async (context) => {
  await qemuOrSkip(context)
})

const figures: Omit<MigrationFigures, 'status'> = {
  totalTimeMs: 0,
  setupTimeMs: 0,
  expectedDowntimeMs: 0,
  downtimeMs: 0,
  totalBytes: 0,
  remainingBytes: 0,
  transferredBytes: 0,
  multifdBytes: 0,
  precopyBytes: 0,
  downtimeBytes: 0,
  zeroPages: 0,
  normalPages: 0,
  dirtyBytesPerSecond: 0,
  bytesPerSecond: 0,
  pagesPerSecond: 0,
  dirtySyncCount: 0,
  dirtySyncMissedZeroCopy: 0,
  throttlePercent: 0,
}
const ours = (status: QueriedStatus): string[] => shapeOf(queryMigrate({ ...figures, status }))

it('has fields that a QEMU shows before, while, and after it migrates', async () => {
  await using guest = await QemuGuest.start({ guest: { windowBytes: 1 << 20 } })
  const expectAmongTheirs = async (status: QueriedStatus): Promise<void> => {
    expect(shapeOf(await guest.status())).toEqual(expect.arrayContaining(ours(status)))
  }
  await expectAmongTheirs('none')

  await guest.waitUntilCounting()
  await guest.enableMultifd({
    multifd: false,
    returnPath: false,
    bandwidthBytesPerSecond: 4 << 20,
    downtimeLimitMs: 1,
  })
  await guest.migrate('exec:cat > /dev/null')
  await guest.waitForPasses(2)
  await expectAmongTheirs('active')

  await guest.setLimits({ downtimeLimitMs: 10_000 })
  await guest.waitFor('completed')
  await expectAmongTheirs('completed')
})
