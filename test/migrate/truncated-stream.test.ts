// A recorded stream of our own, cut at every byte position of every connection: each prefix gives
// an error, nothing is left open, nothing is written outside the guest, and the whole stream still
// loads.

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import type { Device } from '../../src/migrate/vmm.ts'
import { GuardedGuest } from './guarded-guest.ts'
import { attempt, census, type Outcome } from './incoming-attempt.ts'
import { ownStreams, ownVector } from './own-vector.ts'

/** Attempts at the same time: each waits for its own sockets and threads most of the time. */
const LANES = 8

const vector = ownVector()
const streams = ownStreams()
const whole = [streams.main, ...streams.channels]
const device: Device = { idstr: vector.device.idstr, save: () => new Uint8Array(), load: () => {} }
const lanes: GuardedGuest[] = []
let before: Record<string, number>

beforeAll(() => {
  for (let lane = 0; lane < LANES; lane += 1) lanes.push(new GuardedGuest())
  before = census()
})
afterAll(async () => {
  await Promise.all(lanes.map(({ memory }) => memory.close()))
})

/** Plays the recording with connection `cut` ending after `length` bytes. */
async function replay(guest: GuardedGuest, cut: number, length: number): Promise<Outcome> {
  return await attempt({
    guest,
    options: { devices: [device] },
    play: async (script) => {
      await Promise.all(
        whole.map(async (bytes, index) => {
          const connection = await script.connect(index === cut ? bytes.subarray(0, length) : bytes)
          if (index === cut) connection.end()
        }),
      ).catch(() => {}) // the destination may be gone before the last one connects
    },
  })
}

function expectLoaded(guest: GuardedGuest): void {
  const expected = new Uint8Array(vector.usedLength)
  for (const { page, fill } of vector.pages) expected.fill(fill, page * 4096, (page + 1) * 4096)
  expect(Buffer.compare(guest.ram, expected)).toBe(0)
}

describe('a recorded stream', () => {
  it('loads when it is whole, and leaves nothing behind', async () => {
    const guest = lanes[0] as GuardedGuest
    guest.reset()
    const outcome = await replay(guest, 0, streams.main.length)
    expect(outcome).toMatchObject({ status: 'completed', syncs: vector.syncs })
    expectLoaded(guest)
    expect(census()).toEqual(before)
  })

  it.each(
    whole.map((bytes, index) => [index === 0 ? 'main' : `ch${index - 1}`, index, bytes.length]),
  )(
    'cut anywhere in %s is an error with a reason',
    async (_name, cut, length) => {
      const codes = new Map<string, number>()
      let next = 0
      const lane = async (guest: GuardedGuest): Promise<void> => {
        for (let at = next++; at < Number(length); at = next++) {
          const outcome = await replay(guest, Number(cut), at)
          if (!(outcome instanceof MultifdError)) throw new Error(`byte ${at}: it completed`)
          expect(outcome.message, `byte ${at}`).toMatch(/closed|ended|broke/)
          codes.set(outcome.code, (codes.get(outcome.code) ?? 0) + 1)
        }
      }
      const ends = await Promise.allSettled(lanes.map(lane))
      for (const end of ends) if (end.status === 'rejected') throw end.reason
      expect([...codes.keys()].sort()).toEqual(['ERR_MULTIFD_HANDSHAKE', 'ERR_MULTIFD_PEER_CLOSED'])
      expect(census()).toEqual(before)
    },
    120_000,
  )

  it('still loads into the memory of all those attempts', async () => {
    for (const guest of lanes) {
      expect(await replay(guest, 0, streams.main.length)).toMatchObject({ status: 'completed' })
      expectLoaded(guest)
    }
    expect(census()).toEqual(before)
  })
})
