// A live QEMU migrates into a directory: what lands there is its RAM byte for byte, and what goes
// wrong leaves its guest where it was.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, it, type TestContext } from 'vitest'
import { GUEST_COUNTER, wrongInWindow } from '../../bench/qemu/boot-sector.ts'
import { type MigrationSetup, QemuGuest } from '../../bench/qemu/guest.ts'
import { GUEST_MEMORY_BYTES } from '../../bench/qemu/launch.ts'
import { differingPages, knownRam, writeKnownRam } from '../../bench/qemu/ram.ts'
import { ScratchFolder } from '../../bench/qemu/scratch-folder.ts'
import { MultifdError } from '../../src/kit/errors.ts'
import type { ReceiveSnapshotOptions } from '../../src/snapshot/receive-options.ts'
import { type Reception, receiveSnapshot } from '../../src/snapshot/receive-snapshot.ts'
import { verifySnapshot } from '../../src/snapshot/snapshot-directory.ts'
import { expectGuestStays, openConnections } from '../support/qemu/guest-stays.ts'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'

const MEMORY_BYTES = GUEST_MEMORY_BYTES
const anyPort = 'tcp:127.0.0.1:0'

let folder: ScratchFolder

beforeEach(async (context) => {
  await qemuOrSkip(context)
  folder = new ScratchFolder()
  return () => folder.remove()
})

const snapshot = (): string => join(folder.path, 'snapshot')

function receive(options: Partial<ReceiveSnapshotOptions> = {}): Promise<Reception> {
  return receiveSnapshot(anyPort, { directory: snapshot(), ...options })
}

/** The guest's RAM as it lies in the snapshot. */
async function storedRam(): Promise<Buffer> {
  const { manifest, hashed } = await verifySnapshot(snapshot())
  expect(hashed).toBe(true)
  const file = manifest.ram.find(({ idstr }) => idstr === 'pc.ram')
  return readFileSync(join(snapshot(), file?.path ?? ''))
}

async function refusal(reception: Reception): Promise<string> {
  const error = await reception.result.then(
    () => new Error('it was accepted'),
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof MultifdError)) throw error
  return `${error.code} ${error.message}`
}

interface Way {
  setup: MigrationSetup
  options: Partial<ReceiveSnapshotOptions>
}

const ways: [string, Way][] = [
  ['1 channel', { setup: { channels: 1 }, options: { multifdChannels: 1 } }],
  ['2 channels', { setup: { channels: 2 }, options: {} }],
  ['4 channels', { setup: { channels: 4 }, options: { multifdChannels: 4 } }],
  ['multifd off', { setup: { multifd: false }, options: { multifdChannels: 0 } }],
]

describe('a paused guest with known RAM', () => {
  it.each(ways)('is stored byte for byte over %s', async (_name, { setup, options }) => {
    const file = folder.file('ram')
    writeKnownRam(file, MEMORY_BYTES, 7)
    await using source = await QemuGuest.start({ paused: true, ram: { file } })
    const before = await source.readGuest(0, MEMORY_BYTES)
    await source.enableMultifd(setup)
    await using reception = await receive(options)
    await source.migrate(reception.uri)
    const report = await source.waitFor('completed')
    const result = await reception.result

    expect(differingPages(await storedRam(), knownRam(MEMORY_BYTES, 7))).toEqual([])
    expect(differingPages(await storedRam(), before)).toEqual([])
    const { manifest, warnings } = result
    expect(warnings).toEqual([])
    expect(manifest.machine).toBe('pc-q35-7.2')
    expect(manifest.dialect).toBe('per-section')
    expect(manifest.devices.sectionBytes).toBeGreaterThan(10_000)
    // 7.2 sends some pages twice over multifd, and counts them once.
    expect(result.normalPages).toBeGreaterThanOrEqual(report.ram?.normal ?? Infinity)
  })
})

describe('a running guest', () => {
  it.each(ways)('is stored as it was when it stopped, over %s', async (_name, way) => {
    const guest = { windowBytes: 4 << 20 }
    await using source = await QemuGuest.start({ guest })
    await source.waitUntilCounting()
    // A window so large, at such a limit, that it cannot be sent within the allowed downtime.
    await source.enableMultifd({
      ...way.setup,
      bandwidthBytesPerSecond: 16 << 20,
      downtimeLimitMs: 1,
    })
    await using reception = await receive(way.options)
    await source.migrate(reception.uri)
    await source.waitForPasses(3)
    await source.setLimits({ downtimeLimitMs: 10_000 })
    await source.waitFor('completed')
    const { syncs, manifest } = await reception.result
    expect(syncs).toBeGreaterThan(3)
    // Most of this RAM is zero, and takes no room.
    const stored = manifest.ram.find(({ idstr }) => idstr === 'pc.ram')
    expect(stored?.populatedBytes).toBeLessThan(MEMORY_BYTES / 2)

    const ram = await storedRam()
    expect(ram.readUInt32LE(GUEST_COUNTER)).toBe(await source.counter())
    const window = ram.subarray(0x100000, 0x100000 + guest.windowBytes)
    expect(wrongInWindow(window, ram.readUInt32LE(GUEST_COUNTER))).toBeUndefined()
    expect(differingPages(ram, await source.readGuest(0, MEMORY_BYTES))).toEqual([])
  })
})

