// Sources that a relay does not take, each with a sentence that says what to set right, and nothing
// sent to the destination; and options that cannot be meant.

import { beforeEach, describe, expect, it } from 'vitest'
import { relay } from '../../src/relay/relay.ts'
import { ownStreams } from '../migrate/own-vector.ts'
import { recordingOf, withCommand } from '../snapshot/qemu-peer.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import { vectorNamed } from '../wire/vectors.ts'
import { expectFailure, expectSourceResumes, Relaying, recordedSource } from './relaying.ts'

const NAME = 'q72-legacy-none'

beforeEach(() => {
  const before = held()
  return () => expectNothingLeft(before)
})

describe('a source is refused', () => {
  it('without return path', async () => {
    await using relaying = await Relaying.begin()
    const connection = await relaying.source.play(recordingOf(vectorNamed(NAME)))
    await expectFailure(
      relaying,
      'ERR_MULTIFD_UNSUPPORTED',
      /"migrate_set_capability return-path on"/,
      /"migrate-set-capabilities".*"return-path","state":true/,
    )
    await expectSourceResumes(connection)
    expect(relaying.destination.connected).toBe(false)
  })

  it('with post-copy', async () => {
    await using relaying = await Relaying.begin()
    const { main, channels } = recordedSource(NAME)
    const advise = Uint8Array.of(8, 0, 3, 0, 0)
    await relaying.source.play({ main: withCommand(main, advise), channels })
    const command = /"migrate_set_capability postcopy-ram off".*"postcopy-ram","state":false/
    await expectFailure(relaying, 'ERR_MULTIFD_UNSUPPORTED', command)
    expect(relaying.destination.connected).toBe(false)
  })

  it('with a channel more than was said', async () => {
    await using relaying = await Relaying.begin({ multifdChannels: 1 })
    const { main, channels } = recordedSource(NAME)
    const [first = new Uint8Array(64), second = new Uint8Array(64)] = channels
    // Behind all that were expected, and before the setup is over, as with a QEMU.
    const connection = await relaying.source.connect(main)
    await relaying.source.connect(first.subarray(0, 64))
    await relaying.reaches('active')
    await relaying.source.connect(second)
    await expectSourceResumes(connection)
    const sentence = /channel 1, expected 0 to 0.*"migrate_set_parameter multifd-channels 1"/
    await expectFailure(relaying, 'ERR_MULTIFD_HANDSHAKE', sentence)
  })

  it('with multifd where none was said', async () => {
    await using relaying = await Relaying.begin({ multifdChannels: 0 })
    const { channels } = recordedSource(NAME)
    await relaying.source.connect(...channels.slice(0, 1))
    const sentence = /expected none.*"migrate_set_capability multifd off"/
    await expectFailure(relaying, 'ERR_MULTIFD_HANDSHAKE', sentence)
  })

  it('with another compression', async () => {
    await using relaying = await Relaying.begin({ compression: 'zlib' })
    const connection = await relaying.source.play(recordedSource(NAME))
    await expectFailure(relaying, 'ERR_MULTIFD_PROTOCOL', /compression bits 0x0, expected 0x2/)
    await expectSourceResumes(connection)
  })

  it('when a second one comes', async () => {
    await using relaying = await Relaying.begin()
    const { main } = recordedSource(NAME)
    await relaying.source.connect(main)
    await relaying.source.connect(main)
    await expectFailure(relaying, 'ERR_MULTIFD_HANDSHAKE', /two sources/)
  })

  it('with a channel of another guest', async () => {
    await using relaying = await Relaying.begin()
    const { main, channels } = recordedSource(NAME)
    const [first = new Uint8Array(64), second = new Uint8Array(64)] = channels
    const foreign = second.slice()
    foreign[8] = 0xab
    await relaying.source.play({ main, channels: [first, foreign] })
    await expectFailure(relaying, 'ERR_MULTIFD_HANDSHAKE', /brings the UUID ab000000-/)
  })

  it('that is one of this library', async () => {
    await using relaying = await Relaying.begin()
    await relaying.source.play(ownStreams())
    await expectFailure(relaying, 'ERR_MULTIFD_UNSUPPORTED', /multifd\/1.*expected a QEMU/)
    expect(relaying.destination.connected).toBe(false)
  })

  it('with pages outside its RAM', async () => {
    await using relaying = await Relaying.begin()
    const { main, channels } = recordedSource(NAME)
    const [first = new Uint8Array(0), second = new Uint8Array(0)] = channels
    const hostile = first.slice()
    new DataView(hostile.buffer).setUint32(64 + 1344 + 320, 0x7fff0000)
    const connection = await relaying.source.play({ main, channels: [hostile, second] })
    await expectFailure(relaying, 'ERR_MULTIFD_PROTOCOL', /channel 0 .*page offset/)
    await expectSourceResumes(connection)
  })
})

describe('options', () => {
  const uri = 'tcp:127.0.0.1:0'

  it.each([
    [{ chanels: 2 }, TypeError, /no option "chanels"/],
    [{ multifdChannels: 256 }, RangeError, /multifdChannels .* 0 to 255, got 256/],
    [{ multifdChannels: 0, toMultifdChannels: 2 }, RangeError, /both be 0/],
    [{ multifdChannels: 2, toMultifdChannels: 0 }, RangeError, /both be 0/],
    [{ compression: 'lzma' }, TypeError, /compression must be one of none, zlib, zstd/],
    [{ toCompressionLevel: 1 }, TypeError, /needs a toCompression/],
    [{ toCompression: 'zlib', toCompressionLevel: 10 }, RangeError, /0 to 9, got 10/],
    [{ peerTimeoutMs: 0 }, RangeError, /peerTimeoutMs/],
    [{ signal: 1 }, TypeError, /AbortSignal/],
  ])('are refused by name: %o', (options, kind, sentence) => {
    const call = (): unknown => relay(uri, 'tcp:127.0.0.1:1', options as object)
    expect(call).toThrow(kind)
    expect(call).toThrow(sentence)
  })

  it('and so are URIs, and other machines without allowPlaintext', async () => {
    expect(() => relay('file:/x', uri)).toThrow(TypeError)
    expect(() => relay(uri, '/x')).toThrow(TypeError)
    const refusal = { code: 'ERR_MULTIFD_UNSUPPORTED' }
    const { listening, result } = relay(uri, 'tcp:192.0.2.1:4444')
    await expect(result).rejects.toMatchObject(refusal)
    await expect(listening).rejects.toMatchObject(refusal)
  })
})
