// Recorded sources of both QEMUs through a relay: the main stream comes out as it went in, and the
// channels' pages, however they are dealt out, rebuild the source's memory.

import { beforeEach, describe, expect, it } from 'vitest'

import { MIG_CMD_OPEN_RETURN_PATH } from '../../src/wire/constants.ts'
import { encodeSwitchoverAck } from '../../src/wire/return-path.ts'
import { recordingOf, withReturnPath } from '../snapshot/qemu-peer.ts'

import { expectNothingLeft, held } from '../support/resources.ts'
import { vectorNamed, vectors } from '../wire/vectors.ts'
import { rebuild } from './rebuild.ts'
import { expectSourceTold, Relaying } from './relaying.ts'

beforeEach(() => {
  const before = held()
  return () => expectNothingLeft(before)
})

describe.each(vectors.map(({ name }) => name))('%s', (name) => {
  const vector = vectorNamed(name)

  it.each([1, 2, 3, 4])('comes out whole over %d channels', async (toMultifdChannels) => {
    const recording = recordingWithReturnPath(name)
    await using relaying = await Relaying.begin({
      multifdChannels: vector.channels,
      toMultifdChannels,
      compression: vector.compression,
      toCompression: 'none',
    })
    const main = await relaying.source.play(recording)
    const result = await relaying.relay.result
    const { destination } = relaying
    expect(destination.main.equals(recording.main)).toBe(true)
    expect(destination.channels).toHaveLength(toMultifdChannels)
    const rebuilt = rebuild(destination.main, destination.channels)
    expect(rebuilt.hashes).toEqual(vector.rebuilt_sha256)
    expect(rebuilt.syncPoints).toBe(vector.sync_points)
    expect(rebuilt.odd).toBe(0)
    expect(rebuilt.packetNums).toEqual(rebuilt.packetNums.map((_, index) => index))
    expectSourceTold(main)
    expect(result).toMatchObject({
      status: 'completed',
      machine: vector.machine,
      dialect: vector.dialect.startsWith('legacy') ? 'per-section' : 'per-round',
      sourceTold: true,
      syncs: vector.sync_points,
      round: vector.sync_points - 1,
    })
    expect(result.normalPages).toBe(
      result.sourceChannels.reduce((sum, { normalPages }) => sum + normalPages, 0),
    )
    const sent = destination.channels.reduce((sum, bytes) => sum + bytes.length, 0)
    expect(result.sentBytes).toBe(sent + recording.main.length)
    for (const { syncs } of result.destinationChannels) expect(syncs).toBe(vector.sync_points)
  })
})

describe('a source', () => {
  const name = 'q72-legacy-none'

  it('may bring its connections in any order', async () => {
    const { main, channels } = recordingWithReturnPath(name)
    await using relaying = await Relaying.begin()
    for (const channel of channels.toReversed()) await relaying.source.connect(channel)
    const connection = await relaying.source.connect(main)
    await relaying.relay.result
    expectSourceTold(connection)
    expect(relaying.destination.main.equals(main)).toBe(true)
  })

  it('may send its main stream byte by byte', async () => {
    const { main, channels } = recordingWithReturnPath(name)
    await using relaying = await Relaying.begin()
    for (const channel of channels) await relaying.source.connect(channel)
    const connection = await relaying.source.connect()
    for (let at = 0; at < main.length; at += 7) connection.send(main.subarray(at, at + 7))
    await relaying.relay.result
    expect(relaying.destination.main.equals(main)).toBe(true)
  })

  it('may close its channels behind their last SYNC', async () => {
    const { main, channels } = recordingWithReturnPath(name)
    await using relaying = await Relaying.begin()
    const connection = await relaying.source.connect(main)
    for (const channel of channels) (await relaying.source.connect(channel)).end()
    await relaying.relay.result
    expectSourceTold(connection)
  })

  it('may send no vmdescription', async () => {
    const vector = vectorNamed(name)
    const { main, channels } = recordingWithReturnPath(name)
    const text = vector.main.sequence.at(-1) as { vmdescription_bytes: number }
    const short = main.subarray(0, main.length - text.vmdescription_bytes - 5)
    await using relaying = await Relaying.begin()
    const connection = await relaying.source.play({ main: short, channels })
    await relaying.reaches('device')
    // The destination's answer, which it gives without a vmdescription as well.
    relaying.destination.answer(Uint8Array.of(0, 1, 0, 4, 0, 0, 0, 0))
    await relaying.relay.result
    expectSourceTold(connection)
    expect(relaying.destination.main.equals(short)).toBe(true)
  })
})

describe('the return path', () => {
  it('is forwarded: SWITCHOVER_ACK, PONG, and SHUT at the end', async () => {
    await using relaying = await Relaying.begin(
      {},
      {
        at: (event, destination) => {
          const opens = event.kind === 'command' && event.command === MIG_CMD_OPEN_RETURN_PATH
          if (opens) destination.answer(encodeSwitchoverAck())
          return undefined
        },
      },
    )
    const connection = await relaying.source.play(recordingWithReturnPath('q72-legacy-none'))
    await relaying.relay.result
    expect(connection.received.toString('hex')).toBe('00070000000200040000abcd0001000400000000')
  })
})

describe('multifd off', () => {
  it('passes everything on over the main channel alone', async () => {
    // Pages are not in the recording's main stream; to the relay that makes no difference.
    const { main } = recordingWithReturnPath('q102-modern-zerolegacy')
    await using relaying = await Relaying.begin({ multifdChannels: 0 })
    const connection = await relaying.source.connect(main)
    const result = await relaying.relay.result
    expectSourceTold(connection)
    expect(relaying.destination.main.equals(main)).toBe(true)
    expect(relaying.destination.sockets).toHaveLength(1)
    expect(result).toMatchObject({ syncs: 0, round: 0, dialect: undefined, packets: 0 })
  })
})

/** As it was recorded, if that was with return path already. */
function recordingWithReturnPath(name: string) {
  const recording = recordingOf(vectorNamed(name))
  const [opened] = vectorNamed(name).main.sequence.filter((step) => {
    return step !== 'EOF' && 'command' in step && step.command === 1
  })
  return opened === undefined ? withReturnPath(recording) : recording
}
