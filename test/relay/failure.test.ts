// What ends a relay before its time, and who has the guest then. Until the last bytes went to the
// destination every failure resumes the source; after that only the destination's word does, or an
// orderly end of it, or the operator.

import { beforeEach, describe, expect, it } from 'vitest'
import { encodeShut } from '../../src/wire/return-path.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import { vectorNamed } from '../wire/vectors.ts'
import type { DestinationBehaviour, RecordingDestination } from './recording-destination.ts'
import {
  expectFailure,
  expectSourceHeld,
  expectSourceResumes,
  expectSourceTold,
  Relaying,
  recordedSource,
  repeatPackets,
} from './relaying.ts'

const NAME = 'q72-legacy-none'
/** For limits that a test waits out. */
const SHORT_MS = 700

beforeEach(() => {
  const before = held()
  return () => expectNothingLeft(before)
})

type Act = (destination: RecordingDestination) => void

/** The destination does something where RAM's second section begins: 2.7 MB are still to come. */
function midway(act: Act): DestinationBehaviour {
  return {
    at: (event, destination) => {
      if (event.kind === 'section-start' && event.type === 'part') act(destination)
      return 'silence'
    },
  }
}

/** It does so once it has read the last byte. */
function atTheEnd(act: Act): DestinationBehaviour {
  return {
    at: (event, destination) => {
      if (event.kind === 'device-tail-end') act(destination)
      return 'silence'
    },
  }
}

const PEER_CLOSED = 'ERR_MULTIFD_PEER_CLOSED'

describe('before the destination has everything', () => {
  it.each<[string, Act, string]>([
    ['says that it failed', (to) => to.answer(encodeShut(1)), PEER_CLOSED],
    ['closes in order', (to) => to.close(), PEER_CLOSED],
    ['is killed', (to) => to.reset(), PEER_CLOSED],
    ['says that it has the guest', (to) => to.answer(encodeShut(0)), 'ERR_MULTIFD_PROTOCOL'],
    [
      'says what is no answer',
      (to) => to.answer(Uint8Array.of(0, 9, 0, 0)),
      'ERR_MULTIFD_PROTOCOL',
    ],
    ['asks for pages', (to) => to.answer(Uint8Array.of(0, 4, 0, 12)), 'ERR_MULTIFD_UNSUPPORTED'],
  ])('a destination that %s resumes the source', async (_what, act, code) => {
    await using relaying = await Relaying.begin({}, midway(act))
    const { main, channels } = recordedSource(NAME)
    const connection = await relaying.source.connect(main)
    for (const channel of channels) await relaying.source.connect(channel)
    await expectFailure(relaying, code)
    await expectSourceResumes(connection)
    await relaying.destination.left()
    expect(relaying.relay.status).toBe('failed')
  })

  it('nothing of the device state has left, so that the destination cannot start', async () => {
    const { main, channels } = recordedSource(NAME)
    await using relaying = await Relaying.begin()
    const all = main.subarray(0, -1)
    const connection = await relaying.source.play({ main: all, channels })
    const bytes = channels.reduce((sum, { length }) => sum + length, all.length)
    // What was read is worked off in between two reports of the relay's timer.
    let reports = 0
    for await (const { receivedBytes } of relaying.relay) {
      if (receivedBytes === bytes) reports += 1
      if (reports > 2) break
    }
    relaying.destination.reset()
    await expectFailure(relaying, PEER_CLOSED)
    await expectSourceResumes(connection)
    const tailAt = vectorNamed(NAME).main.device_tail_at + main.length - recordedLength()
    expect(relaying.destination.main.length).toBeLessThanOrEqual(tailAt)
  })

  it('a source that dies ends the destination', async () => {
    const { main, channels } = recordedSource(NAME)
    await using relaying = await Relaying.begin()
    await relaying.source.play({ main: main.subarray(0, main.length / 2), channels })
    for await (const { syncs } of relaying.relay) if (syncs > 0) break
    relaying.source.kill()
    await expectFailure(relaying, PEER_CLOSED)
    await relaying.destination.left()
  })

  it('a source that closes a channel early ends the destination', async () => {
    const { main, channels } = recordedSource(NAME)
    await using relaying = await Relaying.begin()
    const connection = await relaying.source.connect(main)
    const [first = new Uint8Array(0), second = new Uint8Array(0)] = channels
    await relaying.source.connect(first)
    const short = await relaying.source.connect(second.subarray(0, 64 + 1344))
    short.end()
    await expectFailure(relaying, PEER_CLOSED, /closed multifd channel 1 before the end of RAM/)
    await expectSourceResumes(connection)
    await relaying.destination.left()
  })

  it('the operator ends it: the source resumes', async () => {
    const { main, channels } = recordedSource(NAME)
    await using relaying = await Relaying.begin()
    const half = main.subarray(0, main.length / 2)
    const connection = await relaying.source.play({ main: half, channels })
    await relaying.reaches('active')
    relaying.abort()
    await expectFailure(relaying, 'ERR_MULTIFD_ABORTED')
    await expectSourceResumes(connection)
    await relaying.destination.left()
    expect(relaying.relay.status).toBe('cancelled')
  })

  it('the operator ends it while nobody has come yet', async () => {
    await using relaying = await Relaying.begin()
    relaying.abort()
    await expectFailure(relaying, 'ERR_MULTIFD_ABORTED')
    expect(relaying.relay.status).toBe('cancelled')
  })

  it('nobody listens at the destination: the source resumes', async () => {
    await using relaying = await Relaying.begin()
    await relaying.destination[Symbol.asyncDispose]()
    const connection = await relaying.source.play(recordedSource(NAME))
    await expectFailure(relaying, 'ERR_MULTIFD_CHANNEL', /ECONNREFUSED/)
    await expectSourceResumes(connection)
  })
})

