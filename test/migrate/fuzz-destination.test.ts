// A recorded stream of our own, damaged at random in any of its connections and sent in random
// pieces: the destination always settles, with a result or a MultifdError, writes nothing but guest
// memory and leaves nothing open. Repeat a failure with MULTIFD_TEST_SEED.

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MultifdError } from '../../src/kit/errors.ts'
import type { Device } from '../../src/migrate/vmm.ts'
import { randomNumbers, testSeed } from '../support/pages.ts'
import { GuardedGuest } from './guarded-guest.ts'
import { attempt, census, type Outcome, type Script } from './incoming-attempt.ts'
import { ownStreams, ownVector } from './own-vector.ts'

const RUNS = 600
const LANES = 6

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

type Random = () => number
const below = (random: Random, limit: number): number => Math.floor(random() * limit)

/** Numbers that lie near what decoders compare with. */
const EDGES = [0, 1, 2, 0x7f, 0x80, 0xff, 4095, 4096, 0x10000, 0x7fff_ffff, 0xffff_ffff]

/** One to three changes: bytes, words, pieces taken out, doubled or swapped in from elsewhere. */
function damage(bytes: Uint8Array, random: Random): Uint8Array {
  let result = Buffer.from(bytes)
  for (let left = 1 + below(random, 3); left > 0 && result.length > 8; left -= 1) {
    // Every other change goes to the first 400 bytes: headers are short, payloads long.
    const reach = random() < 0.5 ? Math.min(400, result.length) : result.length
    const at = below(random, reach - 4)
    const end = Math.min(result.length, at + 1 + below(random, 64))
    const kind = below(random, 5)
    if (kind === 0) result[at] = below(random, 256)
    if (kind === 1) result.writeUInt32BE(EDGES[below(random, EDGES.length)] ?? 0, at)
    if (kind === 2) result[at] = (result[at] ?? 0) ^ (1 << below(random, 8))
    if (kind === 3) result = Buffer.concat([result.subarray(0, at), result.subarray(end)])
    if (kind === 4) result = Buffer.concat([result.subarray(0, end), result.subarray(at)])
  }
  return result
}

async function run(guest: GuardedGuest, seed: number): Promise<Outcome> {
  const random = randomNumbers(seed)
  const victim = below(random, whole.length)
  const sent = whole.map((bytes, index) => (index === victim ? damage(bytes, random) : bytes))
  // Mostly all close in the end; now and then one stays open, which the time limits must end.
  const staysOpen = random() < 0.1
  const cut = below(random, 64)
  const play = async (script: Script): Promise<void> => {
    await Promise.all(
      sent.map(async (bytes) => {
        const connection = await script.connect(bytes.subarray(0, cut))
        await new Promise((resolve) => setImmediate(resolve))
        connection.send(bytes.subarray(cut))
        if (!staysOpen) connection.end()
      }),
    ).catch(() => {}) // refused before the last one connects
  }
  const options = { devices: [device], handshakeTimeoutMs: 100, peerTimeoutMs: 100 }
  return await attempt({ guest, options, play })
}

describe('a destination under random damage', () => {
  it(`settles ${RUNS} times with a result or an error of ours`, async () => {
    const first = testSeed()
    const codes = new Map<string, number>()
    let next = 0
    const lane = async (guest: GuardedGuest): Promise<void> => {
      for (let index = next++; index < RUNS; index = next++) {
        const outcome = await run(guest, first + index).catch((cause: unknown) => {
          throw new Error(`with seed ${first + index}`, { cause })
        })
        const code = outcome instanceof MultifdError ? outcome.code : outcome.status
        // What only our own mistakes lead to: an assertion, or a TypeError turned into a state.
        expect(code, `with seed ${first + index}`).not.toBe('ERR_MULTIFD_STATE')
        codes.set(code, (codes.get(code) ?? 0) + 1)
      }
    }
    const ends = await Promise.allSettled(lanes.map(lane))
    for (const end of ends) if (end.status === 'rejected') throw end.reason
    console.log(Object.fromEntries(codes))
    expect(census()).toEqual(before)
    // Damage that is never noticed, or always in the same place, would be no test.
    expect(codes.size).toBeGreaterThan(3)
  })
})
