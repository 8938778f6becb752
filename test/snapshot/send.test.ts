// sendSnapshot against a destination that goes by QEMU's rules: both dialects, any number of
// channels, every byte. What a real QEMU makes of it is test/interop's.

import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { sendSnapshot } from '../../src/snapshot/send-snapshot.ts'
import { ReplayDestination } from '../support/replay-destination.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'
import { type Contents, contentsOf, sha256, storeSnapshot } from '../support/vector-snapshot.ts'

let scratch = ''
let before: Held
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-send-'))
  before = held()
})
afterEach(() => {
  rmSync(scratch, { recursive: true, force: true })
  expectNothingLeft(before)
})

/** Every file of the snapshot by name, hashed. */
function hashes(directory: string): Record<string, string> {
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort()
  const files = names.filter((name) => statSync(join(directory, name)).isFile())
  return Object.fromEntries(
    files.map((name) => [name, sha256(readFileSync(join(directory, name)))]),
  )
}

function expectWhole(destination: ReplayDestination, contents: Contents): void {
  for (const [idstr, bytes] of contents.ram) {
    expect(destination.ram.get(idstr)?.equals(bytes), `contents of ${idstr}`).toBe(true)
    const counts = destination.counts.get(idstr) ?? new Uint8Array(0)
    expect(
      counts.every((count) => count === 1),
      `each page of ${idstr} once`,
    ).toBe(true)
  }
  expect(destination.ram.size).toBe(contents.ram.size)
}

const vectors = [
  { vector: 'q72-legacy-none', syncs: 3 },
  { vector: 'q102-modern-none', syncs: 2 },
]

describe.each(vectors)('$vector', ({ vector, syncs }) => {
  it.each([1, 2, 4])(
    'is rebuilt over %i channels, with the syncs of its dialect',
    async (count) => {
      const contents = contentsOf(vector)
      const directory = join(scratch, 'vm')
      await storeSnapshot(directory, contents)
      const { dialect } = contents
      await using destination = await ReplayDestination.listen({ channels: count, dialect })
      const sending = sendSnapshot(directory, destination.uri, { multifdChannels: count })
      const [outcome] = await sending.result
      expect(outcome).toMatchObject({ status: 'completed', uri: destination.uri, dialect })
      expectWhole(destination, contents)
      expect(destination.configuration).toMatchObject({ machineName: contents.machine })
      expect(destination.tail.equals(contents.tail)).toBe(true)
      expect(destination.syncPoints).toBe(syncs)
      expect(destination.channels.map(({ initial }) => initial.channelId)).toEqual([
        ...Array(count).keys(),
      ])
      for (const { packets, syncs: headers } of destination.channels) {
        expect(headers.length).toBe(syncs)
        expect(packets[0]).toMatchObject({ flags: 1, normalPages: 0 }) // before any page
        for (const { flags, normalPages, zeroPages, pagesAlloc } of packets) {
          expect(zeroPages).toBe(0)
          expect(flags === 1 ? normalPages + pagesAlloc === 0 : normalPages > 0).toBe(true)
        }
        for (const header of headers) {
          expect(header.subarray(12, 24).every((byte) => byte === 0)).toBe(true)
          expect(header.subarray(32).every((byte) => byte === 0)).toBe(true)
        }
      }
      const numbers = destination.channels.flatMap(({ packets }) => packets.map((p) => p.packetNum))
      expect(numbers.sort((a, b) => a - b)).toEqual([...Array(numbers.length).keys()])
    },
  )

  it('is rebuilt over the main channel alone', async () => {
    const contents = contentsOf(vector)
    const directory = join(scratch, 'vm')
    await storeSnapshot(directory, contents)
    await using destination = await ReplayDestination.listen({
      channels: 0,
      dialect: contents.dialect,
    })
    const [outcome] = await sendSnapshot(directory, destination.uri, { multifdChannels: 0 }).result
    expect(outcome).toMatchObject({ status: 'completed', multifdBytes: 0, channels: [] })
    expectWhole(destination, contents)
    expect(destination.tail.equals(contents.tail)).toBe(true)
    expect(destination.connections).toBe(1)
    expect(destination.kinds).not.toContain('ram-flush') // a QEMU before 8.1 ends on it
  })

  it('says "paused" in globalstate when asked to, and nothing else changes', async () => {
    const contents = contentsOf(vector)
    const directory = join(scratch, 'vm')
    await storeSnapshot(directory, contents)
    const { dialect } = contents
    await using destination = await ReplayDestination.listen({ channels: 2, dialect })
    const [outcome] = await sendSnapshot(directory, destination.uri, { paused: true }).result
    expect(outcome?.status).toBe('completed')
    const at = Buffer.from(contents.tail).indexOf('running\0')
    const expected = Buffer.from(contents.tail)
    expected.writeUInt32BE('paused'.length + 1, at - 4)
    expected.fill(0, at, at + 100).write('paused', at)
    expect(at).toBeGreaterThan(0)
    expect(destination.tail.equals(expected)).toBe(true)
  })
})

