// Streams recorded from QEMU 7.2 and 10.2, played over real sockets in every order: the stored
// blocks hash to what the recording's manifest says. The surprises of the wire are in them.

import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { ReceiveSnapshotOptions } from '../../src/snapshot/receive-options.ts'
import { type Reception, receiveSnapshot } from '../../src/snapshot/receive-snapshot.ts'
import { verifySnapshot } from '../../src/snapshot/snapshot-directory.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeSyncPacket } from '../../src/wire/packet.ts'
import { randomNumbers, testSeed } from '../support/pages.ts'
import { cutAt } from '../wire/reading.ts'
import { type Vector, vectorNamed, vectors } from '../wire/vectors.ts'
import { openingBytes, QemuPeer, type Recording, recordingOf, withReturnPath } from './qemu-peer.ts'

let scratch = ''
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-vectors-'))
})
afterEach(() => rmSync(scratch, { recursive: true, force: true }))

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

function receive(
  vector: Vector,
  options: Partial<ReceiveSnapshotOptions> = {},
): Promise<Reception> {
  return receiveSnapshot(`unix:${join(scratch, 'socket')}`, {
    directory: join(scratch, 'snapshot'),
    multifdChannels: vector.channels,
    compression: vector.compression,
    handshakeTimeoutMs: 50_000,
    peerTimeoutMs: 50_000,
    ...options,
  })
}

/** The snapshot holds the vector's guest, and every byte of the main stream that is not RAM. */
async function expectStored(vector: Vector, recording: Recording): Promise<void> {
  const { manifest, hashed } = await verifySnapshot(join(scratch, 'snapshot'))
  expect(hashed).toBe(true)
  const read = (path: string): Uint8Array => readFileSync(join(scratch, 'snapshot', path))
  const stored = manifest.ram.map(({ idstr, path }) => [idstr, sha256(read(path))])
  expect(Object.fromEntries(stored)).toEqual(vector.rebuilt_sha256)
  for (const { idstr, hash } of manifest.ram) {
    expect(hash?.pieces).toEqual([vector.rebuilt_sha256[idstr]]) // one piece holds the block
  }
  expect(manifest.machine).toBe(vector.machine)
  expect(manifest.dialect).toBe(vector.dialect.startsWith('legacy') ? 'per-section' : 'per-round')
  const { main } = recording
  expect(sha256(read('config.bin'))).toBe(sha256(main.subarray(0, openingBytes(main))))
  const tailAt = vector.main.device_tail_at - vector.main.length
  expect(sha256(read('devices.bin'))).toBe(sha256(main.subarray(tailAt)))
}

type Player = (peer: QemuPeer, recording: Recording) => Promise<unknown>

