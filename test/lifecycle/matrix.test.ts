// Every operation in every state: each is allowed or refused with a typed error, and never crashes
// or leaves anything behind.

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MigrationDestination } from '../../src/destination.ts'
import { DirtyLog } from '../../src/guest/dirty-tracker.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { MigrationSource } from '../../src/source.ts'
import { RawConnection } from '../migrate/raw-peer.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { BLOCK, BYTES, endOf, guestMemory, HeldMigration, verdict } from './held-migration.ts'

const vmm = { stop: () => {}, resume: () => {} }
const CLOSED = 'ERR_MULTIFD_CLOSED'
const STATE = 'ERR_MULTIFD_STATE'

let before: Held
let memory: GuestMemory

beforeEach(() => {
  before = held()
  memory = guestMemory()
})
afterEach(async () => {
  await memory.close()
  expectNothingLeft(before)
})

describe('GuestMemory', () => {
  const operations: Record<string, () => unknown> = {
    view: () => memory.view(BLOCK)[0],
    discard: () => memory.discard(BLOCK, 4096, 4096),
    populatedBytes: () => memory.populatedBytes(),
    token: () => memory.token,
    fromToken: () => GuestMemory.fromToken(memory.token).close(),
    blocks: () => memory.blocks.length + memory.totalBytes,
    dirtyLog: () => new DirtyLog(memory).mark(BLOCK, 0, 4096),
    migrate: async () => {
      const source = new MigrationSource({ memory, vmm })
      await source.migrate('unix:/nowhere').result
    },
    listen: async () => (await MigrationDestination.listen('tcp:127.0.0.1:0', { memory })).close(),
  }
  const verdicts = async (): Promise<Record<string, string>> => {
    const seen: Record<string, string> = {}
    for (const [name, operation] of Object.entries(operations))
      seen[name] = await verdict(operation)
    return seen
  }
  const open = {
    ...{ view: 'allowed', discard: 'allowed', populatedBytes: 'allowed', token: 'allowed' },
    ...{ fromToken: 'allowed', blocks: 'allowed', dirtyLog: 'allowed', listen: 'allowed' },
    migrate: 'ERR_MULTIFD_CHANNEL', // nobody listens there
  }

  it('open', async () => {
    expect(await verdicts()).toEqual(open)
  })

  it('migrating: everything but a second migration of it', async () => {
    const migration = await HeldMigration.begin(memory)
    const { listen, migrate, ...rest } = await verdicts()
    const { listen: _listen, migrate: _migrate, ...others } = open
    expect(rest).toEqual(others)
    // The source that migrates, and any other of the same memory.
    expect(await verdict(() => migration.source.migrate('unix:/nowhere'))).toBe(STATE)
    expect([STATE, 'ERR_MULTIFD_CHANNEL']).toContain(migrate)
    expect(listen).toBeDefined()
    expect(await migration.ends()).toEqual({ source: 'completed', destination: 'completed' })
    await migration.close()
  })

  it('after a migration that completed, or failed', async () => {
    const completed = await HeldMigration.begin(memory)
    await completed.close()
    expect(await verdicts()).toEqual(open)
    const failed = await HeldMigration.begin(memory)
    await failed.destination.close()
    expect((await failed.ends()).source).toMatch(/^ERR_MULTIFD_(PEER_CLOSED|CHANNEL)$/)
    await failed.close()
    expect(failed.running).toBe(1)
    expect(await verdicts()).toEqual(open)
  })

  it('closed: nothing but its names, and closing it again', async () => {
    const view = memory.view(BLOCK)
    await memory.close()
    expect(view.length).toBe(0) // detached
    const all = Object.fromEntries(Object.keys(open).map((name) => [name, CLOSED]))
    expect(await verdicts()).toEqual({ ...all, blocks: 'allowed', dirtyLog: 'allowed' })
    await memory.close()
    await memory[Symbol.asyncDispose]()
  })

  it('closed while it migrates: the migration ends first, on both sides', async () => {
    const migration = await HeldMigration.begin(memory)
    await memory.close()
    const { source, destination } = await migration.ends()
    expect(source).toMatch(/^ERR_MULTIFD_/)
    expect(destination).toMatch(/^ERR_MULTIFD_/)
    expect(migration.running).toBe(1)
    await migration.close()
  })

  it('closed while it receives: the same', async () => {
    const migration = await HeldMigration.begin(memory)
    await migration.received.close()
    const { source, destination } = await migration.ends()
    expect(source).toMatch(/^ERR_MULTIFD_/)
    expect(destination).toMatch(/^ERR_MULTIFD_/)
    expect(migration.running).toBe(1)
    await migration.close()
  })

  it('listening: a second destination into it is refused, until the first is closed', async () => {
    const listen = () => MigrationDestination.listen('tcp:127.0.0.1:0', { memory })
    const first = await listen()
    expect(await verdict(listen)).toBe(STATE)
    await first.close()
    await (await listen()).close()
    // An address that is not to be had leaves nothing behind.
    const nowhere = () => MigrationDestination.listen('unix:/nowhere/at/all', { memory })
    expect(await verdict(nowhere)).toBe('ERR_MULTIFD_CHANNEL')
    await (await listen()).close()
  })
})