describe('a guest that is not taken', () => {
  /** The source failed, and its guest runs on there; nothing is stored. */
  async function expectResumed(context: TestContext, source: QemuGuest): Promise<void> {
    expect(existsSync(snapshot())).toBe(false)
    await expectGuestStays(context, source)
  }

  async function counting(setup: MigrationSetup): Promise<QemuGuest> {
    const source = await QemuGuest.start()
    await source.waitUntilCounting()
    await source.enableMultifd(setup)
    return source
  }

  it('because there is no return path', async (context) => {
    await using source = await counting({ returnPath: false, bandwidthBytesPerSecond: 1 << 20 })
    await using reception = await receive()
    await source.migrate(reception.uri)
    expect(await refusal(reception)).toMatch(
      /_UNSUPPORTED .*no return path.*"migrate_set_capability return-path on".*"capability":"return-path","state":true/,
    )
    await expectResumed(context, source)
  })

  it('because it has more channels', async (context) => {
    await using source = await counting({ channels: 4 })
    await using reception = await receive()
    await source.migrate(reception.uri)
    expect(await refusal(reception)).toMatch(
      /_HANDSHAKE .*"migrate_set_parameter multifd-channels 2".*"multifd-channels":2/,
    )
    await expectResumed(context, source)
  })

  it('because it has fewer channels, or multifd off', async (context) => {
    for (const setup of [{ channels: 1 }, { multifd: false }]) {
      await using source = await counting({ ...setup, bandwidthBytesPerSecond: 1 << 20 })
      await using reception = await receive({ handshakeTimeoutMs: 1000 })
      await source.migrate(reception.uri)
      expect(await refusal(reception)).toMatch(/_TIMEOUT .*"migrate_set_capability multifd on"/)
      await expectResumed(context, source)
    }
  })

  it('because it is compressed', async (context) => {
    await using source = await counting({ compression: 'zlib' })
    await using reception = await receive()
    await source.migrate(reception.uri)
    expect(await refusal(reception)).toMatch(/"migrate_set_parameter multifd-compression none"/)
    await expectResumed(context, source)
  })

  it('because it has another UUID', async (context) => {
    await using source = await counting({})
    await using reception = await receive({ uuid: '00000000-0000-0000-0000-000000000001' })
    await source.migrate(reception.uri)
    expect(await refusal(reception)).toMatch(/_HANDSHAKE .*"info uuid".*query-uuid/)
    await expectResumed(context, source)
  })

  it('because we were told to stop, in the middle of it', async (context) => {
    await using source = await counting({ bandwidthBytesPerSecond: 1 << 20 })
    const abort = new AbortController()
    await using reception = await receive({ signal: abort.signal })
    await source.migrate(reception.uri)
    for await (const { round } of reception) if (round > 1) break
    abort.abort(new Error('enough'))
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_ABORTED /)
    await expectResumed(context, source)
  })

  it('because it was cancelled at the source', async (context) => {
    await using source = await counting({ bandwidthBytesPerSecond: 1 << 20 })
    await using reception = await receive()
    await source.migrate(reception.uri)
    for await (const { round } of reception) if (round > 1) break
    expect(openConnections(source.pid)).toBe(3)
    await source.qmp.execute('migrate_cancel')
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_PEER_CLOSED /)
    await expectResumed(context, source)
  })

  it('because it was killed at the source', async () => {
    await using source = await counting({ bandwidthBytesPerSecond: 1 << 20 })
    await using reception = await receive()
    await source.migrate(reception.uri)
    for await (const { round } of reception) if (round > 1) break
    await source.kill()
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_PEER_CLOSED /)
    expect(existsSync(snapshot())).toBe(false)
  })
})

describe('a source without return path that is allowed', () => {
  it('is stored, with a warning', async () => {
    await using source = await QemuGuest.start({ paused: true })
    await source.enableMultifd({ returnPath: false })
    await using reception = await receive({ allowNoReturnPath: true })
    await source.migrate(reception.uri)
    await source.waitFor('completed')
    const { warnings } = await reception.result
    expect(warnings).toEqual([expect.stringContaining('return-path')])
    const ram = await source.readGuest(0, MEMORY_BYTES)
    expect(differingPages(await storedRam(), ram)).toEqual([])
    expect(readdirSync(snapshot()).sort()).toContain('manifest.json')
  })
})
