// Sources made of plain sockets that connect again, or say that they do: a real destination goes on
// with the one that it began with, however often and in whatever order its connections come.

import { once } from 'node:events'
import { afterAll, beforeEach, describe, expect, it } from 'vitest'
import { formatOwnCapabilities } from '../../src/wire/dialect.ts'
import { encodePing } from '../../src/wire/main-stream-writer.ts'
import { encodeResumeAck, encodeShut } from '../../src/wire/return-path.ts'
import { GuardedGuest } from './guarded-guest.ts'
import { attempt, census, expectRefusal, type Script } from './incoming-attempt.ts'
import * as own from './own-stream-parts.ts'
import type { RawConnection } from './raw-peer.ts'

const guest = new GuardedGuest()
const before = census()
beforeEach(() => guest.reset())
afterAll(() => guest.memory.close())

const TOKEN = '0123456789abcdef'.repeat(2)

/** What the channels of connection `attempt` bring as their UUID. */
const channelUuid = (attempt: number): Uint8Array => new Uint8Array(16).fill(attempt)

/** @param attempt how often it connected before */
function opening(attempt: number, resume = TOKEN): Uint8Array {
  const resuming =
    attempt === 0 ? {} : { resuming: Buffer.from(channelUuid(attempt)).toString('hex') }
  const commit = { commit: true, compression: 'none', resume, ...resuming } as const
  return own.opening({ capabilities: formatOwnCapabilities({ channels: 1, ...commit }) })
}

/** The first connection, one round in; `drop` breaks it. */
async function begin(script: Script): Promise<{ main: RawConnection; channel: RawConnection }> {
  const main = await script.connect(opening(0), own.ramStart(), own.ramPart(), encodePing(1))
  const channel = await script.connect(own.introduction(0), own.sync(), own.ramPacket(), own.sync())
  await answered(main, encodeResumeAck(0).length + 8)
  return { main, channel }
}

/** So many bytes came back. */
async function answered(main: RawConnection, bytes: number): Promise<void> {
  while (main.received.length < bytes) await once(main.socket, 'data')
}

function drop(...connections: RawConnection[]): void {
  for (const { socket } of connections) socket.destroy()
}

/** Another connection, which carries the migration to its end. */
async function again(script: Script, attempt = 1): Promise<void> {
  const main = await script.connect(opening(attempt))
  await answered(main, encodeResumeAck(1).length)
  const channel = await script.connect(own.introduction(0, channelUuid(attempt)))
  main.send(own.ramStart(), own.ramEnd(), own.end())
  channel.send(own.sync(), own.sync())
  await commit(main)
}

async function commit(main: RawConnection): Promise<void> {
  while (!main.received.includes(Buffer.from(encodeShut(0)))) await once(main.socket, 'data')
  main.send(own.commit()).end()
}

describe('a source that connects again', () => {
  it('gets the channels that come after an attempt that failed', async () => {
    const play = async (script: Script): Promise<void> => {
      const first = await begin(script)
      drop(first.main, first.channel)
      const failed = await script.connect(opening(1))
      await answered(failed, encodeResumeAck(1).length)
      await (await script.connect(own.introduction(7, channelUuid(1)))).gone
      await again(script, 2)
    }
    const outcome = await attempt({ guest, play, options: { peerTimeoutMs: 1000 } })
    expect(outcome).toMatchObject({ status: 'completed', normalPages: 1 })
    expect(guest.ram[0]).toBe(0x77)
    expect(census()).toEqual(before)
  })

  it('is not given the channels of an attempt before, however late they come', async () => {
    const play = async (script: Script): Promise<void> => {
      const first = await begin(script)
      drop(first.main, first.channel)
      const main = await script.connect(opening(2))
      await answered(main, encodeResumeAck(1).length)
      const late = [own.sync(), own.ramPacket({ normalOffsets: [4096] }), own.sync()]
      await (await script.connect(own.introduction(0, channelUuid(1)), ...late)).gone
      const channel = await script.connect(own.introduction(0, channelUuid(2)))
      main.send(own.ramStart(), own.ramEnd(), own.end())
      channel.send(own.sync(), own.sync())
      await commit(main)
    }
    expect(await attempt({ guest, play })).toMatchObject({ status: 'completed', normalPages: 1 })
    expect(guest.ram[4096]).toBe(0)
  })

  it('hears on its main channel that a channel broke here', async () => {
    const play = async (script: Script): Promise<void> => {
      const first = await begin(script)
      drop(first.channel)
      await first.main.gone
      await again(script)
    }
    expect(await attempt({ guest, play })).toMatchObject({ status: 'completed' })
  })

  it('too late, after the end of RAM, is not taken up: its guest stands still already', async () => {
    const play = async (script: Script): Promise<void> => {
      const { main, channel } = await begin(script)
      main.send(own.ramEnd(), encodePing(2))
      channel.send(own.sync())
      await answered(main, encodeResumeAck(0).length + 16)
      drop(main, channel)
      await script.connect(opening(1))
    }
    expectRefusal(await attempt({ guest, play }), 'ERR_MULTIFD_PEER_CLOSED')
    expect(census()).toEqual(before)
  })
})

describe('a stranger beside a migration', () => {
  const strangers: [string, Uint8Array][] = [
    ['with another token', opening(1, 'f'.repeat(32))],
    ['that has the token, and does not resume', opening(0)],
    ['that says nothing more', opening(1).subarray(0, 20)],
  ]
  for (const [who, bytes] of strangers) {
    it(`${who} costs it nothing`, async () => {
      const play = async (script: Script): Promise<void> => {
        const { main, channel } = await begin(script)
        const stranger = await script.connect(bytes)
        if (bytes.length > 20) await stranger.gone
        main.send(own.ramEnd(), own.end())
        channel.send(own.sync())
        await commit(main)
      }
      expect(await attempt({ guest, play })).toMatchObject({ status: 'completed' })
      expect(census()).toEqual(before)
    })
  }
})
