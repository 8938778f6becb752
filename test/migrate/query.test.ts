// The fields of our answer to query-migrate, state by state, against answers that were recorded
// from QEMU 7.2. test/interop/query-migrate.test.ts asks a live one.

import { describe, expect, it } from 'vitest'
import {
  type MigrationFigures,
  type QueriedStatus,
  type QueryMigrate,
  queryMigrate,
} from '../../src/migrate/query.ts'
import { RECORDED_ANSWERS, shapeOf } from './recorded-query-migrate.ts'

const figures: MigrationFigures = {
  status: 'active',
  totalTimeMs: 1234.5,
  setupTimeMs: 1.4,
  expectedDowntimeMs: 17.6,
  downtimeMs: 12.2,
  totalBytes: 1 << 28,
  remainingBytes: 40960,
  transferredBytes: 2_000_000,
  multifdBytes: 1_900_000,
  precopyBytes: 1_800_000,
  downtimeBytes: 200_000,
  zeroPages: 7,
  normalPages: 450,
  dirtyBytesPerSecond: 100_000,
  bytesPerSecond: 125_000_000,
  pagesPerSecond: 30_000.4,
  dirtySyncCount: 3,
  dirtySyncMissedZeroCopy: 2,
  throttlePercent: 0,
}

const answer = (status: QueriedStatus, more: Partial<MigrationFigures> = {}): QueryMigrate =>
  queryMigrate({ ...figures, status, ...more })

describe('query-migrate', () => {
  it.each(Object.entries(RECORDED_ANSWERS) as [keyof typeof RECORDED_ANSWERS, object][])(
    'has the fields in "%s" that QEMU has',
    (status, recorded) => {
      const error = status === 'failed' ? { error: 'the peer left' } : {}
      expect(shapeOf(answer(status, error))).toEqual(shapeOf(recorded))
    },
  )

  it('gives figures in QEMU’s units, whole where QEMU’s are', () => {
    expect(answer('active')).toEqual({
      status: 'active',
      'total-time': 1235,
      'setup-time': 1,
      'expected-downtime': 18,
      ram: {
        transferred: 2_000_000,
        remaining: 40960,
        total: 1 << 28,
        duplicate: 7,
        normal: 450,
        'normal-bytes': 450 * 4096,
        'dirty-pages-rate': 24,
        mbps: 1000,
        'dirty-sync-count': 3,
        'postcopy-requests': 0,
        'page-size': 4096,
        'multifd-bytes': 1_900_000,
        'pages-per-second': 30_000,
        'precopy-bytes': 1_800_000,
        'downtime-bytes': 200_000,
        'postcopy-bytes': 0,
        'dirty-sync-missed-zero-copy': 2,
      },
    })
  })

  it('has nothing left, and the downtime instead of a prediction, when completed', () => {
    const done = answer('completed', { throttlePercent: 20 })
    expect(done).toMatchObject({ downtime: 12, ram: { remaining: 0, 'dirty-pages-rate': 0 } })
    expect(done).not.toHaveProperty('expected-downtime')
    expect(done).not.toHaveProperty('cpu-throttle-percentage')
  })

  it('says what is only sometimes true only then', () => {
    expect(answer('active', { throttlePercent: 20 })['cpu-throttle-percentage']).toBe(20)
    const early = answer('active', { expectedDowntimeMs: Number.POSITIVE_INFINITY })
    expect(early).not.toHaveProperty('expected-downtime')
    expect(answer('failed', { error: 'no route' })).toEqual({
      status: 'failed',
      'error-desc': 'no route',
    })
  })

  it('shows in our own two statuses what QEMU shows under way', () => {
    const active = shapeOf(answer('active'))
    expect(shapeOf(answer('reconnecting'))).toEqual(active)
    const unknown = answer('unknown', { error: 'not confirmed' })
    expect(shapeOf(unknown)).toEqual([...active, 'error-desc'].sort())
  })
})
