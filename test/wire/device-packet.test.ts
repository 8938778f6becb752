// The header of a device-state packet: QEMU's bytes, both ways, and what is refused.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { encodeText, viewOf } from '../../src/wire/bytes.ts'
import { decodeDevicePacketHeader, encodeDevicePacketHeader } from '../../src/wire/device-packet.ts'

const MOST = 16 * 1024 * 1024 + 12
const example = { idstr: '0000:00:02.0/vfio', instanceId: 0x01020304, nextPacketSize: 0xabcdef }

/** As QEMU's source lays it out: nothing here comes from our own encoder. */
function golden(): Uint8Array {
  const bytes = new Uint8Array(276)
  bytes.set([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 0x40])
  bytes.set(encodeText('0000:00:02.0/vfio'), 12)
  bytes.set([1, 2, 3, 4, 0, 0xab, 0xcd, 0xef], 268)
  return bytes
}

function damaged(at: number, value: number): string {
  const bytes = golden()
  viewOf(bytes).setUint32(at, value)
  const result = decodeDevicePacketHeader(bytes)
  return result.ok ? 'accepted' : `${result.error.code} ${result.error.message}`
}

describe('the header of a device-state packet', () => {
  it('has the bytes of QEMU, both ways', () => {
    expect(encodeDevicePacketHeader(example)).toEqual(golden())
    expect(decodeDevicePacketHeader(golden())).toEqual({ ok: true, value: example })
  })

  it('survives a round trip, up to the longest name and payload', () => {
    const name = fc
      .string({ minLength: 1, maxLength: 60 })
      .filter((text) => !text.includes('\0') && Buffer.byteLength(text) <= 255)
    const size = fc.integer({ min: 1, max: MOST })
    fc.assert(
      fc.property(name, fc.nat(0xffff_ffff), size, (idstr, instanceId, nextPacketSize) => {
        const header = { idstr, instanceId, nextPacketSize }
        const decoded = decodeDevicePacketHeader(encodeDevicePacketHeader(header))
        expect(decoded).toEqual({ ok: true, value: header })
      }),
    )
    const longest = { idstr: 'd'.repeat(255), instanceId: 0xffff_ffff, nextPacketSize: MOST }
    expect(decodeDevicePacketHeader(encodeDevicePacketHeader(longest))).toMatchObject({
      value: longest,
    })
  })

  it('cannot be written where a field does not fit', () => {
    for (const wrong of [
      { idstr: '' },
      { idstr: 'd'.repeat(256) },
      { idstr: 'a\0b' },
      { instanceId: 2 ** 32 },
      { nextPacketSize: 0 },
      { nextPacketSize: MOST + 1 },
    ]) {
      expect(() => encodeDevicePacketHeader({ ...example, ...wrong })).toThrow(RangeError)
    }
  })

  it('is refused by each of its fields', () => {
    expect(damaged(0, 0x47455420)).toMatch(/PROTOCOL .*begins with "GET "/)
    expect(damaged(4, 2)).toMatch(/PROTOCOL .*version 2, expected 1/)
    expect(damaged(8, 0x41)).toMatch(/PROTOCOL .*flags are 0x41, and SYNC/)
    expect(damaged(8, 0x42)).toMatch(/UNSUPPORTED .*flags 0x42, expected 0x40 alone/)
    expect(damaged(8, 0)).toMatch(/UNSUPPORTED .*flags 0x0, expected 0x40 alone/)
    expect(damaged(12, 0)).toMatch(/PROTOCOL .*its name is/)
    expect(damaged(12, 0xff000000)).toMatch(/PROTOCOL .*its name is/)
    expect(damaged(264, 1)).toMatch(/PROTOCOL .*its name is/)
    expect(damaged(272, 0)).toMatch(/PROTOCOL .*next_packet_size is 0/)
    expect(damaged(272, MOST)).toBe('accepted')
    expect(damaged(272, MOST + 1)).toMatch(/PROTOCOL .*next_packet_size is 16777229, expected 1 to/)
    expect(decodeDevicePacketHeader(golden().subarray(1))).toMatchObject({ ok: false })
  })

  it('never makes the decoder throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        decodeDevicePacketHeader(bytes)
        const whole = golden()
        whole.set(bytes.subarray(0, 268), 8)
        const result = decodeDevicePacketHeader(whole)
        if (result.ok) expect(result.value.nextPacketSize).toBeLessThanOrEqual(MOST)
      }),
    )
  })
})
