// The two answers that resume a migration between our own ends: every split, every damage, and
// bitmaps as large as those of a terabyte.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { be16, concatBytes } from '../../src/wire/bytes.ts'
import {
  encodePong,
  encodeRecvBitmap,
  encodeResumeAck,
  type ReturnPathEvent,
  ReturnPathReader,
  recvBitmapBytes,
} from '../../src/wire/return-path.ts'
import { cutAt } from './reading.ts'

const BLOCKS = [
  { idstr: 'pc.ram', pageCount: 130 },
  { idstr: 'vga.vram', pageCount: 64 },
  { idstr: 'ö', pageCount: 1 },
]
const resuming = () => new ReturnPathReader({ resumeBlocks: BLOCKS })

function bitmapOf(pageCount: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length: recvBitmapBytes(pageCount) }, (_, at) => at * 7 + seed)
}

const EVENTS: ReturnPathEvent[] = [
  { kind: 'resume-ack', rounds: 0xfedc_ba98 },
  ...BLOCKS.map(({ idstr, pageCount }): ReturnPathEvent => {
    return { kind: 'recv-bitmap', idstr, bitmap: bitmapOf(pageCount) }
  }),
  { kind: 'pong', value: 3 },
]
const STREAM = concatBytes(
  encodeResumeAck(0xfedc_ba98),
  ...BLOCKS.map(({ idstr, pageCount }) => encodeRecvBitmap(idstr, bitmapOf(pageCount))),
  encodePong(3),
)

describe('the answers that resume', () => {
  it('have the bytes of the format', () => {
    const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
    expect(hex(encodeResumeAck(7))).toBe('0006000400000007')
    expect(hex(encodeRecvBitmap('ab', Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0x80)))).toBe(
      '00050003026162' + '0000000000000008' + '0100000000000080' + '0123456789abcdef',
    )
    expect([1, 64, 65, 2 ** 28].map(recvBitmapBytes)).toEqual([8, 8, 16, 2 ** 25])
  })

  it('cannot be made of what is none', () => {
    expect(() => encodeResumeAck(-1)).toThrow(RangeError)
    expect(() => encodeRecvBitmap('a', new Uint8Array(9))).toThrow(/multiple of 8 bytes, got 9/)
    expect(() => encodeRecvBitmap('', new Uint8Array(8))).toThrow(/RAM block/)
    expect(() => encodeRecvBitmap('a'.repeat(256), new Uint8Array(8))).toThrow(/RAM block/)
  })

  it('are read wherever they are split, and are incomplete there', () => {
    for (let at = 0; at <= STREAM.length; at++) {
      const reader = resuming()
      const first = reader.push(STREAM.subarray(0, at))
      const whole = [0, 8, ...ends()].includes(at)
      const end = reader.end()
      expect(end.ok, `at byte ${at}`).toBe(whole)
      if (!end.ok) expect(end.error.message).toContain(`ended at byte ${at}`)
      const second = reader.push(STREAM.subarray(at))
      expect([...first.events, ...second.events]).toEqual(EVENTS)
      expect(reader.end().ok).toBe(true)
    }
    const bytewise = resuming()
    const events = Array.from(STREAM).flatMap((byte) => bytewise.push(Uint8Array.of(byte)).events)
    expect(events).toEqual(EVENTS)
  })

  it('are refused from a peer that was not asked to resume', () => {
    for (const answer of [encodeResumeAck(1), encodeRecvBitmap('pc.ram', bitmapOf(130))]) {
      expect(new ReturnPathReader().push(answer).error).toMatchObject({
        code: 'ERR_MULTIFD_UNSUPPORTED',
        message: expect.stringContaining('post-copy'),
      })
    }
  })

  const bitmap = encodeRecvBitmap('pc.ram', bitmapOf(130))
  const damaged = (at: number, value: number) => bitmap.with(at, value)
  it.each<[string, Uint8Array, RegExp]>([
    ['no name', concatBytes(be16(5), be16(1), Uint8Array.of(0)), /1 bytes of data, expected 2/],
    ['a name too long', concatBytes(be16(5), be16(257)), /257 bytes of data/],
    ['lengths that differ', damaged(4, 5), /RAM block "pc.ram"/],
    ['a name that is not text', damaged(5, 0xff), /ff 63 2e/],
    ['an unknown block', encodeRecvBitmap('other', bitmapOf(130)), /"other".*does not have/],
    ['a block twice', concatBytes(bitmap, bitmap), /"pc.ram".*got before/],
    ['a short bitmap', encodeRecvBitmap('pc.ram', bitmapOf(128)), /has 16 bytes, expected 24/],
    ['a long bitmap', encodeRecvBitmap('pc.ram', bitmapOf(193)), /has 32 bytes, expected 24/],
    ['a size beyond numbers', damaged(11, 0xff), /has too many bytes, expected 24/],
    ['another end', damaged(bitmap.length - 1, 0xee), /01 23 45 67 89 ab cd ee.*expected 01 23/],
    ['RESUME_ACK of 8 bytes', concatBytes(be16(6), be16(8)), /8 bytes of data, expected 4/],
  ])('with %s are refused', (_title, bytes, sentence) => {
    const { error } = resuming().push(bytes)
    expect(error).toMatchObject({ code: 'ERR_MULTIFD_PROTOCOL' })
    expect(error?.message).toMatch(sentence)
  })

  it('give a value or an error for any bytes, and never throw', () => {
    const byte = fc.record({ at: fc.nat(STREAM.length - 1), value: fc.nat(255) })
    fc.assert(
      fc.property(
        fc.array(byte, { maxLength: 4 }),
        fc.array(fc.nat(STREAM.length)),
        (bytes, cuts) => {
          const stream = bytes.reduce((made, { at, value }) => made.with(at, value), STREAM)
          const reader = resuming()
          let failed = false
          for (const piece of cutAt(stream, cuts)) failed ||= reader.push(piece).error !== undefined
          expect(reader.end().ok && failed).toBe(false)
        },
      ),
    )
  })

  it('of a terabyte are copied once, in pieces as a socket gives them', () => {
    const pageCount = 2 ** 28
    const reader = new ReturnPathReader({ resumeBlocks: [{ idstr: 'pc.ram', pageCount }] })
    const sent = new Uint8Array(recvBitmapBytes(pageCount))
    for (let at = 0; at < sent.length; at += 4093) sent[at] = at & 0xff
    const stream = encodeRecvBitmap('pc.ram', sent)
    const events: ReturnPathEvent[] = []
    for (let at = 0; at < stream.length; at += 1000) {
      events.push(...reader.push(stream.subarray(at, at + 1000)).events)
    }
    expect(events).toHaveLength(1)
    const [event] = events
    if (event?.kind !== 'recv-bitmap') throw new Error('no bitmap')
    expect(Buffer.compare(event.bitmap, sent)).toBe(0)
  })
})

/** Where an answer of STREAM ends. */
function ends(): number[] {
  let at = 8
  const bitmaps = BLOCKS.map(({ idstr, pageCount }) => {
    at += encodeRecvBitmap(idstr, bitmapOf(pageCount)).length
    return at
  })
  return [...bitmaps, at + 8]
}
