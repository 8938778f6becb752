// What a caller can choose, end to end: addresses, blocks, devices, limits, thresholds; and what he
// is told while it runs.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { closeSync, existsSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  type Device,
  DirtyLog,
  GuestMemory,
  MigrationDestination,
  MigrationSource,
  type MigrationStatus,
} from '../../src/index.ts'
import { failure, idleVmm, migrateOnce } from '../support/migration.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { wasmMemory } from '../support/wasm-memory.ts'
import { WriterGuest } from '../support/writer.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

function filled(sizeBytes = 8 * MIB): GuestMemory {
  const memory = GuestMemory.allocate('ram', sizeBytes)
  fillPages(memory.view('ram'), seed)
  return memory
}

describe('addresses', () => {
  const path = join(tmpdir(), `multifd-test-${process.pid}.sock`)
  for (const uri of [`unix:${path}`, 'tcp:[::1]:0', 'tcp:127.0.0.1:0', 'tcp:localhost:0']) {
    for (const zeroCopy of ['off', 'on'] as const) {
      if (uri.startsWith('unix:') && zeroCopy === 'on') continue
      it(`migrates over ${uri.replace(path, 'PATH')}, zeroCopy ${zeroCopy}`, async () => {
        await using from = filled()
        await using to = GuestMemory.allocate('ram', 8 * MIB)
        await migrateOnce({ from, to, uri, source: { zeroCopy, multifdChannels: 3 } })
        expectSamePages(to.view('ram'), from.view('ram'))
        expect(existsSync(path)).toBe(false)
      })
    }
  }

  it('says that a UNIX socket has no zero-copy, and lets the guest run', async () => {
    await using from = filled(MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const error = await failure(
      migrateOnce({ from, to, uri: `unix:${path}`, source: { zeroCopy: 'on' } }),
    )
    expect(error.code).toBe('ERR_MULTIFD_UNSUPPORTED')
    expect(error.message).toContain("zeroCopy 'off'")
  })
})

describe('RAM blocks', () => {
  it('carries several of different kinds, listed in another order at the other side', async () => {
    await using from = GuestMemory.of([
      { idstr: 'pc.ram', sizeBytes: 4 * MIB },
      { idstr: 'vga', wasmMemory: wasmMemory(4 * MIB), offsetBytes: MIB, sizeBytes: 2 * MIB },
      { idstr: 'rom', memfd: true, sizeBytes: 4096 },
    ])
    await using to = GuestMemory.of([
      { idstr: 'rom', sizeBytes: 4096 },
      { idstr: 'vga', memfd: true, sizeBytes: 2 * MIB },
      { idstr: 'pc.ram', memfd: true, sizeBytes: 4 * MIB },
    ])
    for (const { idstr } of from.blocks) fillPages(from.view(idstr), seed + idstr.length)
    await migrateOnce({ from, to, source: { multifdChannels: 2 } })
    for (const { idstr } of from.blocks) expectSamePages(to.view(idstr), from.view(idstr))
  })

  it('are not read where nothing was ever written: 64 GiB with a page at each end', async () => {
    const sizeBytes = 64 * 1024 * MIB
    const paths = ['from', 'to'].map((side) => join(tmpdir(), `multifd-${process.pid}-${side}`))
    const [fromPath = '', toPath = ''] = paths
    // Files, as the test reaches into memory that is larger than a view.
    await using from = GuestMemory.openFile('ram', fromPath, sizeBytes)
    await using to = GuestMemory.openFile('ram', toPath, sizeBytes)
    const [fromFile, toFile] = paths.map((path) => openSync(path, 'r+')) as [number, number]
    const ends = [0, sizeBytes - 4096]
    for (const at of ends) writeSync(fromFile, 'guest', at)
    const { result } = await migrateOnce({ from, to, source: { dirty: 'userfaultfd' } })
    for (const at of ends) {
      const got = Buffer.alloc(5)
      readSync(toFile, got, 0, 5, at)
      expect(got.toString()).toBe('guest')
    }
    expect(result.normalPages).toBe(2)
    expect(result.zeroPages).toBe(0)
    expect(await to.populatedBytes()).toBe(2 * 4096)
    expect(await from.populatedBytes()).toBe(2 * 4096)
    for (const file of [fromFile, toFile]) closeSync(file)
    for (const path of paths) rmSync(path)
  })

  it('that are empty altogether arrive', async () => {
    await using from = GuestMemory.allocate('ram', 64 * MIB)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    to.view('ram').fill(1, 0, MIB)
    const { result } = await migrateOnce({ from, to })
    expect(result.normalPages).toBe(0)
    expect(await to.populatedBytes()).toBe(0)
  })

  it('travel over 255 channels, too', async () => {
    await using from = filled(4 * MIB)
    await using to = GuestMemory.allocate('ram', 4 * MIB)
    const { result } = await migrateOnce({ from, to, source: { multifdChannels: 255 } })
    expect(result.channels).toHaveLength(255)
    expectSamePages(to.view('ram'), from.view('ram'))
  })

  it('refuses other blocks by name and size', async () => {
    await using from = filled(MIB)
    await using to = GuestMemory.allocate('ram', 2 * MIB)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const source = new MigrationSource({ memory: from, vmm: idleVmm })
    const sent = failure(source.migrate(destination.uri).result)
    const error = await failure(destination.completed)
    expect(error.code).toBe('ERR_MULTIFD_PROTOCOL')
    expect(error.message).toContain('"ram" 1048576, expected "ram" 2097152')
    expect((await sent).code).toBe('ERR_MULTIFD_PEER_CLOSED')
  })
})

describe('devices', () => {
  it('are saved after the stop and loaded after all RAM, in order, by idstr and instance', async () => {
    await using from = filled(MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const log: string[] = []
    const device = (idstr: string, instanceId: number, versionId: number): Device => ({
      idstr,
      instanceId,
      versionId,
      save: () => {
        log.push(`save ${idstr}/${instanceId}`)
        return Buffer.from(`${idstr} ${instanceId}`)
      },
      load: async (state, version) => {
        expectSamePages(to.view('ram'), from.view('ram'))
        log.push(`load ${idstr}/${instanceId} v${version} ${Buffer.from(state)}`)
      },
    })
    const vmm = { stop: () => void log.push('stop'), resume: () => void log.push('resume') }
    await migrateOnce({
      from,
      to,
      vmm,
      source: { devices: [device('nic', 0, 2), device('nic', 1, 2), device('cpu', 0, 1)] },
      destination: { devices: [device('cpu', 0, 1), device('nic', 1, 3), device('nic', 0, 2)] },
    })
    expect(log).toEqual([
      'stop',
      'save nic/0',
      'save nic/1',
      'save cpu/0',
      'load nic/0 v2 nic 0',
      'load nic/1 v2 nic 1',
      'load cpu/0 v1 cpu 0',
    ])
  })

  it('may have large and empty states', async () => {
    await using from = filled(MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const large = Buffer.alloc(5 * MIB, 'state')
    const got: Uint8Array[] = []
    const save = [large, new Uint8Array(0)]
    const devices = save.map((state, instanceId) => ({
      idstr: 'blob',
      instanceId,
      save: () => state,
      load: (loaded: Uint8Array) => void got.push(Buffer.from(loaded)),
    }))
    await migrateOnce({ from, to, source: { devices }, destination: { devices } })
    expect(got.map((state) => state.length)).toEqual([large.length, 0])
    expect(Buffer.compare(got[0] as Uint8Array, large)).toBe(0)
  })

  const plain = (idstr: string, versionId = 1): Device => ({
    idstr,
    versionId,
    save: () => new Uint8Array(1),
    load: () => {},
  })
  const mismatches: [string, Device[], Device[], string][] = [
    ['one too many at the source', [plain('a'), plain('b')], [plain('a')], 'sent device "b"'],
    ['one too many here', [plain('a')], [plain('a'), plain('b')], 'no state for device "b"'],
    ['a newer version', [plain('a', 3)], [plain('a', 2)], 'in version 3, expected at most 2'],
  ]
  for (const [what, ours, theirs, sentence] of mismatches) {
    it(`that do not match are refused: ${what}`, async () => {
      await using from = filled(MIB)
      await using to = GuestMemory.allocate('ram', MIB)
      const calls: string[] = []
      const vmm = { stop: () => void calls.push('stop'), resume: () => void calls.push('resume') }
      await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
        memory: to,
        devices: theirs,
      })
      const source = new MigrationSource({ memory: from, vmm, devices: ours })
      const sent = failure(source.migrate(destination.uri).result)
      const error = await failure(destination.completed)
      expect(error.message).toContain(sentence)
      expect((await sent).code).toBe('ERR_MULTIFD_PEER_CLOSED')
      expect(calls).toEqual(['stop', 'resume'])
    })
  }
})

describe('limits', () => {
  it('keeps to maxBandwidthBytesPerSecond, counted in bytes over its own time', async () => {
    await using from = filled(16 * MIB)
    await using to = GuestMemory.allocate('ram', 16 * MIB)
    const limit = 40 * MIB
    const { result } = await migrateOnce({
      from,
      to,
      source: { maxBandwidthBytesPerSecond: limit },
    })
    // At most what the limit allows in the time it took, and the 20 ms it may burst.
    const allowed = (limit * (result.totalTimeMs + 40)) / 1000
    expect(result.multifdBytes).toBeLessThan(allowed)
    expectSamePages(to.view('ram'), from.view('ram'))
  })

  it('holds flushThresholds per channel: no more is ever unreleased than was asked for', async () => {
    await using from = filled(32 * MIB)
    await using to = GuestMemory.allocate('ram', 32 * MIB)
    const marks = [2 * MIB, 4 * MIB]
    const { result } = await migrateOnce({
      from,
      to,
      source: {
        zeroCopy: 'on',
        flushThresholds: marks.map((highWaterBytes) => ({ highWaterBytes })),
      },
    })
    for (const { channelId, ...channel } of result.channels) {
      expect(channel.unreleasedHighBytes).toBeLessThanOrEqual((marks[channelId] as number) + MIB)
      expect(channel.unreleasedBytes).toBe(0)
      expect(channel.strayNotifications).toBe(0)
      expect(channel.zeroCopyBytes + channel.copiedBytes).toBeGreaterThan(0)
    }
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})

describe('downtimeLimitMs', () => {
  it('of 0 stops a guest that has nothing dirty any more', async () => {
    await using from = filled(MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    const { result } = await migrateOnce({ from, to, source: { downtimeLimitMs: 0 } })
    expect(result.rounds).toBe(2)
    expectSamePages(to.view('ram'), from.view('ram'))
  })

  it('is not spent on the time the destination needs to empty its memory', async () => {
    await using from = filled(MIB)
    await using to = GuestMemory.allocate('ram', MIB)
    // The answer to the first PING waits for this, and is no round trip.
    const empty = to.native.empty.bind(to.native)
    let emptied = false
    const value = async () => {
      await setTimeout(500)
      const done = await empty()
      emptied = true
      return done
    }
    Object.defineProperty(to.native, 'empty', { value })
    let emptyAtStop = false
    const stop = (): void => {
      emptyAtStop = emptied
    }
    // A guest that writes in every round is stopped only if the prediction fits the limit.
    const dirty = new DirtyLog(from)
    const write = (): void => dirty.mark('ram', 0, 4096)
    subscribe('multifd:sync', write)
    const vmm = { stop, resume: () => {} }
    await migrateOnce({ from, to, vmm, source: { dirty, downtimeLimitMs: 250 } })
    unsubscribe('multifd:sync', write)
    expect(emptyAtStop).toBe(true)
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})

describe('progress', () => {
  it('passes through the statuses in order, with numbers that only grow', async () => {
    await using from = filled(64 * MIB)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    using guest = new WriterGuest(from.view('ram'), seed)
    guest.confine(512)
    const { progress, result, incoming } = await migrateOnce({
      from,
      to,
      vmm: guest,
      source: { maxBandwidthBytesPerSecond: 200 * MIB },
    })
    const order: MigrationStatus[] = ['setup', 'active', 'device', 'completed']
    const ranks = progress.map(({ status }) => order.indexOf(status))
    expect(ranks).toEqual([...ranks].sort((a, b) => a - b))
    expect(ranks).not.toContain(-1)
    expect(progress.at(-1)?.status).toBe('completed')
    expect(progress.at(-1)?.transferredBytes).toBe(result.transferredBytes)
    expect(progress.at(-1)?.remainingBytes).toBe(0)
    for (const name of ['round', 'dirtySyncCount', 'transferredBytes', 'elapsedMs'] as const) {
      const values = progress.map((event) => event[name])
      expect(values, name).toEqual([...values].sort((a, b) => a - b))
    }
    expect(result.dirtySyncCount).toBe(result.rounds + 1)
    expect(incoming.syncs).toBe(result.rounds + 1)
    expect(incoming.normalPages).toBe(result.normalPages)
    expect(incoming.zeroPages).toBe(result.zeroPages)
    expect(result.downtimeMs).toBeLessThanOrEqual(result.totalTimeMs)
    expect(result.setupTimeMs).toBeLessThanOrEqual(result.totalTimeMs)
  })
})
