// The two codecs of multifd packets, native and TypeScript, on the same random input: encodings are
// byte-identical, decoders agree on what they take, what they read, and with which code they
// refuse.
//
// Stated differences: TypeScript refuses a packet_num above 2^53-1 and a name that is not UTF-8.
// Native code takes both, because the number is informative only and the name is compared with
// those of blocks, or devices, which are UTF-8.

import fc from 'fast-check'
import { beforeAll, describe, expect, it } from 'vitest'
import { type NativeAddon, native } from '../../src/kit/native.ts'
import { decodeName, viewOf } from '../../src/wire/bytes.ts'
import { decodeDevicePacketHeader, encodeDevicePacketHeader } from '../../src/wire/device-packet.ts'
import {
  decodeInitialPacket,
  decodeRamPacketHeader,
  encodeInitialPacket,
  encodeRamPacketHeader,
} from '../../src/wire/packet.ts'

const USED_LENGTH = 64 * 4096
/** Bytes of an introduction that are checked: in its magic, its version and its channel. */
const CHECKED = [0, 3, 4, 7, 24]
const seed = Number(process.env.MULTIFD_TEST_SEED ?? Date.now() % 2 ** 31)
const runs = { seed, numRuns: 2000 }

let addon: NativeAddon
beforeAll(() => {
  console.log(`seed ${seed} (repeat with MULTIFD_TEST_SEED=${seed})`)
  addon = native()
})

const uuid = fc.uint8Array({ minLength: 16, maxLength: 16 })
const offset = fc.nat(63).map((page) => page * 4096)
const name = fc
  .string({ minLength: 1, maxLength: 40, unit: 'grapheme' })
  .filter((text) => !text.includes('\0'))

/** Method bits: none, zlib, zstd. */
const METHODS = [0, 2, 4]

const packet = fc
  .record({
    method: fc.constantFrom(...METHODS),
    compressedBytes: fc.integer({ min: 1, max: 2 ** 20 }),
    offsets: fc.array(offset, { maxLength: 128 }),
    split: fc.nat(128),
    name,
    packetNum: fc.nat(Number.MAX_SAFE_INTEGER),
    flags: fc.constantFrom(0, 1),
  })
  .map(({ offsets, split, method, compressedBytes, flags, ...rest }) => {
    const normal = offsets.slice(0, split)
    const payloadBytes = method === 0 ? normal.length * 4096 : compressedBytes
    return {
      ...rest,
      method,
      flags: offsets.length === 0 ? flags : flags | method,
      block: offsets.length === 0 ? '' : rest.name,
      normal,
      zero: offsets.slice(split),
      payloadBytes: normal.length === 0 ? 0 : payloadBytes,
    }
  })

type Packet = typeof packet extends fc.Arbitrary<infer T> ? T : never

function encode({ flags, packetNum, block, normal, zero, payloadBytes }: Packet): Uint8Array {
  return encodeRamPacketHeader({
    flags,
    packetNum,
    pagesAlloc: normal.length + zero.length === 0 ? 0 : 128,
    nextPacketSize: payloadBytes,
    ramblock: block,
    normalOffsets: normal,
    zeroOffsets: zero,
  })
}

/** What either decoder makes of a RAM header, comparable. */
function byTypeScript(bytes: Uint8Array, compressionFlag = 0): unknown {
  const usedLength = () => USED_LENGTH
  const result = decodeRamPacketHeader(bytes, { usedLength, compressionFlag })
  if (!result.ok) return result.error.code
  const { flags, packetNum, ramblock, normalOffsets, zeroOffsets, nextPacketSize } = result.value
  const pages = { normal: normalOffsets, zero: zeroOffsets, payloadBytes: nextPacketSize }
  return { flags, packetNum, block: ramblock, ...pages }
}

function byNative(bytes: Uint8Array, compressionFlag = 0): unknown {
  const result = addon.parseRamHeader(bytes, USED_LENGTH, compressionFlag)
  if ('detail' in result) return result.code
  const block = result.normal.length + result.zero.length === 0 ? '' : decodeName(result.block)
  return { ...result, packetNum: Number(result.packetNum), block }
}

