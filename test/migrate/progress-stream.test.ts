// Progress as an iterable: slow readers see the latest of each status, never a backlog, and then the end.

import { describe, expect, it } from 'vitest'
import type { MigrationProgress } from '../../src/migrate/progress.ts'
import { ProgressStream } from '../../src/migrate/progress-stream.ts'
import type { MigrationStatus } from '../../src/migrate/status.ts'

function event(status: MigrationStatus, round: number, transferredBytes = 0): MigrationProgress {
  return {
    status,
    round,
    transferredBytes,
    dirtySyncCount: 0,
    remainingBytes: 0,
    dirtyBytesPerSecond: 0,
    bytesPerSecond: 0,
    expectedDowntimeMs: 0,
    elapsedMs: 0,
    channels: [],
  }
}

async function all(stream: ProgressStream): Promise<MigrationProgress[]> {
  const events: MigrationProgress[] = []
  for await (const one of stream) events.push(one)
  return events
}

describe('ProgressStream', () => {
  it('replaces an event by a later one of the same status and round', async () => {
    const stream = new ProgressStream()
    const kept = [event('active', 0, 2), event('active', 1, 3), event('device', 1, 4)]
    for (const one of [event('active', 0, 1), ...kept]) stream.push(one)
    stream.end(Promise.resolve())
    expect(await all(stream)).toEqual(kept)
  })

  it('keeps at most 256 rounds of a migration that nobody watches: the latest', async () => {
    const stream = new ProgressStream()
    for (let round = 0; round < 1000; round += 1) stream.push(event('active', round))
    stream.end(Promise.resolve())
    const events = await all(stream)
    expect(events).toHaveLength(256)
    expect(events.at(-1)?.round).toBe(999)
  })

  it('wakes a reader that waits, for events and for the end', async () => {
    const stream = new ProgressStream()
    const reading = all(stream)
    for (const round of [0, 1, 2]) {
      stream.push(event('active', round))
      await Promise.resolve()
    }
    stream.end(Promise.resolve())
    expect((await reading).map(({ round }) => round)).toEqual([0, 1, 2])
  })

  it('throws behind the last event what the migration ended with', async () => {
    const stream = new ProgressStream()
    stream.push(event('failed', 0))
    const failed = Promise.reject(new Error('the network is gone'))
    failed.catch(() => {})
    stream.end(failed)
    const iterator = stream[Symbol.asyncIterator]()
    expect((await iterator.next()).value).toMatchObject({ status: 'failed' })
    await expect(iterator.next()).rejects.toThrow('the network is gone')
  })
})