describe('what falls silent', () => {
  it('is a source in the middle of its stream', async () => {
    const { main, channels } = recordedSource(NAME)
    await using relaying = await Relaying.begin({ peerTimeoutMs: SHORT_MS })
    const half = main.subarray(0, main.length / 2)
    const connection = await relaying.source.play({ main: half, channels })
    await expectFailure(relaying, 'ERR_MULTIFD_TIMEOUT', /the source sent nothing for 700 ms/)
    await expectSourceResumes(connection)
    await relaying.destination.left()
  })

  it.each([0, 2])('is a source behind its header, with %d channels', async (multifdChannels) => {
    const { main, channels } = recordedSource(NAME)
    await using relaying = await Relaying.begin({ multifdChannels, peerTimeoutMs: SHORT_MS })
    const header = main.subarray(0, 20)
    const introduced = channels.slice(0, multifdChannels).map((bytes) => bytes.subarray(0, 64))
    const connection = await relaying.source.play({ main: header, channels: introduced })
    await expectFailure(relaying, 'ERR_MULTIFD_TIMEOUT', /the source sent nothing for 700 ms/)
    await expectSourceResumes(connection)
    expect(relaying.destination.connected).toBe(false)
  })

  it('is a source of which a channel is missing', async () => {
    const { main, channels } = recordedSource(NAME)
    await using relaying = await Relaying.begin({ handshakeTimeoutMs: SHORT_MS })
    const connection = await relaying.source.play({ main, channels: channels.slice(1) })
    const command = /1 of 2 multifd channels .*"migrate_set_parameter multifd-channels 2"/
    await expectFailure(relaying, 'ERR_MULTIFD_TIMEOUT', command)
    await expectSourceResumes(connection)
    // A silent connection would have frozen it.
    expect(relaying.destination.connected).toBe(false)
  })

  it('is a destination that does not read its channels', async () => {
    const { main, channels } = recordedSource('q102-modern-none-3ch-slow')
    // Enough for any socket's buffers: the pages of the recording, over and over.
    const many = channels.map((bytes) => repeatPackets(bytes, 24 << 20))
    const silent = { readsChannels: false }
    await using relaying = await Relaying.begin(
      { multifdChannels: 3, peerTimeoutMs: SHORT_MS },
      silent,
    )
    const connection = await relaying.source.play({ main, channels: many })
    await expectFailure(relaying, 'ERR_MULTIFD_TIMEOUT', /the destination read nothing for 700 ms/)
    await expectSourceResumes(connection)
  })
})

