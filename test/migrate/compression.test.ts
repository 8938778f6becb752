// Migrations that compress: every page arrives, the destination learns the method from the source,
// and whatever goes wrong costs no more than without compression.

import { randomFillSync } from 'node:crypto'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  DirtyLog,
  GuestMemory,
  MigrationDestination,
  MigrationSource,
  type MigrationSourceOptions,
} from '../../src/index.ts'
import { native } from '../../src/kit/native.ts'
import { compressionsHere, FLAGS } from '../payload/channels.ts'
import { DestinationChild } from '../support/child.ts'
import { emptyState, filled } from '../support/idle-guest.ts'
import { needsIoUring } from '../support/io-uring.ts'
import { failure, idleVmm, migrateOnce } from '../support/migration.ts'
import { expectSamePages, testSeed } from '../support/pages.ts'
import { RawDestination } from '../support/raw-destination.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { WriterGuest } from '../support/writer.ts'
import { migrateWritingGuest } from '../support/writing-guest.ts'
import { GuardedGuest } from './guarded-guest.ts'
import { attempt, expectRefusal, type Script } from './incoming-attempt.ts'
import * as own from './own-stream-parts.ts'

const MIB = 1024 * 1024
const seed = testSeed()
const methods = compressionsHere()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** Memory that no method makes smaller: what is sent stands in the kernel. */
function incompressible(sizeBytes: number): GuestMemory {
  const memory = GuestMemory.allocate('ram', sizeBytes)
  randomFillSync(memory.view('ram'))
  return memory
}

const ways = methods.flatMap((compression) =>
  [1, 4].flatMap((multifdChannels) =>
    (['userfaultfd', 'hash'] as const).map((dirty) => ({ compression, multifdChannels, dirty })),
  ),
)
describe('a guest under a full-speed writer', () => {
  it.each(ways)('arrives whole: $compression, $multifdChannels channels, $dirty', async (way) => {
    const block = { idstr: 'ram', sizeBytes: 16 * MIB }
    // A busy machine compresses the last mebibyte within this; zlib takes ten times as long.
    const options = { downtimeLimitMs: way.compression === 'zlib' ? 1000 : 100, ...way }
    const outcome = await migrateWritingGuest({ from: block, to: block, options, seed })
    const { result, incoming, progress } = outcome
    expect(result).toMatchObject({ compression: way.compression, dirtyTracker: way.dirty })
    expect(incoming.compression).toBe(way.compression)
    expect(result.normalBytes).toBe(result.normalPages * 4096)
    expect(result.multifdBytes).toBeLessThan(result.normalBytes)
    expect(incoming.normalPages).toBe(result.normalPages)
    const { compression, normalBytes, multifdBytes } = result
    expect(progress.at(-1)).toMatchObject({ compression, normalBytes, multifdBytes })
  })
})

describe('compressed pages', () => {
  it.for(['sendmsg', 'io-uring', 'auto'] as const)(
    'are sent plain with zeroCopy auto and engine %s, and it is said why',
    async (engine, context) => {
      if (engine === 'io-uring') needsIoUring(context, 'ioUring')
      await using from = filled(4 * MIB, seed)
      await using to = GuestMemory.allocate('ram', 4 * MIB)
      const { result } = await migrateOnce({ from, to, source: { compression: 'zlib', engine } })
      expectSamePages(to.view('ram'), from.view('ram'))
      expect(result).toMatchObject({ zeroCopy: 'auto', compression: 'zlib' })
      if (engine === 'auto') {
        const reason = 'no registered buffers: compressed pages are copies'
        expect(result).toMatchObject({ engine: 'sendmsg', engineReason: reason })
      } else {
        expect(result.engine).toBe(engine)
      }
      for (const channel of result.channels) {
        expect(channel).toMatchObject({
          sendMode: 'plain',
          zeroCopyMode: 'off',
          flushReason: 'compressed pages are copies',
          zeroCopyTriedBytes: 0,
          unreleasedHighBytes: 0,
        })
      }
    },
  )

  it.each(methods)('of %s are as small as the level says', async (compression) => {
    await using from = filled(4 * MIB, seed)
    const bytes: number[] = []
    for (const compressionLevel of [1, 9, undefined]) {
      await using to = GuestMemory.allocate('ram', 4 * MIB)
      const level = compressionLevel === undefined ? {} : { compressionLevel }
      const source = { compression, multifdChannels: 1, ...level }
      bytes.push((await migrateOnce({ from, to, source })).result.multifdBytes)
      expectSamePages(to.view('ram'), from.view('ram'))
    }
    const [fast = 0, small = 0, unset = 0] = bytes
    expect(small).toBeLessThan(fast)
    expect(unset).toBe(fast)
  })

  it('count in full when it is predicted how long the rest takes', async () => {
    const dirtyBytes = 32 * MIB
    await using from = GuestMemory.allocate('ram', 2 * dirtyBytes)
    from.view('ram').fill(7)
    await using to = GuestMemory.allocate('ram', 2 * dirtyBytes)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const dirty = new DirtyLog(from)
    const aborting = new AbortController()
    // Half of the memory is written behind every round. At the rate of compressed bytes it would
    // take far longer than the limit, at that of the pages that they hold far less.
    const onSync = (payload: unknown): void => {
      dirty.mark('ram', 0, dirtyBytes)
      if ((payload as { sync: number }).sync > 30) aborting.abort(new Error('does not converge'))
    }
    const source = new MigrationSource({
      ...{ memory: from, vmm: idleVmm, dirty, compression: 'zlib' },
      downtimeLimitMs: 1000,
    })
    subscribe('multifd:sync', onSync)
    try {
      await source.migrate(destination.uri, { signal: aborting.signal }).result
    } finally {
      unsubscribe('multifd:sync', onSync)
    }
    await destination.completed
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})

/** Once megabytes stand in the kernel, as the peer reads none of them. */
async function stalled(migration: AsyncIterable<{ transferredBytes: number }>): Promise<void> {
  let sent = -1
  for await (const { transferredBytes } of migration) {
    if (transferredBytes > MIB / 4 && transferredBytes === sent) return
    sent = transferredBytes
  }
}

async function expectArrives(options: MigrationSourceOptions): Promise<void> {
  await using to = GuestMemory.allocate('ram', options.memory.totalBytes)
  await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
    memory: to,
    devices: options.devices ?? [],
  })
  await new MigrationSource(options).migrate(destination.uri).result
  await destination.completed
  expectSamePages(to.view('ram'), options.memory.view('ram'))
}

