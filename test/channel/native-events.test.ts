// The event loop and the channel threads: how often they wake it, and that they need it for nothing
// but more to do.

import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { sendCounterIndex } from '../../src/channel/counters.ts'
import { GuestMemory } from '../../src/index.ts'
import { PAGE_SIZE_BYTES } from '../../src/kit/limits.ts'
import { native } from '../../src/kit/native.ts'
import { migrateOnce } from '../support/migration.ts'
import { SendChannels } from '../support/native-hooks.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

/** Spins until `done`; a limit ends what would hang. */
function holdEventLoop(done: () => boolean): boolean {
  const limitMs = performance.now() + 30_000
  while (!done()) if (performance.now() > limitMs) return false
  return true
}

describe('the event loop', () => {
  // First in this file: the callback is set once, by the first thread that is listened to.
  it('is woken at most once per turn, though threads speak while it is held', async () => {
    const setWakeup = native().setWakeup
    const wakeUpsOfTurn = [0]
    using channels = new SendChannels()
    const sent = (): number =>
      channels.made.reduce((sum, { counters }) => {
        return sum + (counters[sendCounterIndex('sentBytes')] ?? 0)
      }, 0)
    native().setWakeup = (callback) =>
      setWakeup(() => {
        const turn = wakeUpsOfTurn.length - 1
        wakeUpsOfTurn[turn] = (wakeUpsOfTurn[turn] ?? 0) + 1
        callback()
        // Extents of 256 KiB: their ends are announced while nobody can hear it.
        const until = sent() + MIB
        for (let spins = 0; spins < 1e5 && sent() < until; spins += 1);
      })
    await using from = GuestMemory.allocate('ram', 64 * MIB)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    fillPages(from.view('ram'), seed)
    // A limit far above what can be had keeps extents small.
    const source = { maxBandwidthBytesPerSecond: 1e12, multifdChannels: 4 }
    const migrated = migrateOnce({ from, to, source })
    let going = true
    const ended = migrated.finally(() => {
      going = false
    })
    while (going) {
      await nextTurn()
      wakeUpsOfTurn.push(0)
    }
    await ended
    native().setWakeup = setWakeup
    expect(wakeUpsOfTurn.filter((count) => count === 1).length).toBeGreaterThan(3)
    expect(Math.max(...wakeUpsOfTurn)).toBe(1)
  })

  it('may be held: extents are sent and received meanwhile', async () => {
    await using from = GuestMemory.allocate('ram', 64 * MIB)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    fillPages(from.view('ram'), seed)
    using channels = new SendChannels()
    const { startSendChannel, startReceiveChannel } = native()
    let submitted: { at: number; bytes: number } | undefined
    let receiving = false
    let holds = 0
    /** Once the first extent was submitted, and the other end is past the SYNC of the setup. */
    const hold = (): void => {
      if (submitted === undefined || !receiving || holds > 0) return
      holds += 1
      const { at, bytes } = submitted
      // More than sockets hold: what has left was read at the other end.
      expect(bytes).toBe(16 * MIB)
      const sentBytes = sendCounterIndex('sentBytes')
      const counters = channels.made[0]?.counters
      expect(holdEventLoop(() => (counters?.[sentBytes] ?? 0) >= bytes * (15 / 16))).toBe(true)
      const part = (memory: GuestMemory): Uint8Array => memory.view('ram').subarray(at, at + MIB)
      expectSamePages(part(to), part(from))
    }
    native().startReceiveChannel = (...given) => {
      const channel = startReceiveChannel(...given)
      if ('detail' in channel) return channel
      const releaseSync = channel.releaseSync.bind(channel)
      const value = (): void => {
        releaseSync()
        receiving = true
        hold()
      }
      return Object.defineProperty(channel, 'releaseSync', { value })
    }
    native().startSendChannel = (group, options) => {
      const channel = startSendChannel(group, options)
      if ('detail' in channel) return channel
      const submitExtent = channel.submitExtent.bind(channel)
      const value: typeof submitExtent = (block, firstPage, pageCount, dirtyPages) => {
        const taken = submitExtent(block, firstPage, pageCount, dirtyPages)
        submitted ??= { at: firstPage * PAGE_SIZE_BYTES, bytes: dirtyPages * PAGE_SIZE_BYTES }
        hold()
        return taken
      }
      return Object.defineProperty(channel, 'submitExtent', { value })
    }
    const source = { multifdChannels: 1, zeroCopy: 'off', compression: 'none' } as const
    await migrateOnce({ from, to, source })
    Object.assign(native(), { startSendChannel, startReceiveChannel })
    expect(holds).toBe(1)
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})
