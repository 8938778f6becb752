// Receiving a snapshot when something goes wrong: a sentence within the time limit, SHUT(1) where
// it can be heard, and no snapshot.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import { native } from '../../src/kit/native.ts'
import type { ReceiveSnapshotOptions } from '../../src/snapshot/receive-options.ts'
import { type Reception, receiveSnapshot } from '../../src/snapshot/receive-snapshot.ts'
import { be16, be32, concatBytes } from '../../src/wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../../src/wire/configuration.ts'
import { encodeOpenReturnPath, encodeRamSectionStart } from '../../src/wire/main-stream-writer.ts'
import { encodeInitialPacket, encodeRamPacketHeader } from '../../src/wire/packet.ts'
import { encodeEosWord, encodeMemSizeWord, RamPageWords } from '../../src/wire/ram-words.ts'
import { skipUnless } from '../support/rig.ts'
import { vectorNamed } from '../wire/vectors.ts'
import { QemuPeer, type Recording, recordingOf, withCommand, withReturnPath } from './qemu-peer.ts'

const SHUT_FAILED = '0001000400000001'
const legacy = withReturnPath(recordingOf(vectorNamed('q72-legacy-none')))
const modern = withReturnPath(recordingOf(vectorNamed('q102-modern-none')))

let scratch = ''
let heldBefore: Record<string, number> = {}
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'multifd-failures-'))
  heldBefore = native().census()
})
afterEach(() => {
  expect(native().census()).toEqual(heldBefore)
  rmSync(scratch, { recursive: true, force: true })
})

const snapshot = (): string => join(scratch, 'snapshot')

function receive(
  options: Partial<ReceiveSnapshotOptions> = {},
  uri = 'tcp:127.0.0.1:0',
): Promise<Reception> {
  return receiveSnapshot(uri, {
    directory: snapshot(),
    handshakeTimeoutMs: 20_000,
    peerTimeoutMs: 20_000,
    ...options,
  })
}

async function refusal(reception: Reception): Promise<string> {
  const error = await reception.result.then(
    () => new Error('it was accepted'),
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof MultifdError)) throw error
  expect(reception.status).toBe(error.code === 'ERR_MULTIFD_ABORTED' ? 'cancelled' : 'failed')
  expect(existsSync(snapshot())).toBe(false)
  return `${error.code} ${error.message}`
}

/** Waits until so many bytes were read. */
async function untilRead(reception: Reception, bytes: number): Promise<void> {
  for await (const { receivedBytes } of reception) if (receivedBytes >= bytes) return
}

const total = ({ main, channels }: Recording): number =>
  [main, ...channels].reduce((sum, { length }) => sum + length, 0)

describe('a source that goes away', () => {
  it.each([
    ['killed', (peer: QemuPeer) => peer.kill()],
    ['closed', (peer: QemuPeer) => peer[Symbol.asyncDispose]()],
  ] as const)('in the middle of RAM: %s', async (_how, end) => {
    const cut = { main: legacy.main.subarray(0, 600), channels: legacy.channels }
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    await peer.play(cut)
    await untilRead(reception, 600)
    await end(peer)
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_PEER_CLOSED /)
  })

  it('in the middle of a packet of one channel', async () => {
    const [first = new Uint8Array(0), second = new Uint8Array(0)] = legacy.channels
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    await peer.connect(legacy.main)
    await peer.connect(second)
    const broken = await peer.connect(first.subarray(0, 64 + 1344 + 2000))
    broken.end()
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_PEER_CLOSED .*channel 0/)
  })

  it('behind its last byte, before it was told anything', async () => {
    // Everything, its end included, is there before we look: it was cancelled in the last moment.
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    const main = await peer.play({ main: legacy.main.subarray(0, -10), channels: legacy.channels })
    main.send(legacy.main.subarray(-10)).end()
    expect(await refusal(reception)).toMatch(
      /_PEER_CLOSED .*cancelled there, and its guest runs on/,
    )
  })
})