describe('DirtyLog', () => {
  const mark = (log: DirtyLog): Promise<string> =>
    verdict(() => {
      log.mark(BLOCK, 0, 4096)
      log.mark(BLOCK, 4095, 2)
      log.mark(BLOCK, BYTES, 0)
      log.orBitmap(BLOCK, 0, Uint8Array.of(0xff))
    })

  it('takes marks before, during, between and after migrations, and serves more than one', async () => {
    const log = new DirtyLog(memory)
    expect(await mark(log)).toBe('allowed')
    for (let round = 0; round < 2; round += 1) {
      const migration = await HeldMigration.begin(memory, log)
      expect(await mark(log)).toBe('allowed')
      expect(await migration.ends()).toEqual({ source: 'completed', destination: 'completed' })
      const result = await migration.migration.result
      expect(result.dirtyTracker).toBe('vmm')
      await migration.close()
      expect(await mark(log)).toBe('allowed')
    }
    await memory.close()
    expect(await mark(log)).toBe('allowed') // goes nowhere
  })
})

describe('Migration', () => {
  const iterate = async (migration: HeldMigration['migration']): Promise<string> => {
    let last = 'nothing'
    for await (const { status } of migration) last = status
    return last
  }

  it('can be watched by several, early or late, and left early', async () => {
    const migration = await HeldMigration.begin(memory)
    const watchers = [iterate(migration.migration), iterate(migration.migration)]
    for await (const { status } of migration.migration) {
      expect(status).toMatch(/setup|active|device/)
      break
    }
    expect(migration.migration.status).toBe('device')
    expect(await migration.ends()).toEqual({ source: 'completed', destination: 'completed' })
    expect(await Promise.all(watchers)).toEqual(['completed', 'completed'])
    expect(await iterate(migration.migration)).toBe('completed')
    expect(await endOf(migration.migration.result)).toBe('completed')
    expect(migration.migration.status).toBe('completed')
    await migration.close()
  })

  it('that failed rejects its watchers with the same error as its result', async () => {
    const migration = await HeldMigration.begin(memory)
    const watching = verdict(() => iterate(migration.migration))
    await migration.destination.close()
    const { source } = await migration.ends()
    expect(source).toMatch(/^ERR_MULTIFD_/)
    expect(await watching).toBe(source)
    expect(await verdict(() => iterate(migration.migration))).toBe(source)
    expect(migration.migration.status).toBe('failed')
    await migration.close()
  })

  it('survives a watcher that throws', async () => {
    const migration = await HeldMigration.begin(memory)
    const thrown = new Error('the display broke')
    const watching = (async () => {
      for await (const _progress of migration.migration) throw thrown
    })()
    await expect(watching).rejects.toBe(thrown)
    expect(await migration.ends()).toEqual({ source: 'completed', destination: 'completed' })
    await migration.close()
  })
})

