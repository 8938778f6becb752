// A stored guest goes on in live QEMUs: over channels and without, compressed and not, cloned,
// paused; and what a QEMU that was set up differently leads to is a sentence with what to type.

import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { qemuBinary } from '../../bench/qemu/binary.ts'
import { GUEST_COUNTER } from '../../bench/qemu/boot-sector.ts'
import { type MigrationSetup, QemuGuest } from '../../bench/qemu/guest.ts'
import type { QemuOptions } from '../../bench/qemu/launch.ts'
import { differingPages } from '../../bench/qemu/ram.ts'
import { ScratchFolder } from '../../bench/qemu/scratch-folder.ts'
import { receiveSnapshot } from '../../src/snapshot/receive-snapshot.ts'
import type { SendSnapshotOptions } from '../../src/snapshot/send-options.ts'
import { sendSnapshot } from '../../src/snapshot/send-snapshot.ts'
import { verifySnapshot } from '../../src/snapshot/snapshot-directory.ts'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'

const WINDOW = { windowBytes: 1 << 20 }
const UUID = '6f6e6520-6f66-2074-6865-206775657374'

/** The snapshot that all tests send; none of them changes it. */
let snapshot = ''
let ram: Buffer = Buffer.alloc(0)

beforeAll(async () => {
  const qemu = await qemuBinary().catch(() => undefined)
  return qemu === undefined ? () => {} : await store()
})

/** A guest that rewrites its window, stored while it runs. */
async function store(): Promise<() => void> {
  const folder = new ScratchFolder()
  snapshot = folder.file('snapshot')
  await using source = await QemuGuest.start({ name: 'source', guest: WINDOW })
  await source.waitUntilCounting()
  await source.enableMultifd({ channels: 2 })
  await using reception = await receiveSnapshot('tcp:127.0.0.1:0', { directory: snapshot })
  await source.migrate(reception.uri)
  await source.waitFor('completed')
  await reception.result
  ram = await source.readGuest(0, source.memoryBytes)
  return () => folder.remove()
}

beforeEach(async (context) => {
  await qemuOrSkip(context)
})

async function waiting(
  setup: MigrationSetup,
  options: QemuOptions = {},
): Promise<{ guest: QemuGuest; uri: string }> {
  const guest = await QemuGuest.start({
    name: 'destination',
    incoming: true,
    guest: WINDOW,
    ...options,
  })
  try {
    await guest.enableMultifd(setup)
    return { guest, uri: await guest.incoming() }
  } catch (error) {
    await guest.kill()
    throw error
  }
}

const stored = (): number => ram.readUInt32LE(GUEST_COUNTER)

/** RAM as it was stored, and a guest that counts on from there. */
async function expectGoesOn(guest: QemuGuest): Promise<void> {
  await guest.waitFor('completed')
  await guest.counterBeyond(stored() + (2 * WINDOW.windowBytes) / 4096)
  await guest.stop()
  expect(await guest.wrongInWindow()).toBeUndefined()
  expect(await guest.errors()).toBe(0)
}

interface Way {
  setup: MigrationSetup
  options: SendSnapshotOptions
}

const ways: [string, Way][] = [
  ['1 channel', { setup: { channels: 1 }, options: { multifdChannels: 1 } }],
  ['2 channels', { setup: {}, options: {} }],
  ['4 channels', { setup: { channels: 4 }, options: { multifdChannels: 4 } }],
  ['the main channel', { setup: { multifd: false }, options: { multifdChannels: 0 } }],
  [
    '2 channels, io_uring and zero-copy',
    { setup: {}, options: { engine: 'io-uring', zeroCopy: 'on' } },
  ],
]