describe('a source that says nothing more', () => {
  it('is given up after peerTimeoutMs, in RAM', async () => {
    await using reception = await receive({ peerTimeoutMs: 300 })
    await using peer = new QemuPeer(reception.uri)
    const main = await peer.play({ main: legacy.main.subarray(0, 600), channels: legacy.channels })
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_TIMEOUT .*300 ms \(peerTimeoutMs\)/)
    await main.gone
    expect(main.received.toString('hex')).toMatch(new RegExp(`${SHUT_FAILED}$`))
  })

  it('is given up when a channel lacks a SYNC', async () => {
    const [first = new Uint8Array(0), ...others] = modern.channels
    await using reception = await receive({ peerTimeoutMs: 300 })
    await using peer = new QemuPeer(reception.uri)
    await peer.play({ main: modern.main, channels: [first.subarray(0, -1344), ...others] })
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_TIMEOUT /)
  })

  it('is given up without vmdescription, whose absence the sentence names', async () => {
    const main = legacy.main.subarray(0, Buffer.from(legacy.main).lastIndexOf('{"page_size') - 5)
    await using reception = await receive({ peerTimeoutMs: 300 })
    await using peer = new QemuPeer(reception.uri)
    await peer.play({ main, channels: legacy.channels })
    expect(await refusal(reception)).toMatch(/_TIMEOUT .*vmdescription.*suppress-vmdesc/)
  })

  it.each([
    ['only a main channel', (peer: QemuPeer) => peer.connect(legacy.main), /and 0 of 2 multifd/],
    [
      'one channel of two',
      async (peer: QemuPeer) => {
        await peer.connect(legacy.main)
        await peer.connect(legacy.channels[0] ?? new Uint8Array(0))
      },
      /1 of 2 .*"migrate_set_parameter multifd-channels 2"/,
    ],
    [
      'no main channel',
      (peer: QemuPeer) => peer.connect(legacy.channels[0] ?? new Uint8Array(0)),
      /no main channel and 1 of 2/,
    ],
    [
      'a connection that stops in its introduction',
      (peer: QemuPeer) => peer.connect(Uint8Array.of(0x11, 0x22, 0x33)),
      /300 ms/,
    ],
  ] as const)('is given up when it never was complete: %s', async (_what, play, sentence) => {
    await using reception = await receive({ handshakeTimeoutMs: 300 })
    await using peer = new QemuPeer(reception.uri)
    await play(peer)
    const said = await refusal(reception)
    expect(said).toMatch(/^ERR_MULTIFD_(TIMEOUT|HANDSHAKE) /)
    expect(said).toMatch(sentence)
  })
})

describe('a source that is set up in another way', () => {
  const opening = (machineName: string, capabilities: string[] = []): Uint8Array =>
    concatBytes(encodeHeader(), encodeConfiguration({ machineName, capabilities }))
  const ramStart = concatBytes(
    encodeRamSectionStart(2),
    encodeMemSizeWord([{ idstr: 'pc.ram', usedLength: 1 << 20 }]),
  )
  const adviseMain = withCommand(legacy.main, Uint8Array.of(8), be16(3), be16(0))

  const cases: [string, () => Recording, RegExp][] = [
    ['post-copy', () => ({ ...legacy, main: adviseMain }), /_UNSUPPORTED .*postcopy-ram off/],
    [
      'x-ignore-shared',
      () => ({
        main: concatBytes(opening('pc-q35-7.2', ['x-ignore-shared']), ramStart),
        channels: [],
      }),
      /_UNSUPPORTED .*"migrate_set_capability x-ignore-shared off".*"state":false/,
    ],
    [
      'mapped-ram',
      () => ({ main: concatBytes(opening('pc-q35-9.0', ['mapped-ram']), ramStart), channels: [] }),
      /_UNSUPPORTED .*mapped-ram/,
    ],
    [
      'a MigrationSource',
      () => ({
        main: concatBytes(opening('multifd/1', ['multifd-channels=2', 'commit']), ramStart),
        channels: [],
      }),
      /_UNSUPPORTED .*MigrationDestination/,
    ],
    [
      'no return path',
      () => recordingOf(vectorNamed('q72-legacy-none')),
      /_UNSUPPORTED .*"migrate_set_capability return-path on".*"state":true/,
    ],
    [
      'more channels',
      () => withReturnPath(recordingOf(vectorNamed('q72-legacy-none-3ch-slow'))),
      /_HANDSHAKE .*channel 2 came.*"migrate_set_parameter multifd-channels 2"/,
    ],
  ]
  it.each(cases)('%s', async (_what, recording, sentence) => {
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    await peer.play(recording())
    expect(await refusal(reception)).toMatch(sentence)
  })

  it('multifd on, where it is expected to be off', async () => {
    await using reception = await receive({ multifdChannels: 0 })
    await using peer = new QemuPeer(reception.uri)
    await peer.play(legacy)
    expect(await refusal(reception)).toMatch(/"migrate_set_capability multifd off"/)
  })

  it('a second main channel, and a channel that comes twice', async () => {
    const [first = new Uint8Array(0)] = legacy.channels
    for (const twice of [legacy.main, first]) {
      await using reception = await receive()
      await using peer = new QemuPeer(reception.uri)
      await peer.connect(twice)
      await peer.connect(twice)
      expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_HANDSHAKE /)
    }
  })

  it('channels that bring different UUIDs', async () => {
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    for (const channelId of [0, 1]) {
      const uuid = new Uint8Array(16).fill(channelId)
      await peer.connect(encodeInitialPacket({ uuid, channelId }))
    }
    expect(await refusal(reception)).toMatch(/_HANDSHAKE .*"info uuid"/)
  })

  it('pages behind the last sync point', async () => {
    const page = encodeRamPacketHeader({
      flags: 0,
      pagesAlloc: 128,
      nextPacketSize: 4096,
      packetNum: 99,
      ramblock: 'pc.ram',
      normalOffsets: [0],
      zeroOffsets: [],
    })
    const packet = concatBytes(page, new Uint8Array(4096))
    const channels = modern.channels.map((bytes) => concatBytes(bytes, packet, packet, packet))
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    const main = await peer.play({ main: modern.main.subarray(0, -10), channels })
    // Of each channel the last packet may not be counted yet.
    await untilRead(reception, total({ main: modern.main, channels }) - 10 - 2 * packet.length)
    main.send(modern.main.subarray(-10))
    expect(await refusal(reception)).toMatch(
      /_PROTOCOL .*[456] pages came behind the last sync point/,
    )
  })
})

