// The return path: every answer of QEMU's, every split, and what is refused.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { concatBytes } from '../../src/wire/bytes.ts'
import {
  encodePong,
  encodeShut,
  encodeSwitchoverAck,
  type ReturnPathEvent,
  ReturnPathReader,
} from '../../src/wire/return-path.ts'
import { cutAt } from './reading.ts'

const u32 = fc.nat(0xffff_ffff)
const answer: fc.Arbitrary<ReturnPathEvent> = fc.oneof(
  u32.map((status): ReturnPathEvent => ({ kind: 'shut', status })),
  u32.map((value): ReturnPathEvent => ({ kind: 'pong', value })),
  fc.constant<ReturnPathEvent>({ kind: 'switchover-ack' }),
)

function encode(event: ReturnPathEvent): Uint8Array {
  if (event.kind === 'shut') return encodeShut(event.status)
  return event.kind === 'pong' ? encodePong(event.value) : encodeSwitchoverAck()
}

describe('the return path', () => {
  it('gives back the answers written, however they are split', () => {
    fc.assert(
      fc.property(fc.array(answer), fc.array(fc.nat(80)), (answers, cuts) => {
        const reader = new ReturnPathReader()
        const readings = cutAt(concatBytes(...answers.map(encode)), cuts).map((piece) => {
          return reader.push(piece)
        })
        expect(readings.flatMap((reading) => reading.events)).toEqual(answers)
        expect(reader.end().ok).toBe(true)
      }),
    )
  })

  it('has the bytes QEMU 7.2 sent for PONG and SHUT', () => {
    const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
    expect(hex(encodePong(0x12345678))).toBe('0002000412345678')
    expect(hex(encodeShut(0))).toBe('0001000400000000')
    expect(hex(encodeSwitchoverAck())).toBe('00070000')
  })

  it('is incomplete inside an answer', () => {
    for (let length = 0; length <= 8; length++) {
      const reader = new ReturnPathReader()
      reader.push(encodePong(1).subarray(0, length))
      const end = reader.end()
      expect(end.ok).toBe(length === 0 || length === 8)
      if (!end.ok) expect(end.error.message).toContain(`ended at byte ${length}`)
    }
  })

  it.each<[string, number[], string, RegExp]>([
    ['an HTTP answer', [0x48, 0x54, 0x54, 0x50], 'PROTOCOL', /got "HTTP"/],
    ['a PONG of the wrong length', [0, 2, 0, 3], 'PROTOCOL', /3 bytes of data, expected 4/],
    ['an unknown answer', [0, 0xff, 0, 0], 'PROTOCOL', /0x00ff/],
    ['a request for pages', [0, 4, 0, 12], 'UNSUPPORTED', /post-copy/],
  ])('refuses %s and stays failed', (_title, bytes, code, sentence) => {
    const reader = new ReturnPathReader()
    const { error } = reader.push(concatBytes(encodePong(1), Uint8Array.from(bytes)))
    expect(error?.code).toBe(`ERR_MULTIFD_${code}`)
    expect(error?.message).toMatch(sentence)
    expect(error?.message).toContain('byte 8')
    expect(reader.push(encodeShut(0))).toEqual({ events: [], error })
    expect(reader.end()).toEqual({ ok: false, error })
  })

  it('never throws on noise', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 20 })), (pieces) => {
        const reader = new ReturnPathReader()
        for (const piece of pieces) reader.push(piece)
        reader.end()
      }),
    )
  })
})
