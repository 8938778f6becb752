// Packets of the multifd channels: bytes to values and back, and what is refused.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { quoteBytes, viewOf } from '../../src/wire/bytes.ts'
import {
  decodeInitialPacket,
  decodeRamPacketHeader,
  encodeInitialPacket,
  encodeRamPacketHeader,
  encodeSyncPacket,
  RAM_PACKET_HEADER_BYTES,
  type RamPacket,
} from '../../src/wire/packet.ts'

const offset = fc.nat(2 ** 36).map((page) => page * 4096)

const ramPacket: fc.Arbitrary<RamPacket> = fc
  .tuple(
    fc.array(offset, { maxLength: 128 }),
    fc.nat(128),
    fc.string({ minLength: 1, maxLength: 60 }).filter((text) => !text.includes('\0')),
    fc.nat(Number.MAX_SAFE_INTEGER),
    fc.boolean(),
  )
  .map(([offsets, split, ramblock, packetNum, sync]) => {
    const normalOffsets = offsets.slice(0, split)
    return {
      flags: sync ? 1 : 0,
      pagesAlloc: 128,
      nextPacketSize: normalOffsets.length * 4096,
      packetNum,
      ramblock: offsets.length === 0 ? '' : ramblock,
      normalOffsets,
      zeroOffsets: offsets.slice(split),
    }
  })

const example: RamPacket = {
  flags: 0,
  pagesAlloc: 128,
  nextPacketSize: 8192,
  packetNum: 7,
  ramblock: 'pc.ram',
  normalOffsets: [0x1000, 0x3000],
  zeroOffsets: [0x2000],
}

function messageOf(result: ReturnType<typeof decodeRamPacketHeader>): string {
  return result.ok ? 'accepted' : `${result.error.code} ${result.error.message}`
}

/** The example with one field overwritten. */
function damaged(at: number, value: number, bits: 8 | 32 = 32): Uint8Array {
  const bytes = encodeRamPacketHeader(example)
  if (bits === 8) viewOf(bytes).setUint8(at, value)
  else viewOf(bytes).setUint32(at, value)
  return bytes
}

describe('the initial packet', () => {
  it('survives a round trip', () => {
    const uuids = fc.uint8Array({ minLength: 16, maxLength: 16 })
    fc.assert(
      fc.property(uuids, fc.nat(254), (uuid, channelId) => {
        const bytes = encodeInitialPacket({ uuid, channelId })
        expect(bytes.length).toBe(64)
        expect(decodeInitialPacket(bytes)).toEqual({ ok: true, value: { uuid, channelId } })
      }),
    )
  })

  it('is refused by magic, version, channel and length, quoting what came', () => {
    const good = encodeInitialPacket({ uuid: new Uint8Array(16), channelId: 3 })
    const request = new Uint8Array(64).fill(0x20)
    request.set(new TextEncoder().encode('GET / HTTP/1.1\r\n'))
    const refusal = (bytes: Uint8Array) => {
      const result = decodeInitialPacket(bytes)
      return result.ok ? 'accepted' : `${result.error.code} ${result.error.message}`
    }
    expect(refusal(request)).toMatch(/^ERR_MULTIFD_HANDSHAKE .*"GET ".*0x11223344/)
    expect(refusal(good.with(7, 2))).toMatch(/version 2, expected 1/)
    expect(refusal(good.with(24, 255))).toMatch(/channel 255, expected 0 .. 254/)
    expect(refusal(good.subarray(1))).toMatch(/63 bytes, expected 64/)
  })

  it('cannot be written for a channel or UUID that does not fit', () => {
    expect(() => encodeInitialPacket({ uuid: new Uint8Array(15), channelId: 0 })).toThrow(
      RangeError,
    )
    expect(() => encodeInitialPacket({ uuid: new Uint8Array(16), channelId: 255 })).toThrow(
      RangeError,
    )
  })
})

