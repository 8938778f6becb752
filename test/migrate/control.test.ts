// A migration under its operator's hands: pause and continue, parameters changed while it runs,
// cancel, and what query answers in each status.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  GuestMemory,
  type Migration,
  MigrationDestination,
  type MigrationParameters,
  type MigrationProgress,
  MigrationSource,
} from '../../src/index.ts'
import { begun, expectArrives, GUEST_BYTES, settled, until } from '../support/controlled.ts'
import { emptyState, filled } from '../support/idle-guest.ts'
import { failure, idleVmm } from '../support/migration.ts'
import { testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { iterable, stateBytes } from '../support/state-devices.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** Its own words: length and PING with its four bytes. */
const KEEP_ALIVE_BYTES = 9

describe('pause', () => {
  it('sends nothing more but signs of life, however long, until continue', async () => {
    const limit = { maxBandwidthBytesPerSecond: 40e6 }
    await using run = await begun({ seed, peerTimeoutMs: 600 }, limit)
    const { migration, calls, destination } = run
    await until(migration, ({ multifdBytes }) => multifdBytes > MIB)
    migration.pause()
    const paused = await settled(migration)
    expect(paused.multifdBytes).toBeLessThan(GUEST_BYTES)
    const signs = (event: MigrationProgress): number =>
      (event.transferredBytes - paused.transferredBytes) / KEEP_ALIVE_BYTES
    // Twice as long as a silent peer may be: one sign goes out four times in that time.
    const later = await until(migration, (event) => signs(event) >= 8)
    expect(later.multifdBytes).toBe(paused.multifdBytes)
    expect(Number.isInteger(signs(later))).toBe(true)
    expect(later.round).toBe(0)
    expect([migration.status, destination.status]).toEqual(['active', 'active'])
    expect(calls).toEqual([])
    migration.continue()
    await expectArrives(run)
    expect(calls).toEqual(['stop'])
  })

  it('before anything was sent keeps it so', async () => {
    await using run = await begun({ seed })
    const { migration, destination } = run
    migration.pause()
    await until(migration, ({ elapsedMs }) => elapsedMs > 300)
    expect(migration.query().ram?.normal ?? 0).toBe(0)
    expect(run.calls).toEqual([])
    migration.continue()
    await expectArrives(run)
    expect(destination.status).toBe('completed')
  })

  it('when it was just decided to stop the guest takes that back', async () => {
    await using run = await begun({ seed })
    const { migration, calls } = run
    let paused = 0
    const decided = (payload: unknown): void => {
      if ((payload as { kind: string }).kind !== 'switchover' || paused > 0) return
      paused += 1
      migration.pause()
    }
    subscribe('multifd:decision', decided)
    try {
      await until(migration, () => paused === 1)
      await settled(migration)
      expect(calls).toEqual([])
      expect(migration.status).toBe('active')
      migration.continue()
      await expectArrives(run)
    } finally {
      unsubscribe('multifd:decision', decided)
    }
  })

  it('holds devices back, too', async () => {
    const state = stateBytes(8 * MIB, seed)
    const disk = { ...iterable('disk', state, 0), load: () => {} }
    await using from = filled(MIB, seed)
    await using to = GuestMemory.allocate('ram', MIB)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: to, devices: [disk] },
    })
    const source = new MigrationSource({
      ...{ memory: from, vmm: idleVmm, devices: [disk], maxBandwidthBytesPerSecond: 20e6 },
    })
    const migration = source.migrate(destination.uri)
    const sent = (event: MigrationProgress): number => event.devices[0]?.sentBytes ?? 0
    await until(migration, (event) => sent(event) > MIB)
    migration.pause()
    await settled(migration)
    const paused = sent(await until(migration, () => true))
    let events = 0
    const later = await until(migration, () => ++events > 4)
    expect(sent(later)).toBe(paused)
    expect(paused).toBeLessThan(state.length)
    migration.continue()
    await migration.result
    await destination.completed
  })

  it('does not keep it from being cancelled', async () => {
    await using run = await begun({ seed }, { maxBandwidthBytesPerSecond: 10e6 })
    await until(run.migration, ({ status }) => status === 'active')
    run.migration.pause()
    run.migration.cancel()
    expect((await failure(run.migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
    expect(run.calls).toEqual([])
  })
})

describe('setParameters', () => {
  it('lifts a limit at once: what would have taken minutes is over', async () => {
    await using run = await begun({ seed }, { maxBandwidthBytesPerSecond: 50_000 })
    const { migration } = run
    const limited = await until(migration, ({ transferredBytes }) => transferredBytes > 100_000)
    expect(limited.transferredBytes).toBeLessThan(4 * MIB)
    migration.setParameters({ maxBandwidthBytesPerSecond: 0 })
    await expectArrives(run)
  })

  it('lowers a limit in the middle of a round', async () => {
    await using run = await begun({ seed }, { maxBandwidthBytesPerSecond: 20e6 })
    const { migration } = run
    await until(migration, ({ multifdBytes }) => multifdBytes > MIB)
    migration.setParameters({ maxBandwidthBytesPerSecond: 50_000 })
    const { transferredBytes } = await settled(migration)
    // What the channels had taken goes out: extents of 20 ms, eight a channel at most.
    expect(transferredBytes).toBeLessThan(12 * MIB)
    migration.setParameters({ maxBandwidthBytesPerSecond: 0 })
    await expectArrives(run)
  })

  it('accepts a longer stop at the next decision', async () => {
    // Nothing is as short as that.
    await using run = await begun({ seed, busy: () => true }, { downtimeLimitMs: 0 })
    await until(run.migration, ({ round }) => round > 3)
    expect(run.calls).toEqual([])
    run.migration.setParameters({ downtimeLimitMs: 2_000_000 })
    await expectArrives(run)
  })

  it('refuses what it does not know, or cannot be, and changes nothing', async () => {
    await using run = await begun({ seed }, { maxBandwidthBytesPerSecond: 50_000 })
    const { migration } = run
    const refused: [object, typeof TypeError | typeof RangeError, RegExp][] = [
      [{ maxBandwith: 1 }, TypeError, /maxBandwith/],
      [{ multifdChannels: 4 }, TypeError, /multifdChannels/],
      [{ maxBandwidthBytesPerSecond: -1 }, RangeError, /maxBandwidthBytesPerSecond/],
      [{ downtimeLimitMs: 0, maxBandwidthBytesPerSecond: 0.5 }, RangeError, /maxBandwidth/],
      [{ maxBandwidthBytesPerSecond: 0, downtimeLimitMs: -5 }, RangeError, /downtimeLimitMs/],
      [{ autoConverge: true }, TypeError, /vmm.throttle/],
    ]
    for (const [parameters, kind, sentence] of refused) {
      const set = (): void => migration.setParameters(parameters as MigrationParameters)
      expect(set).toThrow(kind)
      expect(set).toThrow(sentence)
    }
    const { transferredBytes } = await until(migration, ({ multifdBytes }) => multifdBytes > 1000)
    expect(transferredBytes).toBeLessThan(4 * MIB)
    migration.setParameters({ maxBandwidthBytesPerSecond: 0 })
    await expectArrives(run)
  })
})

describe('cancel', () => {
  it('ends it in setup, before anything was connected', async () => {
    await using run = await begun({ seed })
    run.migration.cancel()
    expect((await failure(run.migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
    expect(run.statuses).toEqual(['setup', 'cancelling', 'cancelled'])
    expect(run.migration.query()).toMatchObject({ status: 'cancelled' })
  })

  it('ends it in a round, and the destination hears of it at once', async () => {
    await using run = await begun({ seed }, { maxBandwidthBytesPerSecond: 10e6 })
    await until(run.migration, ({ multifdBytes }) => multifdBytes > MIB)
    run.migration.cancel()
    expect((await failure(run.migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
    const error = await failure(run.destination.completed)
    expect(error.message).toMatch(/the source gave (up|the migration up)/)
    expect(run.statuses).toEqual(['setup', 'active', 'cancelling', 'cancelled'])
    expect(run.calls).toEqual([])
  })

  it('after the end changes nothing', async () => {
    await using run = await begun({ seed })
    await expectArrives(run)
    run.migration.cancel()
    run.migration.pause()
    run.migration.continue()
    run.migration.setParameters({ maxBandwidthBytesPerSecond: 1 })
    expect(run.migration.status).toBe('completed')
  })
})

describe('query', () => {
  it('answers in every status under the name that QEMU gives it', async () => {
    await using from = filled(GUEST_BYTES, seed)
    await using to = GuestMemory.allocate('ram', GUEST_BYTES)
    const asked: [string, string | undefined][] = []
    let migration: Migration | undefined
    const ask = (where: string): void => void asked.push([where, migration?.query().status])
    const vmm = { stop: () => ask('stop'), resume: () => {} }
    const save = (): Uint8Array => {
      ask('save')
      return new Uint8Array(0)
    }
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      ...{ memory: to, devices: [{ ...emptyState, load: () => ask('load') }] },
    })
    const source = new MigrationSource({ memory: from, vmm, devices: [{ ...emptyState, save }] })
    const inRound = (): void => ask('round')
    subscribe('multifd:round', inRound)
    migration = source.migrate(destination.uri)
    ask('call')
    const result = await migration.result
    unsubscribe('multifd:round', inRound)
    await destination.completed
    expect(asked).toEqual([
      ['call', 'setup'],
      ...Array.from({ length: result.rounds - 1 }, () => ['round', 'active']),
      ...['stop', 'save', 'round', 'load'].map((where) => [where, 'device']),
    ])
    const pages = { normal: result.normalPages, duplicate: result.zeroPages }
    expect(migration.query()).toMatchObject({
      status: 'completed',
      'total-time': Math.round(result.totalTimeMs),
      'setup-time': Math.round(result.setupTimeMs),
      downtime: Math.round(result.downtimeMs),
      ram: {
        ...pages,
        transferred: result.transferredBytes,
        'multifd-bytes': result.multifdBytes,
        'normal-bytes': result.normalBytes,
        'dirty-sync-count': result.dirtySyncCount,
        remaining: 0,
        total: GUEST_BYTES,
      },
    })
    const { ram } = migration.query()
    expect((ram?.['precopy-bytes'] ?? 0) + (ram?.['downtime-bytes'] ?? 0)).toBe(ram?.transferred)
  })

  it('says why it failed', async () => {
    await using run = await begun(
      { seed },
      { maxBandwidthBytesPerSecond: 10e6, reconnectTimeoutMs: 0 },
    )
    await until(run.migration, ({ multifdBytes }) => multifdBytes > MIB)
    await run.destination.close()
    const { message } = await failure(run.migration.result)
    expect(run.migration.query()).toMatchObject({ status: 'failed', 'error-desc': message })
    expect(run.statuses.at(-1)).toBe('failed')
  })
})
