// A migration that its caller ends, at every stage: the guest runs on here, everything is given
// back, and the next attempt works at once, from the same source into the same memory.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { availableParallelism } from 'node:os'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type Device,
  GuestMemory,
  type Migration,
  MigrationDestination,
  MigrationSource,
  type MigrationSourceOptions,
} from '../../src/index.ts'
import { native } from '../../src/kit/native.ts'
import { needsIoUring } from '../support/io-uring.ts'
import { failure, idleVmm } from '../support/migration.ts'
import { delayed, RamStates } from '../support/native-hooks.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'
import { RawDestination } from '../support/raw-destination.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { WriterGuest } from '../support/writer.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

interface RoundTrace {
  round: number
  final: boolean
}

/** Runs `work` with a page written after every round: only the last finds a clean guest. */
async function neverClean<T>(memory: Uint8Array, work: () => Promise<T>): Promise<T> {
  const write = (): void => void memory.fill(memory[0] ? 0 : 1, 0, 1)
  subscribe('multifd:sync', write)
  try {
    return await work()
  } finally {
    unsubscribe('multifd:sync', write)
  }
}

/** Runs `work` with `onRound` called at the begin of every round. */
async function watchingRounds<T>(
  onRound: (payload: RoundTrace) => void,
  work: () => Promise<T>,
): Promise<T> {
  const listener = (payload: unknown): void => onRound(payload as RoundTrace)
  subscribe('multifd:round', listener)
  try {
    return await work()
  } finally {
    unsubscribe('multifd:round', listener)
  }
}

type Stage = 'before start' | 'setup' | 'round 0' | 'round 1' | 'last round' | 'save' | 'load'

describe('AbortSignal', () => {
  const stages: [Stage, calls: string[]][] = [
    ['before start', []],
    ['setup', []],
    ['round 0', []],
    ['round 1', []],
    ['last round', ['stop', 'resume']],
    ['save', ['stop', 'resume']],
    ['load', ['stop', 'resume']],
  ]
  const ways = [
    { engine: 'sendmsg', zeroCopy: 'off' },
    { engine: 'sendmsg', zeroCopy: 'on' },
    { engine: 'io-uring', zeroCopy: 'auto' },
    { engine: 'io-uring', zeroCopy: 'on' },
  ] as const
  for (const { engine, zeroCopy } of ways) {
    for (const [stage, calls] of stages) {
      it(`cancels ${stage}, zeroCopy ${zeroCopy}, ${engine}`, async (context) => {
        if (engine === 'io-uring') needsIoUring(context, 'sendmsgZeroCopy')
        await using from = GuestMemory.allocate('ram', 32 * MIB)
        await using to = GuestMemory.allocate('ram', 32 * MIB)
        fillPages(from.view('ram'), seed)
        using guest = new WriterGuest(from.view('ram'), seed)
        const aborting = new AbortController()
        const abortAt = (now: Stage): void => {
          if (now === stage) aborting.abort(new Error('changed my mind'))
        }
        const devices: Device[] = [
          {
            idstr: 'cpu',
            save: () => {
              abortAt('save')
              return new Uint8Array(8)
            },
            load: () => abortAt('load'),
          },
        ]
        const source = new MigrationSource({
          memory: from,
          vmm: guest,
          devices,
          engine,
          zeroCopy,
          // No stop before round 1 has gone, so that every stage is reached.
          downtimeLimitMs: stage === 'round 1' ? 0 : 2_000_000,
        })
        const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
          memory: to,
          devices,
        })
        abortAt('before start')
        const migration = await watchingRounds(
          ({ round, final }) => abortAt(final ? 'last round' : (`round ${round}` as Stage)),
          async () => {
            const started = source.migrate(destination.uri, { signal: aborting.signal })
            abortAt('setup')
            const error = await neverClean(from.view('ram'), () => failure(started.result))
            expect(error.code).toBe('ERR_MULTIFD_ABORTED')
            expect((error.cause as Error).message).toBe('changed my mind')
            return started
          },
        )
        expect(migration.status).toBe('cancelled')
        expect(guest.calls).toEqual(calls)
        expect(guest.running).toBe(true)
        // Nobody came, or the one who came has gone: either way it is over for this destination.
        await destination.close()
        await failure(destination.completed)

        const next = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to, devices })
        guest.confine(256)
        const again =
          stage === 'round 1'
            ? new MigrationSource({ memory: from, vmm: guest, devices, engine, zeroCopy })
            : source
        await again.migrate(next.uri).result
        await next.completed
        await next.close()
        expectSamePages(to.view('ram'), from.view('ram'))
      })
    }
  }

  it('resumes the guest before anything is torn down', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    fillPages(from.view('ram'), seed)
    const aborting = new AbortController()
    await using peer = await RawDestination.listen({
      at: ({ kind }) => {
        if (kind !== 'vmdescription') return 'answer'
        aborting.abort()
        return 'silence'
      },
    })
    const sockets: number[] = []
    const vmm = {
      stop: () => {},
      resume: () => void sockets.push(native().census().sockets as number),
    }
    const source = new MigrationSource({ memory: from, vmm, multifdChannels: 3 })
    const { result } = source.migrate(peer.uri, { signal: aborting.signal })
    expect((await failure(result)).code).toBe('ERR_MULTIFD_ABORTED')
    expect(sockets).toEqual([3])
    expect(native().census().sockets).toBe(0)
  })

  it('after the migration is over changes nothing', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const aborting = new AbortController()
    const { signal } = aborting
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory: to,
      signal,
    })
    const source = new MigrationSource({ memory: from, vmm: idleVmm })
    const migration = source.migrate(destination.uri, { signal })
    await migration.result
    await destination.completed
    aborting.abort()
    expect(migration.status).toBe('completed')
    expect(destination.status).toBe('completed')
  })

  it('of the destination ends it: nobody listens, the source runs on', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const aborting = new AbortController()
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
      memory: to,
      signal: aborting.signal,
    })
    aborting.abort()
    expect((await failure(destination.completed)).code).toBe('ERR_MULTIFD_ABORTED')
    expect(destination.status).toBe('cancelled')
    const source = new MigrationSource({ memory: from, vmm: idleVmm })
    const error = await failure(source.migrate(destination.uri).result)
    expect(error.code).toBe('ERR_MULTIFD_CHANNEL')
    expect(error.errno).toBe('ECONNREFUSED')
    expect(error.message).toContain('is a destination listening there?')
  })
})

