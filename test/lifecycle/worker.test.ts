// The addon in worker threads: a second environment works, and one that is torn down in the middle
// of a migration ends its threads and lets go of everything, whichever side it was.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MigrationDestination } from '../../src/destination.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { native } from '../../src/kit/native.ts'
import { MigrationSource } from '../../src/source.ts'
import { RawConnection } from '../migrate/raw-peer.ts'
import { TYPESCRIPT_ARGUMENTS } from '../support/child.ts'
import { BLOCK, BYTES, endOf, guestMemory } from './held-migration.ts'
import type { WorkerRole } from './migration-worker.ts'

/** What the process holds natively, workers included: the census is the process's. */
let before: Record<string, number>

beforeEach(() => {
  before = native().census()
})
afterEach(() => {
  expect(native().census()).toEqual(before)
})

class MigrationWorker {
  readonly #worker: Worker
  readonly #lines: string[] = []

  constructor(workerData: WorkerRole) {
    this.#worker = new Worker(new URL('./migration-worker.ts', import.meta.url), {
      workerData,
      execArgv: TYPESCRIPT_ARGUMENTS,
    })
    this.#worker.on('message', (line: string) => this.#lines.push(line))
  }

  async line(): Promise<string> {
    while (this.#lines.length === 0) await once(this.#worker, 'message')
    return this.#lines.shift() ?? ''
  }

  async terminate(): Promise<void> {
    await this.#worker.terminate()
  }
}

describe('a worker', () => {
  it('migrates by itself, beside the main thread', async () => {
    const worker = new MigrationWorker({ role: 'both' })
    expect(await worker.line()).toBe('completed')
    await worker.terminate()
  })

  it('that is terminated as the source leaves a destination that says so', async () => {
    await using memory = GuestMemory.openMemfd(BLOCK, BYTES)
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory, reconnectTimeoutMs: 0 },
    })
    const worker = new MigrationWorker({ role: 'source', uri: destination.uri })
    expect(await worker.line()).toBe('held')
    await worker.terminate()
    expect(await endOf(destination.completed)).toBe('ERR_MULTIFD_PEER_CLOSED')
    await destination.close()
  })

  it('that is terminated as the destination leaves a guest that runs on', async () => {
    await using memory = guestMemory()
    const worker = new MigrationWorker({ role: 'destination' })
    let running = 1
    const source = new MigrationSource({
      memory,
      devices: [{ idstr: 'cpu', save: () => Uint8Array.of(1), load: () => {} }],
      vmm: {
        stop: () => {
          running -= 1
        },
        resume: () => {
          running += 1
        },
      },
    })
    const { result } = source.migrate(await worker.line())
    result.catch(() => {})
    expect(await worker.line()).toBe('held')
    await worker.terminate()
    expect(await endOf(result)).toMatch(/^ERR_MULTIFD_(PEER_CLOSED|CHANNEL)$/)
    expect(running).toBe(1)
  })

  it('that is terminated while it listens, with strangers at its door', async () => {
    const worker = new MigrationWorker({ role: 'listening' })
    const uri = await worker.line()
    const silent = await RawConnection.to(uri)
    const partial = (await RawConnection.to(uri)).send(Uint8Array.of(0x51, 0x45))
    await worker.terminate()
    await Promise.all([silent.gone, partial.gone])
    await Promise.all([silent.destroy(), partial.destroy()])
  })

  it('migrates the memory of the main thread, until its owner takes it away', async () => {
    const memory = guestMemory()
    await using received = GuestMemory.openMemfd(BLOCK, BYTES)
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: received, reconnectTimeoutMs: 0 },
    })
    const worker = new MigrationWorker({
      ...{ role: 'source', uri: destination.uri, token: memory.token },
    })
    expect(await worker.line()).toBe('held')
    await memory.close()
    // Its stop never returns, so it cannot report its own end; the other side hears of it.
    expect(await endOf(destination.completed)).toMatch(/^ERR_MULTIFD_/)
    await destination.close()
    await worker.terminate()
  })
})