describe('a snapshot that is sent', () => {
  it('stays as it was, and may lie in a directory that is read-only', async () => {
    const contents = contentsOf('q72-legacy-none')
    const directory = join(scratch, 'vm')
    await storeSnapshot(directory, contents)
    const files = hashes(directory)
    for (const name of Object.keys(files)) chmodSync(join(directory, name), 0o400)
    chmodSync(join(directory, 'ram'), 0o500)
    chmodSync(directory, 0o500)
    try {
      const { dialect } = contents
      const sends = [0, 2].map(async (channels) => {
        await using destination = await ReplayDestination.listen({ channels, dialect })
        const options = { multifdChannels: channels, paused: true }
        const [outcome] = await sendSnapshot(directory, destination.uri, options).result
        expect(outcome?.status).toBe('completed')
        expectWhole(destination, contents)
      })
      await Promise.all(sends)
      expect(hashes(directory)).toEqual(files)
      const sparse = statSync(join(directory, 'ram/0-pc.ram.bin'))
      expect(sparse.blocks * 512).toBeLessThan(sparse.size / 2)
    } finally {
      chmodSync(directory, 0o700)
      chmodSync(join(directory, 'ram'), 0o700)
    }
  })

  it('goes to several destinations at once, and one that fails stops none', async () => {
    const contents = contentsOf('q72-legacy-none')
    const directory = join(scratch, 'vm')
    await storeSnapshot(directory, contents)
    const behaviour = { channels: 2, dialect: contents.dialect }
    await using first = await ReplayDestination.listen(behaviour)
    await using broken = await ReplayDestination.listen({
      ...behaviour,
      at: (event, peer) => {
        if (event.kind === 'ram-zero') peer.reset()
        return 'go on'
      },
    })
    await using third = await ReplayDestination.listen(behaviour)
    const uris = [first.uri, broken.uri, third.uri]
    const outcomes = await sendSnapshot(directory, uris).result
    expect(outcomes.map(({ uri }) => uri)).toEqual(uris)
    expect(outcomes.map(({ status }) => status)).toEqual(['completed', 'failed', 'completed'])
    expectWhole(first, contents)
    expectWhole(third, contents)
  })

  it('goes by the machine type, or by what it is told', async () => {
    const contents = { ...contentsOf('q102-modern-none'), dialect: 'per-section' as const }
    const directory = join(scratch, 'vm')
    await storeSnapshot(directory, contents)
    await using modern = await ReplayDestination.listen({ channels: 1, dialect: 'per-round' })
    await using legacy = await ReplayDestination.listen({ channels: 1, dialect: 'per-section' })
    const options = { multifdChannels: 1 }
    expect((await sendSnapshot(directory, modern.uri, options).result)[0]?.status).toBe('completed')
    expect(modern.kinds).toContain('ram-flush')
    const told = { ...options, dialect: 'per-section' as const }
    expect((await sendSnapshot(directory, legacy.uri, told).result)[0]?.status).toBe('completed')
    expect(legacy.kinds).not.toContain('ram-flush')
    expect(legacy.syncPoints).toBe(3)
  })

  it('reports how far it is', async () => {
    const contents = contentsOf('q72-legacy-none')
    const directory = join(scratch, 'vm')
    await storeSnapshot(directory, contents)
    const { dialect } = contents
    await using destination = await ReplayDestination.listen({ channels: 2, dialect })
    const sending = sendSnapshot(directory, destination.uri)
    const events = []
    for await (const event of sending) events.push(event)
    const last = events.at(-1)
    expect(last?.status).toBe('sending')
    expect(last?.destinations[0]).toMatchObject({ status: 'completed', remainingBytes: 0 })
    const [outcome] = await sending.result
    if (outcome?.status !== 'completed') throw new Error('not completed')
    expect(last?.destinations[0]?.transferredBytes).toBe(outcome.transferredBytes)
    const pages = [...contents.ram.values()].reduce((sum, bytes) => sum + bytes.length / 4096, 0)
    expect(outcome.normalPages + outcome.zeroPages).toBe(pages)
  })
})
