// One memory, two threads: the VMM on the main thread, the migration in a worker that found the
// memory by its token.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'
import { failure } from '../support/migration.ts'
import type { WorkerOptions, WorkerReport } from '../support/migration-worker.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { WriterGuest } from '../support/writer.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** Migrates in a worker; `on` hears what it reports, and its stop and resume are the guest's. */
async function migrateInWorker(
  options: WorkerOptions,
  guest: WriterGuest,
  on: (report: WorkerReport, worker: Worker) => void = () => {},
): Promise<WorkerReport | undefined> {
  const script = new URL('../support/migration-worker.ts', import.meta.url)
  const worker = new Worker(script, { workerData: options, execArgv: TYPESCRIPT_ARGUMENTS })
  let last: WorkerReport | undefined
  worker.on('message', (report: WorkerReport) => {
    last = report
    if (report.kind === 'stop' || report.kind === 'resume') {
      guest[report.kind]()
      worker.postMessage('done')
    }
    on(report, worker)
  })
  await once(worker, 'exit')
  return last
}

describe('GuestMemory.fromToken', () => {
  it('refuses a token of nothing, and one of memory that was closed', async () => {
    const memory = GuestMemory.allocate('ram', MIB)
    const { token } = memory
    expect(memory.token).toBe(token)
    const same = GuestMemory.fromToken(token)
    expect(same.blocks).toEqual(memory.blocks)
    await same.close()
    await memory.close()
    for (const bad of [token, 2 ** 40]) {
      expect(() => GuestMemory.fromToken(bad)).toThrow('the token names no guest memory')
    }
  })

  it('migrates in a worker while the main thread runs the guest and discards', async () => {
    await using from = GuestMemory.allocate('ram', 64 * MIB)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    const view = from.view('ram')
    fillPages(view, seed)
    using guest = new WriterGuest(view.subarray(0, 32 * MIB), seed)
    guest.confine(256)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    let discarded = 0
    const last = await migrateInWorker(
      { token: from.token, uri: destination.uri, maxBandwidthBytesPerSecond: 100 * MIB },
      guest,
      ({ kind }) => {
        if (kind !== 'sent' || !guest.running) return
        from.discard('ram', 32 * MIB + discarded * 4096, 4096)
        discarded += 1
      },
    )
    await destination.completed
    expect(last).toEqual({ kind: 'completed', dirtyTracker: expect.any(String) })
    expect(guest.calls).toEqual(['stop'])
    expect(discarded).toBeGreaterThan(0)
    expectSamePages(to.view('ram'), view)
  })

  it('survives a worker that is terminated in the middle, and migrates at once again', async () => {
    await using from = GuestMemory.allocate('ram', 64 * MIB)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    fillPages(from.view('ram'), seed)
    using guest = new WriterGuest(from.view('ram'), seed)
    guest.confine(256)
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const ended = failure(destination.completed)
    await migrateInWorker(
      { token: from.token, uri: destination.uri, maxBandwidthBytesPerSecond: 16 * MIB },
      guest,
      (report, worker) => {
        if (report.kind === 'sent' && report.bytes > MIB) worker.terminate()
      },
    )
    expect((await ended).code).toMatch(/PEER_CLOSED|CHANNEL/)
    await destination.close()
    expect(guest.calls).toEqual([])

    const next = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    await new MigrationSource({ memory: from, vmm: guest }).migrate(next.uri).result
    await next.completed
    await next.close()
    expectSamePages(to.view('ram'), from.view('ram'))
  })

  it('the owner closes in the middle: the worker’s migration fails, and both live on', async () => {
    const from = GuestMemory.allocate('ram', 64 * MIB)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    fillPages(from.view('ram'), seed)
    const guest = new WriterGuest(from.view('ram'), seed)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const ended = failure(destination.completed)
    let closing: Promise<void> | undefined
    const last = await migrateInWorker(
      { token: from.token, uri: destination.uri, maxBandwidthBytesPerSecond: 16 * MIB },
      guest,
      (report) => {
        if (report.kind !== 'sent' || report.bytes < MIB || closing !== undefined) return
        guest[Symbol.dispose]()
        closing = from.close()
      },
    )
    await closing
    // What comes first to a busy worker: its own channels' end, or the destination's answer to it.
    expect(last?.kind).toBe('failed')
    expect(JSON.stringify(last)).toMatch(/ERR_MULTIFD_(CLOSED|PEER_CLOSED|CHANNEL)"/)
    expect((await ended).code).toMatch(/PEER_CLOSED|CHANNEL/)
  })
})