describe('once the destination has everything', () => {
  it.each<[string, Act]>([
    ['says that it failed', (to) => to.answer(encodeShut(1))],
    ['closes in order', (to) => to.close()],
  ])('a destination that %s resumes the source', async (_what, act) => {
    await using relaying = await Relaying.begin({}, atTheEnd(act))
    const connection = await relaying.source.play(recordedSource(NAME))
    await expectFailure(relaying, PEER_CLOSED)
    await expectSourceResumes(connection)
    expect(connection.received.subarray(-8).toString('hex')).toBe('0001000400000001')
  })

  it.each<[string, Act, RegExp]>([
    ['is reset', (to) => to.reset(), /broke \(ECONNRESET\)/],
    ['says nothing', () => {}, /said nothing for 700 ms/],
    ['says what is no answer', (to) => to.answer(Uint8Array.of(0, 9, 0, 0)), /answer 0x0009/],
  ])('a destination that %s leaves the source held', async (_what, act, sentence) => {
    await using relaying = await Relaying.begin({ peerTimeoutMs: SHORT_MS }, atTheEnd(act))
    const connection = await relaying.source.play(recordedSource(NAME))
    const { reason } = await relaying.reaches('unknown')
    expect(reason).toMatch(sentence)
    expect(reason).toMatch(/Look at the destination first/)
    expectSourceHeld(connection)
    relaying.relay.decide('source')
    await expectFailure(relaying, 'ERR_MULTIFD_STATE', /the operator let the source resume/)
    await expectSourceResumes(connection)
  })

  it('the operator may say that the destination has the guest', async () => {
    await using relaying = await Relaying.begin(
      {},
      atTheEnd((to) => to.reset()),
    )
    const connection = await relaying.source.play(recordedSource(NAME))
    await relaying.reaches('unknown')
    expectSourceHeld(connection)
    relaying.relay.decide('destination')
    expect(await relaying.relay.result).toMatchObject({ status: 'completed', sourceTold: true })
    await connection.gone
    expectSourceTold(connection)
  })

  it.each([
    [0, 'completed'],
    [1, 'failed'],
  ])('a late SHUT(%d) ends the doubt', async (status, end) => {
    const silent = atTheEnd(() => {})
    await using relaying = await Relaying.begin({ peerTimeoutMs: SHORT_MS }, silent)
    const connection = await relaying.source.play(recordedSource(NAME))
    await relaying.reaches('unknown')
    relaying.destination.answer(encodeShut(status))
    await relaying.relay.result.catch(() => {})
    expect(relaying.relay.status).toBe(end)
    if (status === 0) expectSourceTold(connection)
    else await expectSourceResumes(connection)
  })

  it('the operator cannot simply end it', async () => {
    const silent = atTheEnd(() => {})
    await using relaying = await Relaying.begin({}, silent)
    const connection = await relaying.source.play(recordedSource(NAME))
    await relaying.reaches('device')
    relaying.abort()
    const { reason } = await relaying.reaches('unknown')
    expect(reason).toMatch(/ended by its caller/)
    expectSourceHeld(connection)
    relaying.relay.decide('source')
    await expectFailure(relaying, 'ERR_MULTIFD_STATE')
  })

  it('a source that goes does not take the destination with it', async () => {
    const silent = atTheEnd(() => {})
    await using relaying = await Relaying.begin({}, silent)
    await relaying.source.play(recordedSource(NAME))
    await relaying.reaches('device')
    relaying.source.kill()
    relaying.destination.answer(encodeShut(0))
    expect(await relaying.relay.result).toMatchObject({ status: 'completed' })
  })

  it('a source that goes first leaves nobody to hold when the destination goes, too', async () => {
    const silent = atTheEnd(() => {})
    await using relaying = await Relaying.begin({ peerTimeoutMs: SHORT_MS }, silent)
    await relaying.source.play(recordedSource(NAME))
    await relaying.reaches('device')
    relaying.source.kill()
    await expectFailure(relaying, 'ERR_MULTIFD_STATE', /said nothing.*the source is gone, too/)
  })

  it('with both ends gone nobody is waited for', async () => {
    const silent = atTheEnd(() => {})
    await using relaying = await Relaying.begin({ peerTimeoutMs: SHORT_MS }, silent)
    await relaying.source.play(recordedSource(NAME))
    await relaying.reaches('unknown')
    relaying.source.kill()
    await expectFailure(relaying, 'ERR_MULTIFD_STATE', /the source is gone, too/)
  })

  it('only a relay in doubt can be decided', async () => {
    await using relaying = await Relaying.begin()
    const refusal = { code: 'ERR_MULTIFD_STATE' }
    expect(() => relaying.relay.decide('source')).toThrow(expect.objectContaining(refusal))
    await relaying.source.play(recordedSource(NAME))
    await relaying.relay.result
    expect(() => relaying.relay.decide('destination')).toThrow(expect.objectContaining(refusal))
  })
})

function recordedLength(): number {
  return vectorNamed(NAME).main.length
}