describe('a stalled peer with megabytes in flight', () => {
  const ways: Partial<MigrationSourceOptions>[] = [
    { zeroCopy: 'off', multifdChannels: 1 },
    { zeroCopy: 'off', multifdChannels: 4 },
    { zeroCopy: 'on', multifdChannels: 1 },
    { zeroCopy: 'on', multifdChannels: 4 },
    { zeroCopy: 'auto', engine: 'io-uring', multifdChannels: 4 },
    { zeroCopy: 'on', engine: 'io-uring', multifdChannels: 4 },
  ]
  /**
   * Returns when bytes stand in the kernel and no more go out: on loopback up to 2 MiB a channel,
   * of zero-copy sends less, and of a probe less than a record, which counts when it is sent.
   */
  async function stalled(migration: Migration, zeroCopy: string | undefined): Promise<void> {
    const leastBytes = zeroCopy === 'auto' ? 4096 : MIB / 4
    let sent = -1
    for await (const { transferredBytes } of migration) {
      if (transferredBytes > leastBytes && transferredBytes === sent) return
      sent = transferredBytes
    }
  }

  for (const way of ways) {
    for (const reads of [true, false]) {
      const who = reads ? 'answers on the main channel only' : 'reads nothing at all'
      it(`that ${who}: cancelled, ${Object.values(way).join(', ')} channels`, async (context) => {
        if (way.engine === 'io-uring') needsIoUring(context, 'sendmsgZeroCopy')
        await using from = GuestMemory.allocate('ram', 64 * MIB)
        fillPages(from.view('ram'), seed)
        using guest = new WriterGuest(from.view('ram'), seed)
        await using peer = await RawDestination.listen({ reads, readsChannels: false })
        const aborting = new AbortController()
        const source = new MigrationSource({ memory: from, vmm: guest, ...way })
        const migration = source.migrate(peer.uri, { signal: aborting.signal })
        await stalled(migration, way.zeroCopy)
        aborting.abort()
        expect((await failure(migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
        const { census, threads } = held()
        expect(census).toMatchObject({ sockets: 0, threads: 0, userfaultFds: 0, leakedRecords: 0 })
        expect(threads).toEqual([])
        expect(guest.running).toBe(true)
        expect(guest.calls).toEqual([])
      })
    }
  }

  for (const [how, zeroCopy] of [
    ['cancelled', 'off'],
    ['one channel reset', 'on'],
  ] as const) {
    it(`in the last round, ${how}: the guest runs again before anybody is waited for`, async () => {
      await using from = GuestMemory.allocate('ram', 64 * MIB)
      fillPages(from.view('ram'), seed)
      await using peer = await RawDestination.listen()
      const aborting = new AbortController()
      // As many as work at a time: one that rests notices a reset with its next SYNC.
      const multifdChannels = Math.min(4, availableParallelism())
      const threads: (number | undefined)[] = []
      let stopped = false
      const vmm = {
        stop: () => {
          for (const channel of peer.channels) channel.pause()
          fillPages(from.view('ram'), seed + 1)
          stopped = true
        },
        resume: () => void threads.push(native().census().threads),
      }
      const source = new MigrationSource({
        ...{ memory: from, vmm, zeroCopy, multifdChannels, downtimeLimitMs: 2_000_000 },
      })
      const migration = source.migrate(peer.uri, { signal: aborting.signal })
      let sent = -1
      for await (const { transferredBytes } of migration) {
        if (stopped && transferredBytes === sent) break
        sent = transferredBytes
      }
      const cancelled = how === 'cancelled'
      if (cancelled) aborting.abort()
      else peer.resetChannel()
      await nextTurn()
      if (cancelled) expect(threads).toEqual([multifdChannels])
      const { code } = await failure(migration.result)
      expect(code).toMatch(cancelled ? /ABORTED$/ : /(PEER_CLOSED|CHANNEL)$/)
      // Those in front of the stalled peer had not ended yet.
      expect(threads).toEqual([expect.toSatisfy((count) => count >= multifdChannels - 1)])
    })
  }
})

describe('work that a cancelled migration has begun', () => {
  it('of the VMM: stop and resume are never called at the same time', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using peer = await RawDestination.listen()
    const aborting = new AbortController()
    const calls: string[] = []
    const vmm = {
      stop: async () => {
        calls.push('stop begins')
        aborting.abort()
        for (let turn = 0; turn < 20; turn += 1) await nextTurn()
        calls.push('stop ends')
      },
      resume: () => void calls.push('resume'),
    }
    const source = new MigrationSource({ memory: from, vmm })
    await failure(source.migrate(peer.uri, { signal: aborting.signal }).result)
    expect(calls).toEqual(['stop begins', 'stop ends', 'resume'])
  })

  it('of the source: scans end before it says that it is over', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using peer = await RawDestination.listen()
    const aborting = new AbortController()
    const order: string[] = []
    using rams = new RamStates()
    await watchingRounds(
      ({ round }) => {
        const ram = rams.made[0]
        if (round !== 0 || ram === undefined) return
        // The scan that begins round 1.
        delayed(ram, 'beginRound', {
          begin: () => aborting.abort(),
          end: () => void order.push('scanned'),
        })
      },
      async () => {
        const source = new MigrationSource({ memory: from, vmm: idleVmm })
        await failure(source.migrate(peer.uri, { signal: aborting.signal }).result)
        order.push('over')
      },
    )
    expect(order).toEqual(['scanned', 'over'])
  })

  it('of the destination: the memory is not emptied behind the next attempt', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const order: string[] = []
    const emptying = new Promise<void>((begin) => {
      delayed(to.native, 'empty', { begin, end: () => void order.push('emptied') })
    })
    const destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const source = new MigrationSource({ memory: from, vmm: idleVmm })
    const sent = failure(source.migrate(destination.uri).result)
    await emptying
    await destination.close()
    order.push('closed')
    expect(order).toEqual(['emptied', 'closed'])
    expect((await failure(destination.completed)).code).toBe('ERR_MULTIFD_CLOSED')
    expect((await sent).code).toBe('ERR_MULTIFD_PEER_CLOSED')
  })

  it('two sources of one memory: the second is refused, and the first arrives', async () => {
    await using from = GuestMemory.allocate('ram', MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    fillPages(from.view('ram'), seed)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    await using peer = await RawDestination.listen()
    const first = new MigrationSource({ memory: from, vmm: idleVmm })
    const second = new MigrationSource({ memory: from, vmm: idleVmm })
    const winner = first.migrate(destination.uri)
    expect(() => first.migrate(peer.uri)).toThrow('is running already')
    const outcomes = await Promise.allSettled([
      winner.result,
      (async () => await second.migrate(peer.uri).result)(),
    ])
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})