/** The two stated differences, told from the bytes. */
function isStatedDifference(bytes: Uint8Array): boolean {
  if (viewOf(bytes).getUint32(24) >= 2 ** 21) return true
  const room = bytes.subarray(64, 64 + 255)
  const end = room.indexOf(0)
  const block = end < 0 ? room : room.subarray(0, end)
  return block.length > 0 && decodeName(block) === undefined
}

describe('native and TypeScript packets', () => {
  it('of the introduction are the same bytes', () => {
    fc.assert(
      fc.property(uuid, fc.nat(254), (bytes, channelId) => {
        const introduction = { uuid: bytes, channelId }
        expect(addon.encodeInitialPacket(introduction)).toEqual(encodeInitialPacket(introduction))
      }),
      runs,
    )
  })

  it('of RAM are the same bytes', () => {
    fc.assert(
      fc.property(packet, (one) => {
        const expected = encode(one)
        const got = addon.encodeRamHeader(one) as Uint8Array
        expect(Buffer.compare(got, expected)).toBe(0)
      }),
      runs,
    )
  })
})

const deviceHeader = fc.record({
  idstr: name.filter((text) => Buffer.byteLength(text) <= 255),
  instanceId: fc.nat(0xffff_ffff),
  payloadBytes: fc.integer({ min: 1, max: 2 ** 24 + 12 }),
})

describe('native and TypeScript headers of device state', () => {
  it('are the same bytes', () => {
    fc.assert(
      fc.property(deviceHeader, (one) => {
        const expected = encodeDevicePacketHeader({ ...one, nextPacketSize: one.payloadBytes })
        expect(Buffer.compare(addon.encodeDeviceHeader(one), expected)).toBe(0)
      }),
      runs,
    )
  })

  it('are read alike, whole or damaged, but for a name that is not UTF-8', () => {
    const near = fc.constantFrom(0, 1, 0x40, 0x41, 0x42, 2 ** 24 + 12, 2 ** 24 + 13, 0xffff_ffff)
    const poke = fc.oneof(
      fc.record({ at: fc.nat(275), value: fc.nat(255), wide: fc.constant(false) }),
      fc.record({
        at: fc.constantFrom(0, 4, 8, 12, 264, 272),
        value: near,
        wide: fc.constant(true),
      }),
    )
    const seen = new Map<string, number>()
    fc.assert(
      fc.property(deviceHeader, fc.array(poke, { maxLength: 3 }), (one, pokes) => {
        const bytes = encodeDevicePacketHeader({ ...one, nextPacketSize: one.payloadBytes })
        for (const { at, value, wide } of pokes) {
          if (wide) viewOf(bytes).setUint32(at, value)
          else bytes[at] = value
        }
        const there = addon.parseDeviceHeader(bytes)
        const idstr = 'detail' in there ? '' : decodeName(there.idstr)
        if (idstr === undefined) return
        const here = decodeDevicePacketHeader(bytes)
        if (here.ok) {
          const { instanceId, nextPacketSize } = here.value
          const expected = { idstr: here.value.idstr, instanceId, payloadBytes: nextPacketSize }
          expect({ ...there, idstr }).toEqual(expected)
        } else {
          expect('detail' in there ? there.code : there).toBe(here.error.code)
        }
        const outcome = here.ok ? 'accepted' : here.error.code
        seen.set(outcome, (seen.get(outcome) ?? 0) + 1)
      }),
      { ...runs, numRuns: 4000 },
    )
    for (const outcome of ['accepted', 'ERR_MULTIFD_PROTOCOL', 'ERR_MULTIFD_UNSUPPORTED']) {
      expect(seen.get(outcome) ?? 0, outcome).toBeGreaterThan(50)
    }
  })
})

