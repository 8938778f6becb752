// A path that breaks while the guest runs: both sides keep what they have, the source connects
// again, and what came is not sent twice. At the end the destination has every page.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MigrationSource, type MigrationSourceOptions } from '../../src/index.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../../src/wire/configuration.ts'
import { formatOwnCapabilities, OWN_MACHINE_NAME } from '../../src/wire/dialect.ts'
import { brokenPath } from '../support/broken-path.ts'
import { until } from '../support/controlled.ts'
import type { Cut, CuttingProxy } from '../support/cutting-proxy.ts'
import { filled, recordingVmm } from '../support/idle-guest.ts'
import { needsIoUring } from '../support/io-uring.ts'
import { failure, idleVmm } from '../support/migration.ts'
import { delayed } from '../support/native-hooks.ts'
import { expectSamePages, randomNumbers, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { Arrived, iterableInPieces, stateBytes } from '../support/state-devices.ts'
import { WriterGuest } from '../support/writer.ts'
import { RawConnection } from './raw-peer.ts'

const MIB = 1024 * 1024
const SIZE = 32 * MIB
/** Every 16th page is zero. */
const pagesOf = (sizeBytes: number): number => (sizeBytes / 16) * 15
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** Runs `work` with `act` called whenever a status is entered. */
async function onStatus<T>(
  act: (side: string, status: string) => void,
  work: () => Promise<T>,
): Promise<T> {
  const entered = (payload: unknown): void => {
    const { side, to } = payload as { side: string; to: string }
    act(side, to)
  }
  subscribe('multifd:state', entered)
  try {
    return await work()
  } finally {
    unsubscribe('multifd:state', entered)
  }
}

describe('a connection that breaks', () => {
  const cases: [Cut, number, number][] = [
    ['reset', 0.02, 2],
    ['end', 0.5, 1],
    ['reset', 0.5, 4],
    ['reset', 0.8, 2],
  ]
  for (const [how, share, multifdChannels] of cases) {
    it(`by ${how} at ${share * 100} % of round 0, ${multifdChannels} channels`, async () => {
      await using path = await brokenPath({ sizeBytes: SIZE, seed, source: { multifdChannels } })
      path.proxy.cutAfter(SIZE * share, how)
      const { transferredBytes } = await path.source.migrate(path.proxy.uri).result
      await path.destination.completed
      expect(path.proxy.cuts).toBe(1)
      expectSamePages(path.to.view('ram'), path.from.view('ram'))
      // What the kernel had taken and not delivered is sent again: socket buffers on both sides.
      expect(transferredBytes).toBeGreaterThan(pagesOf(SIZE))
      expect(transferredBytes).toBeLessThan(2 * SIZE)
    })
  }

  it('does not send again what came: little more than without the break', async () => {
    const sizeBytes = 256 * MIB
    await using path = await brokenPath({ sizeBytes, seed, source: { multifdChannels: 1 } })
    path.proxy.cutAfter(sizeBytes / 2)
    const { transferredBytes } = await path.source.migrate(path.proxy.uri).result
    await path.destination.completed
    expect(path.proxy.cuts).toBe(1)
    expectSamePages(path.to.view('ram'), path.from.view('ram'))
    expect(transferredBytes / pagesOf(sizeBytes)).toBeLessThan(1.3)
  })

  const ways: Partial<MigrationSourceOptions>[] = [
    { multifdChannels: 4 },
    { multifdChannels: 1, zeroCopy: 'on' },
    { multifdChannels: 2, engine: 'io-uring', zeroCopy: 'on' },
    { multifdChannels: 2, compression: 'zlib' },
    { multifdChannels: 2, dirty: 'hash' },
  ]
  it.for(ways)(
    'three times in any round under a writing guest with devices: %o',
    async (way, test) => {
      if (way.engine === 'io-uring') needsIoUring(test, 'sendmsgZeroCopy')
      const random = randomNumbers(seed)
      // Compressing takes its time.
      const sizeBytes = way.compression === undefined ? SIZE : SIZE / 4
      const memory = filled(sizeBytes, seed)
      const arrived = new Arrived('disk')
      const state = stateBytes(2 * MIB, seed)
      const disk = iterableInPieces('disk', state, { restBytes: MIB, pieceBytes: 100_000 })
      using guest = new WriterGuest(memory.view('ram'), seed)
      guest.confine(1024)
      await using path = await brokenPath({
        ...{ sizeBytes, seed, destination: { devices: [arrived] } },
        // The guest does not stop before the path was cut as often as it shall be.
        source: { memory, vmm: guest, devices: [disk], downtimeLimitMs: 0, ...way },
      })
      const cutSoon = (): void => path.proxy.cutAfter(1 + random() * 1.5 * sizeBytes)
      const migration = path.source.migrate(path.proxy.uri)
      let resumed = 0
      const onResume = (): void => {
        resumed += 1
        if (resumed < 3) cutSoon()
        else migration.setParameters({ downtimeLimitMs: 2_000_000 })
      }
      subscribe('multifd:resume', onResume)
      try {
        cutSoon()
        await migration.result
        await path.destination.completed
      } finally {
        unsubscribe('multifd:resume', onResume)
      }
      expect(path.proxy.cuts).toBe(3)
      expect(guest.calls).toEqual(['stop'])
      expectSamePages(path.to.view('ram'), memory.view('ram'))
      expect(arrived.state.equals(state)).toBe(true)
    },
  )
})

describe('a connection that breaks before there is anything to keep', () => {
  const moments: [string, (proxy: CuttingProxy) => void][] = [
    ['in its first bytes', (proxy) => proxy.cutAfter(1)],
    ['before all channels are there', (proxy) => proxy.cutAfter(200)],
  ]
  for (const [when, cut] of moments) {
    it(`${when} fails both sides, or is replaced`, async () => {
      const vmm = recordingVmm()
      await using path = await brokenPath({
        ...{ sizeBytes: SIZE, seed, source: { vmm, reconnectTimeoutMs: 1000 } },
        destination: { reconnectTimeoutMs: 1000, handshakeTimeoutMs: 1000 },
      })
      cut(path.proxy)
      const ends = await Promise.allSettled([
        path.source.migrate(path.proxy.uri).result,
        path.destination.completed,
      ])
      expect(new Set(ends.map(({ status }) => status)).size).toBe(1)
      if (ends[0].status === 'rejected') expect(vmm.calls).toEqual([])
    })
  }

  it('while the destination empties its memory fails both sides', async () => {
    const vmm = recordingVmm()
    await using path = await brokenPath({ sizeBytes: SIZE, seed, source: { vmm } })
    const begin = (): void => path.proxy.cut()
    delayed(path.to.native, 'empty', { begin, end: () => {} })
    const migration = path.source.migrate(path.proxy.uri)
    const [here] = await Promise.all([
      failure(migration.result),
      failure(path.destination.completed),
    ])
    expect(here.message).toMatch(/look for the reason|could not be reached again|ECONNRESET|EPIPE/)
    expect(vmm.calls).toEqual([])
  })
})

describe('a connection that stays away', () => {
  it('fails both sides when their time is over, and the guest runs on', async () => {
    const reconnectTimeoutMs = 100
    await using path = await brokenPath({
      ...{ sizeBytes: SIZE, seed, source: { reconnectTimeoutMs } },
      destination: { reconnectTimeoutMs },
    })
    path.proxy.cutAfter(SIZE / 2)
    const migration = path.source.migrate(path.proxy.uri)
    const error = await onStatus(
      (_side, status) => status === 'reconnecting' && path.proxy.close(),
      () => failure(migration.result),
    )
    expect(error.message).toMatch(/could not be reached again/)
    expect(migration.status).toBe('failed')
    const other = await failure(path.destination.completed)
    expect(other.message).toMatch(/did not connect again/)
  })

  it('is given up when it breaks again and again', async () => {
    const source = { vmm: idleVmm, maxBandwidthBytesPerSecond: 40e6 }
    await using path = await brokenPath({ sizeBytes: SIZE, seed, source })
    const migration = path.source.migrate(path.proxy.uri)
    // Before its destination has said that it resumes, one break is the end.
    await until(migration, ({ multifdBytes }) => multifdBytes > MIB)
    path.proxy.cutEvery(64 * 1024)
    const error = await failure(migration.result)
    expect(error.message).toMatch(/broke \d+ times within one round/)
    expect(path.proxy.cuts).toBeGreaterThan(8)
    expect((await failure(path.destination.completed)).message).toMatch(/gave .*up|again/)
  })

  it('where nobody listens any more fails at once, and says so', async () => {
    const vmm = recordingVmm()
    await using path = await brokenPath({ sizeBytes: SIZE, seed, source: { vmm } })
    path.proxy.cutAfter(SIZE / 2)
    const migration = path.source.migrate(path.proxy.uri)
    const gone: Promise<void>[] = []
    const error = await onStatus(
      (side, status) => {
        if (side === 'source' && status === 'reconnecting') {
          gone.push(path.proxy[Symbol.asyncDispose](), path.destination.close())
        }
      },
      () => failure(migration.result),
    )
    await Promise.all(gone)
    expect(error.message).toMatch(/could not be reached again \(connecting to .*ECONNREFUSED/)
    expect(vmm.calls).toEqual([])
    expect(migration.query()).toMatchObject({ status: 'failed' })
  })

  it('lets the source be cancelled, and its destination be closed', async () => {
    const vmm = recordingVmm()
    await using path = await brokenPath({ sizeBytes: SIZE, seed, source: { vmm } })
    path.proxy.cutAfter(SIZE / 2)
    const migration = path.source.migrate(path.proxy.uri)
    const error = await onStatus(
      (side, status) => {
        if (status !== 'reconnecting') return
        path.proxy.close()
        if (side === 'source') migration.cancel()
        else void path.destination.close()
      },
      () => failure(migration.result),
    )
    expect(error.code).toBe('ERR_MULTIFD_ABORTED')
    expect(migration.status).toBe('cancelled')
    expect((await failure(path.destination.completed)).code).toBe('ERR_MULTIFD_CLOSED')
    expect(vmm.calls).toEqual([])
  })
})

describe('strangers at a destination whose migration runs', () => {
  it('cost it nothing', async () => {
    await using path = await brokenPath({
      ...{ sizeBytes: SIZE, seed, source: { maxBandwidthBytesPerSecond: 40e6 } },
    })
    const { uri } = path.destination
    const migration = path.source.migrate(uri)
    // What the source has sent may stand in front of a destination that is not ready yet.
    await until(migration, () => path.destination.status === 'active')
    await using other = filled(MIB, seed)
    const second = new MigrationSource({ memory: other, vmm: idleVmm, reconnectTimeoutMs: 0 })
    const refused = failure(second.migrate(uri).result)
    const garbage = [Buffer.from('GET / HTTP/1.1\r\n\r\n'), new Uint8Array(4096), new Uint8Array(0)]
    const own = { channels: 2, commit: true, switchoverAck: true, compression: 'none' } as const
    const resume = { ...own, resume: '0'.repeat(32), resuming: '0'.repeat(32) }
    const token = concatBytes(
      encodeHeader(),
      encodeConfiguration({
        ...{ machineName: OWN_MACHINE_NAME, capabilities: formatOwnCapabilities(resume) },
        uuid: new Uint8Array(16),
      }),
    )
    const strangers = await Promise.all(
      [...garbage, token].map(async (bytes) => (await RawConnection.to(uri)).send(bytes)),
    )
    await strangers[0]?.gone
    await strangers.at(-1)?.gone
    expect((await refused).code).toMatch(/PEER_CLOSED|CHANNEL|HANDSHAKE/)
    const { transferredBytes } = await migration.result
    const { receivedBytes } = await path.destination.completed
    expect(receivedBytes).toBe(transferredBytes)
    expectSamePages(path.to.view('ram'), path.from.view('ram'))
    await Promise.all(strangers.map((stranger) => stranger.destroy()))
  })

  it('cannot take the place of a source that lost its connection', async () => {
    await using path = await brokenPath({ sizeBytes: SIZE, seed })
    path.proxy.cutAfter(SIZE / 2)
    await using other = filled(SIZE, seed + 1)
    const thief = new MigrationSource({ memory: other, vmm: idleVmm, reconnectTimeoutMs: 0 })
    const refused: Promise<Error>[] = []
    await onStatus(
      (side, status) => {
        if (side !== 'destination' || status !== 'reconnecting') return
        refused.push(failure(thief.migrate(path.destination.uri).result))
      },
      () => path.source.migrate(path.proxy.uri).result,
    )
    await path.destination.completed
    expect(await Promise.all(refused)).toHaveLength(1)
    expectSamePages(path.to.view('ram'), path.from.view('ram'))
  })
})
