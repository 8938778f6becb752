// From the decision to stop to the hand-over: what holds it up, what comes in which order on the
// main channel, and that every SYNC has its collector.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  GuestMemory,
  MigrationDestination,
  type MigrationProgress,
  MigrationSource,
  type SaveStateHandler,
} from '../../src/index.ts'
import { MIG_CMD_SWITCHOVER_START } from '../../src/wire/constants.ts'
import { OWN_COMMAND_COMMIT } from '../../src/wire/dialect.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { emptyState, filled, recordingVmm } from '../support/idle-guest.ts'
import { failure, migrateOnce } from '../support/migration.ts'
import { expectSamePages, testSeed } from '../support/pages.ts'
import { RawDestination } from '../support/raw-destination.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { Arrived, inPieces, iterable, stateBytes } from '../support/state-devices.ts'
import { WriterGuest } from '../support/writer.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** The first progress event of which this is true. */
async function until(
  migration: AsyncIterable<MigrationProgress>,
  holds: (event: MigrationProgress) => boolean,
): Promise<MigrationProgress> {
  for await (const event of migration) if (holds(event)) return event
  throw new Error('the migration ended before that')
}

describe('a destination that is not ready for the switchover', () => {
  it('holds the stop up, which the source says, until each of its devices is', async () => {
    await using from = filled(4 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 4 * MIB)
    const vmm = recordingVmm()
    const acks: (() => void)[] = []
    const late = (idstr: string): SaveStateHandler => ({
      ...{ idstr, complete: () => new Uint8Array(1), load: () => {} },
      switchoverAck: () => new Promise<void>((resolve) => acks.push(resolve)),
    })
    const devices = [late('gpu'), late('nic')]
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: to, devices },
    })
    const migration = new MigrationSource({ memory: from, vmm, devices }).migrate(destination.uri)
    const waits = ({ decision }: MigrationProgress): boolean =>
      decision?.includes('the destination has not said yet that it could take the guest') === true
    await until(migration, waits)
    acks[0]?.()
    const { round } = await until(migration, waits)
    await until(migration, (event) => event.round > round + 1)
    expect(migration.status).toBe('active')
    expect(vmm.calls).toEqual([])
    acks[1]?.()
    await migration.result
    expect(vmm.calls).toEqual(['stop'])
    await destination.completed
    expectSamePages(to.view('ram'), from.view('ram'))
  })

  it('is not waited for when the migration is cancelled', async () => {
    await using from = filled(MIB, seed)
    await using to = GuestMemory.allocate('ram', MIB)
    const vmm = recordingVmm()
    const never: SaveStateHandler = {
      ...{ idstr: 'gpu', complete: () => new Uint8Array(1), load: () => {} },
      switchoverAck: () => new Promise<void>(() => {}),
    }
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: to, devices: [never] },
    })
    const source = new MigrationSource({ memory: from, vmm, devices: [never] })
    const migration = source.migrate(destination.uri)
    await until(migration, ({ decision }) => decision?.includes('has not said yet') === true)
    migration.cancel()
    expect((await failure(migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
    expect((await failure(destination.completed)).code).toBe('ERR_MULTIFD_PEER_CLOSED')
    expect(vmm.calls).toEqual([])
  })
})