/** Cut into pieces that go out in a random order over the connections, in order on each. */
async function playInterleaved(peer: QemuPeer, { main, channels }: Recording): Promise<void> {
  const next = randomNumbers(testSeed())
  const lanes = []
  for (const bytes of [main, ...channels]) {
    const cuts = Array.from({ length: 40 }, () => Math.floor(next() * bytes.length))
    lanes.push({ connection: await peer.connect(), pieces: cutAt(bytes, cuts) })
  }
  for (let open = lanes; open.length > 0; open = lanes.filter(({ pieces }) => pieces.length > 0)) {
    const lane = open[Math.floor(next() * open.length)]
    const piece = lane?.pieces.shift()
    if (piece !== undefined && piece.length > 0) lane?.connection.send(piece)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

const players: [string, Player][] = [
  ['main channel first', (peer, recording) => peer.play(recording)],
  [
    'main channel last',
    async (peer, { main, channels }) => {
      for (const channel of channels.toReversed()) await peer.connect(channel)
      await peer.connect(main)
    },
  ],
  [
    'main channel silent until the others are there',
    async (peer, { main, channels }) => {
      const connection = await peer.connect()
      for (const channel of channels) await peer.connect(channel)
      connection.send(main)
    },
  ],
  [
    'every channel to its end before the main channel begins to speak',
    async (peer, { main, channels }) => {
      for (const channel of channels) (await peer.connect(channel)).end()
      await peer.connect(main)
    },
  ],
  ['in small pieces of all at once', playInterleaved],
]

describe.each(vectors.map((vector) => [vector.name, vector] as const))('%s', (_name, vector) => {
  it.each(players)('is stored as it was recorded: %s', async (_order, play) => {
    const recording = withReturnPath(recordingOf(vector))
    await using reception = await receive(vector)
    await using peer = new QemuPeer(reception.uri)
    await play(peer, recording)
    const result = await reception.result
    expect(result.syncs).toBe(vector.sync_points)
    expect(result.channels.map(({ channelId }) => channelId)).toEqual([
      ...recording.channels.keys(),
    ])
    await expectStored(vector, recording)
  })

  it('is stored as it was recorded, from a source that does not wait for our word', async () => {
    const recording = recordingOf(vector)
    if (vector.name.includes('returnpath')) return
    await using reception = await receive(vector, { allowNoReturnPath: true })
    await using peer = new QemuPeer(reception.uri)
    const main = (await peer.play(recording)).end()
    const { warnings } = await reception.result
    expect(warnings).toEqual([expect.stringMatching(/no return path/)])
    expect(main.received).toHaveLength(0)
    await expectStored(vector, recording)
  })
})

describe('the vectors hold the surprises of the wire', () => {
  const packetsOf = (name: string) => vectorNamed(name).multifd.map(({ packets }) => packets)
  const old = packetsOf('q72-legacy-none')

  it('sizes behind which nothing comes, and a SYNC on pages', () => {
    const stale = old.flat().filter(({ normal, next_packet_size }) => !normal && next_packet_size)
    expect(stale.length).toBeGreaterThan(0)
    expect(old.flat().some(({ flags, normal }) => (flags & 1) === 1 && normal > 0)).toBe(true)
  })

  it('packet numbers that come twice, and empty packets that are no SYNC', () => {
    const numbers = old.flat().map(({ packet_num }) => packet_num)
    expect(new Set(numbers).size).toBeLessThan(numbers.length)
    expect(old.flat().some(({ flags, normal }) => flags === 0 && normal === 0)).toBe(true)
  })

  it('a block that is not named again in the next section', () => {
    const { sequence } = vectorNamed('q72-legacy-none-3ch-slow').main
    const unnamed = sequence.filter((step) => {
      if (typeof step === 'string' || !('section' in step) || step.section === 'START') return false
      const first = (step.words ?? []).find((word) => typeof word === 'object' && 'zero' in word)
      return typeof first === 'object' && 'zero' in first && first.names_on_wire === 0
    })
    expect(unnamed.length).toBeGreaterThan(0)
  })
})

describe('what other versions add', () => {
  /** Each channel with more packets behind its last. */
  function withPackets(recording: Recording, ...packets: Uint8Array[]): Recording {
    const channels = recording.channels.map((bytes) => concatBytes(bytes, ...packets))
    return { main: recording.main, channels }
  }

  async function expectAccepted(name: string, change: (recording: Recording) => Recording) {
    const vector = vectorNamed(name)
    const recording = change(withReturnPath(recordingOf(vector)))
    await using reception = await receive(vector)
    await using peer = new QemuPeer(reception.uri)
    await peer.play(recording)
    expect((await reception.result).syncs).toBe(vector.sync_points)
    await expectStored(vector, recording)
  }

  it('a last SYNC that no sync point collects (9.1, 9.2) is accepted', async () => {
    const sync = encodeSyncPacket(99)
    await expectAccepted('q102-modern-none', (recording) => withPackets(recording, sync))
  })

  it('empty packets behind the last SYNC (7.2 to 8.2) are accepted', async () => {
    const empty = encodeSyncPacket(99).slice()
    empty.fill(0, 8, 12) // no flags
    await expectAccepted('q72-legacy-none', (recording) => withPackets(recording, empty, empty))
  })

  it('SWITCHOVER_START and its absence are accepted', async () => {
    await expectAccepted('q102-modern-none', ({ main, channels }) => {
      const at = Buffer.from(main).indexOf(Buffer.from('08000b0000', 'hex'))
      expect(at).toBeGreaterThan(0)
      return { main: concatBytes(main.subarray(0, at), main.subarray(at + 5)), channels }
    })
  })
})