describe('a stored guest', () => {
  it.each(ways)('goes on over %s', async (_name, { setup, options }) => {
    const { guest: destination, uri } = await waiting(setup)
    await using guest = destination
    const [outcome] = await sendSnapshot(snapshot, uri, options).result
    expect(outcome).toMatchObject({ status: 'completed' })
    await expectGoesOn(guest)
  })

  it.each([
    ...ways,
    [
      'zlib',
      { setup: { compression: 'zlib' }, options: { compression: 'zlib', compressionLevel: 9 } },
    ],
    ['zstd', { setup: { compression: 'zstd' }, options: { compression: 'zstd' } }],
  ] as [string, Way][])(
    'is there as it was stored, paused, over %s',
    async (_name, { setup, options }) => {
      const { guest: destination, uri } = await waiting(setup)
      await using guest = destination
      const [outcome] = await sendSnapshot(snapshot, uri, { ...options, paused: true }).result
      expect(outcome).toMatchObject({ status: 'completed' })
      await guest.waitFor('completed')
      expect(await guest.runState()).toBe('paused')
      expect(differingPages(await guest.readGuest(0, guest.memoryBytes), ram)).toEqual([])
      expect(await guest.counter()).toBe(stored())
      await guest.cont()
      await expectGoesOn(guest)
    },
  )

  it('becomes two, and neither knows of the other', async () => {
    const { guest: one, uri: oneUri } = await waiting({})
    await using first = one
    const { guest: two, uri: twoUri } = await waiting({})
    await using second = two
    const outcomes = await sendSnapshot(snapshot, [oneUri, twoUri]).result
    expect(outcomes.map(({ uri, status }) => [uri, status])).toEqual([
      [oneUri, 'completed'],
      [twoUri, 'completed'],
    ])
    await expectGoesOn(first)
    await expectGoesOn(second)
    const { hashed } = await verifySnapshot(snapshot)
    expect(hashed).toBe(true)
  })

  it('has the UUID that the QEMU was started with, if that is said', async () => {
    const { guest: destination, uri } = await waiting({}, { extra: ['-uuid', UUID] })
    await using guest = destination
    const [outcome] = await sendSnapshot(snapshot, uri, { uuid: UUID }).result
    expect(outcome).toMatchObject({ status: 'completed' })
    await expectGoesOn(guest)
  })
})

describe('a QEMU that was set up otherwise', () => {
  async function refusal(
    { guest: destination, uri }: { guest: QemuGuest; uri: string },
    options: SendSnapshotOptions = {},
  ): Promise<string> {
    await using _guest = destination
    const [outcome] = await sendSnapshot(snapshot, uri, { peerTimeoutMs: 2000, ...options }).result
    if (outcome?.status !== 'failed') throw new Error(`the outcome is ${outcome?.status}`)
    return `${outcome.error.code} ${outcome.error.message}`
  }

  it('for more channels', async () => {
    expect(await refusal(await waiting({ channels: 3 }))).toMatch(
      /_TIMEOUT .*"migrate_set_parameter multifd-channels 2".*"multifd-channels":2/,
    )
  })

  it('for fewer channels, or none', async () => {
    const options = { multifdChannels: 4 }
    for (const setup of [{ channels: 3 }, { channels: 1 }, { multifd: false }]) {
      expect(await refusal(await waiting(setup), options)).toMatch(
        /channels.*"migrate_set_capability multifd on", "migrate_set_parameter multifd-channels 4"/,
      )
    }
    expect(await refusal(await waiting({ channels: 2 }), { multifdChannels: 0 })).toMatch(
      /_TIMEOUT .*"migrate_set_capability multifd off"/,
    )
  })

  it('with another machine type', async () => {
    const machine = { machine: 'pc-q35-7.1' }
    expect(await refusal(await waiting({}, machine))).toMatch(/-machine pc-q35-7\.2/)
  })

  it('with less memory, and with more', async () => {
    for (const memoryBytes of [(32 << 20) + 8192, (128 << 20) + 8192]) {
      expect(await refusal(await waiting({}, { memoryBytes }))).toMatch(
        /list of RAM blocks.*-m 65544K; blocks, in bytes: pc\.ram 67117056/,
      )
    }
  })

  it('for compressed pages', async () => {
    expect(await refusal(await waiting({ compression: 'zlib' }))).toMatch(
      /"migrate_set_parameter multifd-compression none".*"multifd-compression":"none"/,
    )
  })

  it('with a UUID', async () => {
    const withUuid = { extra: ['-uuid', UUID] }
    expect(await refusal(await waiting({}, withUuid))).toMatch(/start it without -uuid/)
  })

  it('with other devices', async () => {
    const without = { extra: ['-machine', 'hpet=off'] }
    const sentence = await refusal(await waiting({}, without))
    expect(sentence).toMatch(/_PEER_CLOSED .*did not take the devices.*"info status"/)
  })
})