describe('pauseBeforeSwitchover', () => {
  /** A guest that writes and is stopped, before anything of the last round is sent. */
  async function stoppedGuest() {
    const [from, to] = [filled(4 * MIB, seed), GuestMemory.allocate('ram', 4 * MIB)]
    const guest = new WriterGuest(from.view('ram'), seed)
    guest.confine(64)
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: to, devices: [emptyState], peerTimeoutMs: 600 },
    })
    const source = new MigrationSource({
      ...{ memory: from, vmm: guest, devices: [emptyState], pauseBeforeSwitchover: true },
      peerTimeoutMs: 600,
    })
    const migration = source.migrate(destination.uri)
    // Without effect: there is nothing that could go on yet.
    migration.continue()
    return {
      ...{ from, to, guest, destination, migration, source },
      async [Symbol.asyncDispose]() {
        await destination.close()
        guest[Symbol.dispose]()
        await from.close()
        await to.close()
      },
    }
  }

  it('waits with the guest stopped, longer than a silent peer may be, for continue', async () => {
    await using run = await stoppedGuest()
    const { migration, guest, destination } = run
    const paused = await until(migration, ({ status }) => status === 'pre-switchover')
    expect(guest.calls).toEqual(['stop'])
    expect(migration.query()).toMatchObject({ status: 'pre-switchover', ram: { remaining: 0 } })
    await until(migration, ({ elapsedMs }) => elapsedMs > paused.elapsedMs + 1400)
    expect(migration.status).toBe('pre-switchover')
    expect(destination.status).toBe('active')
    migration.continue()
    const { downtimeMs, downtimeParts } = await migration.result
    await destination.completed
    expect(guest.calls).toEqual(['stop'])
    const parts = Object.values(downtimeParts).reduce((sum, part) => sum + part, 0)
    expect(downtimeMs).toBeGreaterThan(1400)
    expect(parts).toBeLessThan(downtimeMs - 1300)
    expectSamePages(run.to.view('ram'), run.from.view('ram'))
  })

  it('lets the guest run on here when it is cancelled there', async () => {
    await using run = await stoppedGuest()
    const { migration, guest, destination } = run
    await until(migration, ({ status }) => status === 'pre-switchover')
    migration.cancel()
    expect((await failure(migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
    expect(migration.status).toBe('cancelled')
    expect(guest.calls).toEqual(['stop', 'resume'])
    expect(guest.running).toBe(true)
    await failure(destination.completed)
  })

  it('lets the guest run on here when the destination leaves', async () => {
    await using run = await stoppedGuest()
    const { migration, guest, destination } = run
    await until(migration, ({ status }) => status === 'pre-switchover')
    await destination.close()
    expect((await failure(migration.result)).code).toBe('ERR_MULTIFD_PEER_CLOSED')
    expect(guest.calls).toEqual(['stop', 'resume'])
  })
})

describe('the main stream of a migration', () => {
  it('begins devices before pages, and says that the guest stopped before what came of it', async () => {
    await using from = filled(MIB, seed)
    const words: string[] = []
    const at = (event: MainStreamEvent): 'answer' => {
      if (event.kind === 'section-start') words.push(`ram ${event.type}`)
      if (event.kind === 'device-section') words.push(`${event.idstr} ${event.type}`)
      if (event.kind === 'device-state') words.push(`${event.idstr} full`)
      if (event.kind !== 'command') return 'answer'
      if (event.command === MIG_CMD_SWITCHOVER_START) words.push('switchover-start')
      if (event.command === OWN_COMMAND_COMMIT) words.push('commit')
      return 'answer'
    }
    await using peer = await RawDestination.listen({ at })
    const devices = [
      emptyState,
      inPieces('gpu', stateBytes(MIB, seed), 100_000),
      iterable('disk', stateBytes(100_000, seed), 1000),
    ]
    await new MigrationSource({ memory: from, vmm: recordingVmm(), devices }).migrate(peer.uri)
      .result
    const once = words.filter((word, index) => word !== words[index - 1])
    const stop = once.indexOf('switchover-start')
    expect(once.slice(0, 3)).toEqual(['ram start', 'gpu start', 'disk start'])
    expect(new Set(once.slice(3, stop))).toEqual(new Set(['disk part', 'ram part']))
    expect(once.slice(stop)).toEqual([
      ...['switchover-start', 'ram end', 'gpu end', 'disk end', 'cpu full', 'commit'],
    ])
  })
})

describe('a SYNC', () => {
  it('is sent once per round and channel, the last scan’s is the last, and each is collected', async () => {
    await using from = filled(8 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 8 * MIB)
    using guest = new WriterGuest(from.view('ram'), seed)
    guest.confine(64)
    const seen = { source: [] as number[], destination: [] as number[] }
    const count = (payload: unknown): void => {
      const { side, sync } = payload as { side: 'source' | 'destination'; sync: number }
      seen[side].push(sync)
    }
    subscribe('multifd:sync', count)
    const arrived = new Arrived('gpu')
    try {
      const { result, incoming } = await migrateOnce({
        ...{ from, to, vmm: guest },
        source: { multifdChannels: 3, devices: [inPieces('gpu', stateBytes(MIB, seed), 5000)] },
        destination: { devices: [arrived] },
      })
      const syncs = result.rounds + 1 // and the one of the set-up
      expect(incoming.syncs).toBe(syncs)
      expect(incoming.channels.map((channel) => channel.syncs)).toEqual([syncs, syncs, syncs])
      expect(seen.source).toEqual(Array.from({ length: result.rounds }, (_, index) => index + 1))
      expect(seen.destination).toEqual(Array.from({ length: syncs }, (_, index) => index + 1))
      // Every pass but the first begins by one look at the dirty log, and the stop takes one more.
      expect(result.dirtySyncCount).toBe(result.rounds + 1)
      const packets = (side: readonly { packets: number }[]) => side.map(({ packets }) => packets)
      expect(packets(incoming.channels)).toEqual(packets(result.channels))
    } finally {
      unsubscribe('multifd:sync', count)
    }
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})