describe('MigrationDestination', () => {
  const look = (destination: MigrationDestination): string => {
    expect(destination.uri).toMatch(/^tcp:127.0.0.1:\d+$/)
    expect(destination.receivedBytes).toBeGreaterThanOrEqual(0)
    return destination.status
  }
  const closeInEveryWay = async (destination: MigrationDestination): Promise<void> => {
    await Promise.all([destination.close(), destination.close()])
    await destination[Symbol.asyncDispose]()
    await destination.close()
  }

  it('listening: closing it ends it', async () => {
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory })
    expect(look(destination)).toBe('setup')
    await closeInEveryWay(destination)
    expect(await endOf(destination.completed)).toBe(CLOSED)
    expect(look(destination)).toBe('failed')
  })

  it('with a peer in the middle of its introduction: the same', async () => {
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory })
    const peer = await RawConnection.to(destination.uri)
    peer.send(Uint8Array.of(0x51, 0x45))
    await closeInEveryWay(destination)
    expect(await endOf(destination.completed)).toBe(CLOSED)
    await peer.destroy()
  })

  it('receiving: the source goes on with its guest', async () => {
    const migration = await HeldMigration.begin(memory)
    expect(look(migration.destination)).toBe('active')
    await closeInEveryWay(migration.destination)
    expect(await endOf(migration.destination.completed)).toBe(CLOSED)
    expect((await migration.ends()).source).toMatch(/^ERR_MULTIFD_/)
    expect(migration.running).toBe(1)
    await migration.close()
  })

  it('completed: closing it changes nothing', async () => {
    const migration = await HeldMigration.begin(memory)
    expect(await migration.ends()).toEqual({ source: 'completed', destination: 'completed' })
    await closeInEveryWay(migration.destination)
    expect(look(migration.destination)).toBe('completed')
    expect(await endOf(migration.destination.completed)).toBe('completed')
    await migration.close()
  })

  it('whose signal fired before, or fires while it listens', async () => {
    const early = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory,
      signal: AbortSignal.abort('no'),
    })
    expect(await endOf(early.completed)).toBe('ERR_MULTIFD_ABORTED')
    await closeInEveryWay(early)
    const controller = new AbortController()
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory,
      signal: controller.signal,
    })
    controller.abort()
    expect(await endOf(destination.completed)).toBe('ERR_MULTIFD_ABORTED')
    expect(look(destination)).toBe('cancelled')
    await closeInEveryWay(destination)
  })
})

describe('a VMM that throws', () => {
  const broken = (what: string) => () => {
    throw new Error(`${what} broke`)
  }
  const cases: [string, Partial<typeof vmm> & { save?: () => Uint8Array }, RegExp][] = [
    ['in stop', { stop: broken('stop') }, /stopping the guest failed: stop broke/],
    ['in save', { save: broken('save') }, /save of device "cpu" .instance 0. failed: save broke/],
    [
      'in save and resume',
      { save: broken('save'), resume: broken('resume') },
      /resume broke; before that/,
    ],
    [
      'by saving nothing',
      { save: () => undefined as never },
      /gave undefined, expected a Uint8Array/,
    ],
  ]
  it.each(cases)('%s ends the migration with its words', async (_name, calls, sentence) => {
    const received = GuestMemory.openMemfd(BLOCK, BYTES)
    const device = { idstr: 'cpu', save: calls.save ?? (() => new Uint8Array()), load: () => {} }
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory: received,
      devices: [device],
    })
    let resumed = 0
    const count = (): void => {
      resumed += 1
    }
    const resume = calls.resume ?? count
    const source = new MigrationSource({
      memory,
      devices: [device],
      vmm: { stop: calls.stop ?? vmm.stop, resume },
    })
    await expect(source.migrate(destination.uri).result).rejects.toMatchObject({
      code: 'ERR_MULTIFD_VMM',
      message: expect.stringMatching(sentence),
    })
    if (calls.resume === undefined) expect(resumed).toBe(1)
    expect(await endOf(destination.completed)).toMatch(/^ERR_MULTIFD_PEER_CLOSED$/)
    await destination.close()
    await received.close()
  })
})
