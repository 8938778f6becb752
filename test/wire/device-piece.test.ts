// The payload of device-state packets: its bytes, the way back, and everything that is none.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { be32, be64, concatBytes } from '../../src/wire/bytes.ts'
import {
  decodeDevicePiece,
  encodeDevicePiece,
  endOfState,
  isEndOfState,
} from '../../src/wire/device-piece.ts'

const bytes = (...values: number[]) => Uint8Array.from(values)
const payload = (...words: number[]) => concatBytes(...words.map(be32))

describe('a piece of a device', () => {
  it('has the bytes of QEMU', () => {
    const first = encodeDevicePiece({ index: 3, last: false, data: bytes(7, 8) })
    expect(concatBytes(first.prefix, first.data)).toEqual(
      concatBytes(payload(0, 3, 0), bytes(7, 8)),
    )
    const last = encodeDevicePiece({ index: 4, last: true, data: bytes(9) })
    expect(Buffer.from(concatBytes(last.prefix, last.data)).toString('hex')).toBe(
      `${'00000000'}${'00000004'}${'00000001'}${'ffffffffef100002'}09${'ffffffffef100001'}`,
    )
    expect(Buffer.from(endOfState()).toString('hex')).toBe('ffffffffef100001')
  })

  it('does not copy what it need not', () => {
    const data = new Uint8Array(5)
    expect(encodeDevicePiece({ index: 0, last: false, data }).data).toBe(data)
  })

  it('comes back as it was', () => {
    fc.assert(
      fc.property(fc.nat(0xffff_fffe), fc.boolean(), fc.uint8Array(), (index, last, data) => {
        const encoded = encodeDevicePiece({ index, last, data })
        const piece = decodeDevicePiece(concatBytes(encoded.prefix, encoded.data))
        expect(piece).toEqual({ ok: true, value: { index, last, data } })
      }),
    )
  })

  const bad: [string, Uint8Array, string, RegExp][] = [
    ['too short', payload(0, 1), 'PROTOCOL', /8 bytes, expected at least 12/],
    ['of another version', payload(1, 0, 0), 'UNSUPPORTED', /version 1, expected 0/],
    ['without an index', payload(0, 0xffff_ffff, 0), 'PROTOCOL', /0xffffffff, which is none/],
    ['with unknown flags', payload(0, 0, 3), 'PROTOCOL', /piece 0 has flags 0x3/],
    ['the last without words', payload(0, 5, 1), 'PROTOCOL', /last piece, 5, is not between/],
    [
      'the last without its end',
      concatBytes(
        encodeDevicePiece({ index: 5, last: true, data: bytes(1) }).prefix,
        be64(1),
        be64(2),
      ),
      'PROTOCOL',
      /last piece, 5/,
    ],
  ]
  it.each(bad)('%s is refused', (_title, input, code, sentence) => {
    const piece = decodeDevicePiece(input)
    expect(piece.ok ? undefined : piece.error.code).toBe(`ERR_MULTIFD_${code}`)
    expect(piece.ok ? '' : piece.error.message).toMatch(sentence)
  })

  it('is a value or an error, whatever the bytes', () => {
    const noise = fc.oneof(
      fc.uint8Array({ maxLength: 40 }),
      fc
        .tuple(fc.nat(1), fc.nat(3), fc.uint8Array({ maxLength: 30 }))
        .map(([index, flags, data]) => concatBytes(payload(0, index, flags), data)),
    )
    fc.assert(
      fc.property(noise, (input) => {
        const piece = decodeDevicePiece(input)
        if (piece.ok) {
          const again = encodeDevicePiece(piece.value)
          expect(concatBytes(again.prefix, again.data)).toEqual(input)
        }
      }),
      { numRuns: 500 },
    )
  })

  it('refuses to be written with no index', () => {
    const piece = { index: 0xffff_ffff, last: false, data: bytes() }
    expect(() => encodeDevicePiece(piece)).toThrow(RangeError)
  })

  it('is told from the end of one by all its bytes', () => {
    expect(isEndOfState(endOfState())).toBe(true)
    expect(isEndOfState(concatBytes(endOfState(), bytes(0)))).toBe(false)
    expect(isEndOfState(endOfState().subarray(1))).toBe(false)
    expect(isEndOfState(be64(1))).toBe(false)
  })
})
