// What the addon gives TypeScript for resuming: a round that goes back, and what a destination has.

import { describe, expect, it } from 'vitest'
import { checked, native } from '../../src/kit/native.ts'
import { Memory, Receiver, Sender } from '../payload/channels.ts'

const PAGES = 130
const PLAIN = { compression: 'none' } as const

function bits(...pages: number[]): Uint8Array {
  const bitmap = new Uint8Array(24)
  for (const page of pages) bitmap[page >> 3] = (bitmap[page >> 3] ?? 0) | (1 << (page & 7))
  return bitmap
}

describe('a round that goes back', () => {
  it('is in the next one, but for what was received; what does not fit is an error', async () => {
    using memory = new Memory(PAGES * 4096)
    const log = checked(native().createDirtyLog(memory.native), 'a log')
    const ram = checked(native().createRamState(memory.native, log), 'a RAM state')
    expect(await ram.start()).toBeUndefined()
    log.mark(0, 126, 4)
    expect(await ram.beginRound()).toBe(4)
    for (const wrong of [[], [null, null], [new Uint8Array(17)], [new Uint8Array(0)]]) {
      expect(await ram.giveBack('current', wrong)).toMatchObject({
        code: 'ERR_MULTIFD_LIMIT',
        detail: expect.stringMatching(/bitmaps? of received pages/),
      })
    }
    expect(await ram.giveBack('previous', [null])).toBe(0)
    expect(await ram.giveBack('current', [bits(0, 127, 129)])).toBe(2)
    expect(await ram.beginRound()).toBe(2)
    expect(await ram.beginRound()).toBe(0)
    expect(await ram.giveBack('previous', [null])).toBe(2)
    ram.close()
    expect(await ram.giveBack('current', [null])).toMatchObject({ code: 'ERR_MULTIFD_CLOSED' })
    log.close()
  })
})

describe('what a destination has', () => {
  it('is a bitmap per block, which begins anew when it is told to', async () => {
    using from = new Memory(PAGES * 4096)
    using to = new Memory(PAGES * 4096)
    await to.native.empty()
    from.bytes.fill(1, 64 * 4096, 66 * 4096)
    await using receiver = new Receiver(to.native, 'none', { hold: true })
    await using sender = new Sender(from, receiver.port, PLAIN)
    await sender.start()
    expect(receiver.group.receivedSinceSync(0)).toEqual(bits())
    for (const page of [64, 65, 129]) sender.mark(page)
    expect(await sender.round()).toBe(3)
    await receiver.synced(1)
    expect(receiver.group.receivedSinceSync(0)).toEqual(bits(64, 65, 129))
    receiver.group.clearReceivedSinceSync()
    expect(receiver.group.receivedSinceSync(0)).toEqual(bits())
    expect(receiver.group.receivedSinceSync(1)).toHaveLength(0)
    expect(to.bytes.subarray(64 * 4096, 66 * 4096)).toEqual(from.bytes.subarray(0x40000, 0x42000))
    receiver.release()
  })
})
