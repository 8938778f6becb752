// A migration that a test acts on while it runs, and how it waits for the right moment: by what the
// migration says of itself.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import {
  type Device,
  DirtyLog,
  GuestMemory,
  type Migration,
  MigrationDestination,
  type MigrationProgress,
  MigrationSource,
  type MigrationSourceOptions,
} from '../../src/index.ts'
import { filled, recordingVmm } from './idle-guest.ts'
import { expectSamePages } from './pages.ts'

export const GUEST_BYTES = 16 * 1024 * 1024

/** The guest of these tests, and what it does; see `begun`. */
export interface Special {
  seed: number
  /** Whether all its memory is written in each round, at whatever speed the machine runs. */
  busy?: () => boolean
  peerTimeoutMs?: number
  /** What the destination has, where it differs from the source. */
  devices?: Device[]
}

export interface Run extends AsyncDisposable {
  from: GuestMemory
  to: GuestMemory
  /** Of the guest: 'stop', 'resume'. */
  calls: string[]
  destination: MigrationDestination
  migration: Migration
  /** Every status of the source in order, as it was entered. */
  statuses: string[]
}

/** A guest on its way to a destination. */
export async function begun(
  { seed, busy = () => false, peerTimeoutMs = 10_000, devices = [] }: Special,
  { vmm, ...options }: Partial<MigrationSourceOptions> = {},
): Promise<Run> {
  const [from, to] = [filled(GUEST_BYTES, seed), GuestMemory.allocate('ram', GUEST_BYTES)]
  const recording = recordingVmm()
  const dirty = new DirtyLog(from)
  const write = (): void => {
    if (busy() && recording.calls.length === 0) dirty.mark('ram', 0, GUEST_BYTES)
  }
  const statuses: string[] = []
  const entered = (payload: unknown): void => {
    const { side, to } = payload as { side: string; to: string }
    if (side === 'source') statuses.push(to)
  }
  subscribe('multifd:sync', write)
  subscribe('multifd:state', entered)
  const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    ...{ memory: to, peerTimeoutMs, devices },
  })
  const source = new MigrationSource({
    ...{ memory: from, vmm: { ...vmm, ...recording }, dirty, peerTimeoutMs, ...options },
  })
  const migration = source.migrate(destination.uri)
  migration.result.catch(() => {})
  return {
    ...{ from, to, calls: recording.calls, destination, migration, statuses },
    async [Symbol.asyncDispose]() {
      migration.cancel()
      await migration.result.catch(() => {})
      unsubscribe('multifd:state', entered)
      unsubscribe('multifd:sync', write)
      await destination.close()
      await from.close()
      await to.close()
    },
  }
}

/** The first progress event of which this is true. */
export async function until(
  migration: Migration,
  holds: (event: MigrationProgress) => boolean,
): Promise<MigrationProgress> {
  for await (const event of migration) if (holds(event)) return event
  throw new Error(`the migration is ${migration.status} before that`)
}

/** What was on its way when it was paused has gone. */
export async function settled(migration: Migration): Promise<MigrationProgress> {
  let last = -1
  return await until(migration, ({ multifdBytes }) => {
    const same = multifdBytes === last
    last = multifdBytes
    return same
  })
}

export async function expectArrives({ migration, destination, from, to }: Run): Promise<void> {
  await migration.result
  await destination.completed
  expectSamePages(to.view('ram'), from.view('ram'))
}