describe('a disk that is full', () => {
  /** A tmpfs of that size, where we may mount one. */
  function mountTmpfs(size: string): string | undefined {
    const path = join(scratch, 'tmpfs')
    mkdirSync(path)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'none', path], { stdio: 'pipe' })
      return path
    } catch {
      return undefined
    }
  }

  const words = new RamPageWords()
  const onMain = concatBytes(
    encodeHeader(),
    encodeConfiguration({ machineName: 'pc-q35-7.2', capabilities: [] }),
    encodeOpenReturnPath(),
    encodeRamSectionStart(2),
    encodeMemSizeWord([{ idstr: 'pc.ram', usedLength: 1 << 20 }]),
    ...Array.from({ length: 200 }, (_, i) => words.page('pc.ram', i * 4096, new Uint8Array(4096))),
    encodeEosWord(),
    Uint8Array.of(0x7e),
    be32(2),
  )

  const recordings: [string, Recording][] = [
    ['pages of packets', legacy],
    ['pages of the main channel', { main: onMain, channels: [] }],
  ]
  it.for(recordings)('fails the migration with %s, and nothing else', async (one, context) => {
    const recording = one[1]
    const count = recording.channels.length
    const path = mountTmpfs('256k')
    skipUnless(context, path === undefined ? 'mounting a tmpfs is not allowed here' : undefined)
    if (path === undefined) return
    try {
      const directory = join(path, 'snapshot')
      await using reception = await receive({ directory, multifdChannels: count })
      await using peer = new QemuPeer(reception.uri)
      const main = await peer.play(recording)
      expect(await refusal(reception)).toMatch(/file system that backs it full|ENOSPC/)
      await main.gone
      expect(main.received.toString('hex')).toMatch(new RegExp(`${SHUT_FAILED}$`))
      expect(readdirSync(path)).toEqual([])
    } finally {
      execFileSync('umount', [path])
    }
  })
})

describe('a caller that changes its mind', () => {
  it('stops listening', async () => {
    const abort = new AbortController()
    await using reception = await receive({ signal: abort.signal })
    abort.abort(new Error('no more'))
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_ABORTED /)
  })

  it('closes the reception in the middle', async () => {
    await using reception = await receive()
    await using peer = new QemuPeer(reception.uri)
    const main = await peer.play({ main: legacy.main.subarray(0, 600), channels: legacy.channels })
    await untilRead(reception, 600)
    await reception.close()
    expect(await refusal(reception)).toMatch(/^ERR_MULTIFD_CLOSED /)
    await main.gone
    expect(main.received.toString('hex')).toMatch(new RegExp(`${SHUT_FAILED}$`))
  })

  it('cannot use a directory twice, or an address that is taken', async () => {
    await using reception = await receive()
    await expect(receive()).rejects.toThrow(/holds something already/)
    const other = receive({ directory: join(scratch, 'other') }, reception.uri)
    await expect(other).rejects.toMatchObject({ code: 'ERR_MULTIFD_CHANNEL' })
    expect(existsSync(join(scratch, 'other'))).toBe(false)
  })
})