describe('a migration that ends early', () => {
  const trouble: Partial<MigrationSourceOptions>[] = methods.flatMap((compression) => [
    { compression, engine: 'sendmsg', dirty: 'userfaultfd' },
    { compression, engine: 'io-uring', dirty: 'hash' },
  ])
  const named = trouble.map((way) => [Object.values(way).join(', '), way] as const)

  it.for(named)('cancelled while the peer reads nothing: %s', async ([, way], context) => {
    if (way.engine === 'io-uring') needsIoUring(context, 'ioUring')
    await using from = incompressible(32 * MIB)
    using guest = new WriterGuest(from.view('ram'), seed)
    guest.confine(64)
    const options = { memory: from, vmm: guest, multifdChannels: 4, ...way }
    {
      await using peer = await RawDestination.listen({ readsChannels: false })
      const aborting = new AbortController()
      const migration = new MigrationSource(options).migrate(peer.uri, { signal: aborting.signal })
      await stalled(migration)
      aborting.abort()
      expect((await failure(migration.result)).code).toBe('ERR_MULTIFD_ABORTED')
      expect(held().census).toMatchObject({ sockets: 0, threads: 0, leakedRecords: 0 })
    }
    expect(guest.calls).toEqual([])
    await expectArrives(options)
  })

  it.for(named)('its destination is killed: %s', async ([, way], context) => {
    if (way.engine === 'io-uring') needsIoUring(context, 'ioUring')
    await using child = new DestinationChild({ sizeBytes: 32 * MIB, holdsLoad: true })
    await using from = incompressible(32 * MIB)
    using guest = new WriterGuest(from.view('ram'), seed)
    guest.confine(64)
    const options = { memory: from, vmm: guest, devices: [emptyState], ...way }
    const { uri } = await child.report('listening')
    const migration = new MigrationSource({ ...options, downtimeLimitMs: 2_000_000 }).migrate(uri)
    const failed = failure(migration.result)
    await child.report('loading')
    child.kill()
    expect(['ERR_MULTIFD_PEER_CLOSED', 'ERR_MULTIFD_CHANNEL']).toContain((await failed).code)
    expect(guest.calls).toEqual(['stop', 'resume'])
    await expectArrives(options)
  })
})

describe('a build without the method', () => {
  /** As a build that has no zlib. */
  async function withoutZlib<T>(work: () => Promise<T>): Promise<T> {
    const addon = native()
    const original = addon.compressionMethods
    addon.compressionMethods = () =>
      original().map((method) => {
        return method.name === 'zlib' ? { ...method, reason: 'zlib is not there: get it' } : method
      })
    try {
      return await work()
    } finally {
      addon.compressionMethods = original
    }
  }

  it('says at the source how to get it', async () => {
    await using memory = GuestMemory.allocate('ram', MIB)
    await withoutZlib(async () => {
      const make = () => new MigrationSource({ memory, vmm: idleVmm, compression: 'zlib' })
      expect(make).toThrow(expect.objectContaining({ code: 'ERR_MULTIFD_UNSUPPORTED' }))
      expect(make).toThrow('zlib is not there: get it')
    })
  })

  it('refuses a source that compresses so, before memory is touched', async () => {
    await using from = filled(MIB, seed)
    await using to = filled(MIB, seed + 1)
    const untouched = Uint8Array.from(to.view('ram'))
    const source = new MigrationSource({ memory: from, vmm: idleVmm, compression: 'zlib' })
    await withoutZlib(async () => {
      await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
      const sent = failure(source.migrate(destination.uri).result)
      const error = await failure(destination.completed)
      expect(error).toMatchObject({ code: 'ERR_MULTIFD_UNSUPPORTED' })
      expect(error.message).toContain('zlib is not there: get it')
      expect((await sent).code).toBe('ERR_MULTIFD_PEER_CLOSED')
    })
    expectSamePages(to.view('ram'), untouched)
  })
})

describe('a source whose packets are not what it announced', () => {
  const flags = FLAGS.zlib
  const compressed = own.ramPacket({ flags, nextPacketSize: 4096 })
  const cases = [
    ['plain after zlib', 'zlib', own.ramPacket(), 'PROTOCOL', /bits 0x0, expected 0x2/],
    ['zlib after none', 'none', compressed, 'UNSUPPORTED', /flags 0x2, .*multifd-compression/],
    ['damaged zlib', 'zlib', compressed, 'PROTOCOL', /zlib payload/],
  ] as const
  it.each(cases)('is refused: %s', async (_name, compression, packet, code, sentence) => {
    const guest = new GuardedGuest()
    await using _memory = guest.memory
    const play = async (script: Script): Promise<void> => {
      await script.connect(own.opening({ compression }), own.ramStart())
      // A payload is read together with the next header.
      await script.connect(own.introduction(0), own.sync(), packet, own.sync())
    }
    const outcome = await attempt({ guest, play })
    expectRefusal(outcome, `ERR_MULTIFD_${code}`, sentence)
  })
})
