// Progress as an iterable: slow readers see the latest of each status, never a backlog, and then
// the end.

import { describe, expect, it } from 'vitest'
import type { MigrationProgress } from '../../src/migrate/progress.ts'
import { ProgressStream } from '../../src/migrate/progress-stream.ts'
import type { MigrationStatus } from '../../src/migrate/status.ts'

function event(status: MigrationStatus, round: number, transferredBytes = 0): MigrationProgress {
  return {
    status,
    round,
    transferredBytes,
    multifdBytes: 0,
    normalBytes: 0,
    compression: 'none',
    dirtySyncCount: 0,
    remainingBytes: 0,
    dirtyBytesPerSecond: 0,
    bytesPerSecond: 0,
    expectedDowntimeMs: 0,
    elapsedMs: 0,
    throttlePercent: 0,
    devices: [],
    channels: [],
  }
}

/** Reads from now on, however slowly, to the end. */
function reading(stream: ProgressStream): () => Promise<MigrationProgress[]> {
  const iterator = stream[Symbol.asyncIterator]()
  const first = iterator.next() // begins to listen
  return async () => {
    const events: MigrationProgress[] = []
    for (let one = await first; one.done !== true; one = await iterator.next()) {
      events.push(one.value)
    }
    return events
  }
}

async function all(stream: ProgressStream): Promise<MigrationProgress[]> {
  return await reading(stream)()
}

describe('ProgressStream', () => {
  it('replaces an event by a later one of the same status and round', async () => {
    const stream = new ProgressStream()
    const rest = reading(stream)
    const kept = [event('active', 0, 2), event('active', 1, 3), event('device', 1, 4)]
    for (const one of [event('active', 0, 1), ...kept]) stream.push(one)
    stream.end(Promise.resolve())
    expect(await rest()).toEqual(kept)
  })

  it('keeps at most 256 rounds that a slow reader has not looked at: the latest', async () => {
    const stream = new ProgressStream()
    const rest = reading(stream)
    for (let round = 0; round < 1000; round += 1) stream.push(event('active', round))
    stream.end(Promise.resolve())
    const events = await rest()
    expect(events).toHaveLength(256)
    expect(events.at(-1)?.round).toBe(999)
  })

  it('gives every reader all of it, and a late one the latest', async () => {
    const stream = new ProgressStream()
    expect(stream.watched).toBe(false)
    const early = [reading(stream), reading(stream)]
    expect(stream.watched).toBe(true)
    for (const round of [0, 1]) stream.push(event('active', round))
    const late = reading(stream)
    stream.end(Promise.resolve())
    for (const rest of early) {
      expect((await rest()).map(({ round }) => round)).toEqual([0, 1])
    }
    expect((await late()).map(({ round }) => round)).toEqual([1])
    expect(stream.watched).toBe(false)
  })

  it('wakes a reader that waits, for events and for the end', async () => {
    const stream = new ProgressStream()
    const read = all(stream)
    for (const round of [0, 1, 2]) {
      stream.push(event('active', round))
      await Promise.resolve()
    }
    stream.end(Promise.resolve())
    expect((await read).map(({ round }) => round)).toEqual([0, 1, 2])
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