describe('native and TypeScript decoders agree', () => {
  it('on introductions, whole or damaged', () => {
    const pokes = fc.array(fc.tuple(fc.nat(63), fc.nat(255)), { maxLength: 3 })
    const seen = new Set<string>()
    fc.assert(
      fc.property(uuid, fc.nat(254), pokes, fc.boolean(), (id, channelId, changes, damage) => {
        const bytes = encodeInitialPacket({ uuid: id, channelId })
        for (const [at, value] of changes) bytes[damage ? (CHECKED[at % 5] ?? 0) : at] = value
        const here = decodeInitialPacket(bytes)
        const there = addon.parseInitialPacket(bytes)
        const came = 'detail' in there ? there.code : there
        expect(came).toEqual(here.ok ? here.value : here.error.code)
        seen.add(here.ok ? 'accepted' : here.error.code)
      }),
      runs,
    )
    expect([...seen].sort()).toEqual(['ERR_MULTIFD_HANDSHAKE', 'accepted'])
  })

  it('on introductions of channel 255 and of another length', () => {
    const bytes = encodeInitialPacket({ uuid: new Uint8Array(16), channelId: 3 })
    bytes[24] = 255
    expect(addon.parseInitialPacket(bytes)).toMatchObject({
      code: 'ERR_MULTIFD_HANDSHAKE',
      detail: expect.stringMatching(/channel 255, expected 0 to 254/),
    })
    expect(addon.parseInitialPacket(bytes.subarray(1))).toMatchObject({
      detail: expect.stringMatching(/63 bytes, expected 64/),
    })
  })

  it('on RAM headers, whole or damaged', () => {
    // Single bytes, and 32-bit fields with values near what their checks compare with.
    const near = fc.constantFrom(
      ...[0, 1, 2, 3, 4, 4096, 8192, 127, 128, 129, 2 ** 20, 2 ** 20 + 1, 0x7fff_ffff, 0xffff_ffff],
    )
    const poke = fc.oneof(
      fc.record({ at: fc.nat(1343), value: fc.nat(255), wide: fc.constant(false) }),
      fc.record({ at: fc.nat(400), value: fc.nat(255), wide: fc.constant(false) }),
      fc.record({ at: fc.nat(9).map((i) => 4 * i), value: near, wide: fc.constant(true) }),
      fc.record({ at: fc.nat(255).map((i) => 320 + 4 * i), value: near, wide: fc.constant(true) }),
      fc.record({ at: fc.constant(64), value: fc.constant(0), wide: fc.constant(false) }),
    )
    const seen = new Map<string, number>()
    fc.assert(
      fc.property(packet, fc.array(poke, { maxLength: 3 }), fc.nat(9), (one, pokes, other) => {
        const bytes = encode(one)
        for (const { at, value, wide } of pokes) {
          if (wide) viewOf(bytes).setUint32(at, value)
          else bytes[at] = value
        }
        if (isStatedDifference(bytes)) return
        // Mostly the method that the packet was made for.
        const flag = METHODS[other] ?? one.method
        const here = byTypeScript(bytes, flag)
        expect(byNative(bytes, flag)).toEqual(here)
        const outcome = typeof here === 'string' ? here : 'accepted'
        seen.set(outcome, (seen.get(outcome) ?? 0) + 1)
      }),
      { ...runs, numRuns: 8000 },
    )
    // The test must have looked at every kind of outcome, and often.
    for (const outcome of ['accepted', 'ERR_MULTIFD_PROTOCOL', 'ERR_MULTIFD_UNSUPPORTED']) {
      expect(seen.get(outcome) ?? 0, outcome).toBeGreaterThan(50)
    }
  })

  it('except for a packet_num above 2^53-1 and a name that is not UTF-8', () => {
    const one: Packet = {
      ...{ flags: 0, packetNum: 1, name: '', block: 'pc.ram', normal: [0], zero: [] },
      ...{ method: 0, payloadBytes: 4096 },
    }
    const large = encode(one)
    viewOf(large).setUint32(24, 0x0020_0000)
    const strange = encode(one)
    strange[64] = 0xff
    for (const bytes of [large, strange]) {
      expect(byTypeScript(bytes)).toBe('ERR_MULTIFD_PROTOCOL')
      expect(addon.parseRamHeader(bytes, USED_LENGTH)).toMatchObject({ normal: [0] })
    }
  })
})