describe('the RAM packet header', () => {
  it('survives a round trip', () => {
    fc.assert(
      fc.property(ramPacket, (packet) => {
        const bytes = encodeRamPacketHeader(packet)
        expect(bytes.length).toBe(1344)
        expect(decodeRamPacketHeader(bytes)).toEqual({
          ok: true,
          value: {
            ...packet,
            normalPages: packet.normalOffsets.length,
            zeroPages: packet.zeroOffsets.length,
          },
        })
      }),
    )
  })

  it('never makes the decoder throw, and what it accepts reads the same again', () => {
    const opening = Uint8Array.of(0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1)
    const noise = fc.tuple(
      fc.uint8Array({ minLength: 24, maxLength: 320 }),
      fc.array(fc.tuple(fc.integer({ min: 8, max: 1343 }), fc.nat(255)), { maxLength: 12 }),
    )
    fc.assert(
      fc.property(noise, fc.boolean(), ([fields, pokes], fromExample) => {
        const bytes = fromExample ? encodeRamPacketHeader(example) : new Uint8Array(1344)
        if (!fromExample) bytes.set(fields.subarray(0, 1336), 8)
        bytes.set(opening)
        for (const [at, value] of pokes) bytes[at] = value
        const first = decodeRamPacketHeader(bytes)
        if (!first.ok) return
        const again = decodeRamPacketHeader(encodeRamPacketHeader(first.value))
        expect(again).toEqual(first)
      }),
      { numRuns: 3000 },
    )
  })

  it('says what is wrong with each field', () => {
    const refusals: [Uint8Array, RegExp][] = [
      [damaged(0, 0x47455420), /begins with "GET " .*0x11223344/],
      [damaged(4, 2), /version 2, expected 1/],
      [damaged(8, 0x40), /UNSUPPORTED .*flags 0x40, expected none but 0x1.*device state/],
      [damaged(8, 0x02), /UNSUPPORTED .*flags 0x2, .*multifd-compression/],
      [damaged(12, 129), /pages_alloc is 129, expected at most 128/],
      [damaged(12, 1), /normal_pages is 2, expected at most pages_alloc, 1/],
      [damaged(32, 127), /zero_pages is 127, expected at most 126/],
      [damaged(20, 4096), /next_packet_size is 4096, expected 8192/],
      [damaged(24, 0x00200000), /packet_num is 00 20 00 00 00 00 00 07/],
      [damaged(64, 0, 8), /name is nothing/],
      [damaged(64, 0xff, 8), /name is ff 63/],
      [
        damaged(327, 1, 8),
        /offset 0 in RAM block "pc.ram" is 0x1001, expected a multiple of 0x1000/,
      ],
      [damaged(320, 0xff, 8), /offset 0 .* is ff 00/],
      [new Uint8Array(100), /100 bytes, expected 1344/],
    ]
    for (const [bytes, sentence] of refusals) {
      expect(messageOf(decodeRamPacketHeader(bytes))).toMatch(sentence)
    }
  })

  it('is checked against the RAM blocks when they are known', () => {
    const bytes = encodeRamPacketHeader(example)
    const check = (length: number | undefined) =>
      messageOf(decodeRamPacketHeader(bytes, { usedLength: () => length }))
    expect(check(0x4000)).toBe('accepted')
    expect(check(0x3000)).toMatch(/offset 1 .* is 0x3000, .* inside its 0x3000 bytes/)
    expect(check(undefined)).toMatch(/no RAM block named "pc.ram"/)
  })

  it('does not trust next_packet_size and the name of a packet without pages', () => {
    const bytes = encodeRamPacketHeader({ ...example, normalOffsets: [], zeroOffsets: [] })
    const result = decodeRamPacketHeader(bytes, { usedLength: () => undefined })
    expect(result).toMatchObject({ ok: true, value: { nextPacketSize: 0, ramblock: '' } })
  })

  it('takes the compression bits of packets with pages only', () => {
    const bytes = encodeRamPacketHeader({ ...example, flags: 0x02, nextPacketSize: 77 })
    expect(messageOf(decodeRamPacketHeader(bytes, { compressionFlag: 0x02 }))).toBe('accepted')
    const plain = encodeRamPacketHeader(example)
    const refused = messageOf(decodeRamPacketHeader(plain, { compressionFlag: 0x02 }))
    expect(refused).toMatch(/PROTOCOL .*compression bits are 0x0, expected 0x2/)
    const sync = encodeSyncPacket(9)
    expect(messageOf(decodeRamPacketHeader(sync, { compressionFlag: 0x02 }))).toBe('accepted')
  })

  it('of a SYNC has everything zero but magic, version, flag and number', () => {
    const bytes = encodeSyncPacket(0x1_0000_0002)
    const expected = new Uint8Array(RAM_PACKET_HEADER_BYTES)
    expected.set([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 1])
    expected.set([0, 0, 0, 1, 0, 0, 0, 2], 24)
    expect(bytes).toEqual(expected)
  })

  it('cannot be written with values no destination accepts', () => {
    const refused: Partial<RamPacket>[] = [
      { pagesAlloc: 129 },
      { pagesAlloc: 2 },
      { normalOffsets: [1] },
      { normalOffsets: [-4096] },
      { packetNum: 2 ** 53 },
      { ramblock: '' },
      { ramblock: 'x'.repeat(256) },
      { ramblock: 'a\0b' },
    ]
    for (const change of refused) {
      expect(() => encodeRamPacketHeader({ ...example, ...change })).toThrow(RangeError)
    }
  })
})

describe('a quotation of bytes', () => {
  it('shows text when all of it is printable, and never more than 32 bytes', () => {
    expect(quoteBytes(new TextEncoder().encode('HTTP'))).toBe('"HTTP" (48 54 54 50)')
    expect(quoteBytes(Uint8Array.of(1, 0x41))).toBe('01 41')
    expect(quoteBytes(new Uint8Array(40))).toMatch(/^(00 ){32}\.\.\. \(40 bytes\)$/)
  })
})
