// What a source that was let in may send and must not get away with: packets, sections and devices
// that are wrong, and everything in the wrong order. Guest memory is all that a peer can ever
// write.

import { once } from 'node:events'
import { afterAll, beforeEach, describe, expect, it } from 'vitest'
import type { Device } from '../../src/migrate/vmm.ts'
import { concatBytes } from '../../src/wire/bytes.ts'
import { encodeDevicePacketHeader } from '../../src/wire/device-packet.ts'
import { encodeDeviceStart, encodePing } from '../../src/wire/main-stream-writer.ts'
import { encodeShut } from '../../src/wire/return-path.ts'
import { GUEST_BLOCK, GUEST_BYTES, GuardedGuest } from './guarded-guest.ts'
import { attempt, census, expectRefusal, type Outcome, type Script } from './incoming-attempt.ts'
import * as own from './own-stream-parts.ts'

const guest = new GuardedGuest()
const before = census()
const PROTOCOL = 'ERR_MULTIFD_PROTOCOL'
const UNSUPPORTED = 'ERR_MULTIFD_UNSUPPORTED'

beforeEach(() => guest.reset())
afterAll(() => guest.memory.close())

/** One main channel and one multifd channel that say this. */
async function sends(
  main: Uint8Array[],
  channel: Uint8Array[],
  options: { devices?: Device[]; peerTimeoutMs?: number } = {},
): Promise<Outcome> {
  const play = async (script: Script): Promise<void> => {
    await script.connect(own.opening({}), ...main)
    await script.connect(own.introduction(0), ...channel)
  }
  const outcome = await attempt({ guest, play, options })
  expect(census()).toEqual(before)
  return outcome
}

describe('a packet is refused', () => {
  const header = own.ramPacket().subarray(0, 1344)
  const beyond = GUEST_BYTES
  const packets: [string, string, Uint8Array, RegExp][] = [
    ['with another magic', PROTOCOL, own.patched(header, [0, 0x11223345]), /magic 0x11223345, exp/],
    ['of another version', PROTOCOL, own.patched(header, [4, 2]), /version 2, expected 1/],
    ['with unknown flags', UNSUPPORTED, own.patched(header, [8, 0x100]), /flags 0x100, expected/],
    ['with compressed pages', UNSUPPORTED, own.patched(header, [8, 2]), /flags 0x2, .*compression/],
    [
      'with room for too many pages',
      PROTOCOL,
      own.patched(header, [12, 129]),
      /129, expected .*128/,
    ],
    ['with too many pages', PROTOCOL, own.patched(header, [16, 129]), /129 normal .* at most 128/],
    ['with 2^32 - 1 pages', PROTOCOL, own.patched(header, [16, 0xffff_ffff]), /at most 128/],
    ['with zero pages that wrap', PROTOCOL, own.patched(header, [32, 0xffff_ffff]), /at most 128/],
    ['with a payload too short', PROTOCOL, own.patched(header, [20, 4095]), /4095, expected 4096/],
    ['of an unknown block', PROTOCOL, own.ramPacket({ ramblock: 'vga' }), /block "vga", which/],
    ['of a block with no name', PROTOCOL, own.patched(header, [64, 0]), /without a name/],
    ['off a page', PROTOCOL, own.patched(header, [324, 0x800]), /offset 0x800 .* multiple of 4096/],
    [
      'behind the block',
      PROTOCOL,
      own.ramPacket({ normalOffsets: [beyond] }),
      /offset 0x10000 in RAM block "guest.ram", .* below its length 0x10000/,
    ],
    ['far behind it', PROTOCOL, own.patched(header, [320, 0x7fff_ffff]), /offset 0x7fffffff0000/],
    [
      'before the block',
      PROTOCOL,
      own.patched(header, [320, 0xffff_ffff], [324, 0xffff_f000]),
      /offset 0xfffffffffffff000/,
    ],
    [
      'with a zero page behind the block',
      PROTOCOL,
      own.ramPacket({ normalOffsets: [], zeroOffsets: [beyond] }),
      /offset 0x10000/,
    ],
  ]
  it('of the state of a device that is not here', async () => {
    const header = encodeDevicePacketHeader({ idstr: 'vga', instanceId: 2, nextPacketSize: 1 })
    const packet = concatBytes(header, Uint8Array.of(0))
    const outcome = await sends([own.ramStart()], [own.sync(), packet])
    expectRefusal(outcome, PROTOCOL, /device "vga" \(instance 2\), which .* does not have/)
    guest.expectNothingLoaded()
  })

  it.each(packets)('%s', async (_name, code, packet, sentence) => {
    const outcome = await sends([own.ramStart()], [own.sync(), packet])
    expectRefusal(outcome, code, /multifd channel 0/, sentence)
    expect(outcome).toMatchObject({ channelId: 0 })
    guest.expectNothingLoaded()
  })

  it('whole, if one of its 128 pages is outside', async () => {
    const normalOffsets = Array.from({ length: 128 }, (_, i) => (i % 16) * 4096)
    normalOffsets[127] = beyond
    const outcome = await sends([own.ramStart()], [own.sync(), own.ramPacket({ normalOffsets })])
    expectRefusal(outcome, PROTOCOL, /offset 0x10000/)
    guest.expectNothingLoaded()
  })
})

describe('where large packets were announced, one is refused', () => {
  const BARE = ['multifd-channels=1', 'commit']
  const SLOTS = 472
  const sendsTo = async (capabilities: string[], channel: Uint8Array[]): Promise<Outcome> => {
    const play = async (script: Script): Promise<void> => {
      await script.connect(own.opening({ capabilities }), own.ramStart())
      await script.connect(own.introduction(0), ...channel)
    }
    const outcome = await attempt({ guest, play })
    expect(census()).toEqual(before)
    guest.expectNothingLoaded()
    return outcome
  }
  /** A header with room for 472 pages, and what lies behind it. */
  const large = (packet: Uint8Array): Uint8Array =>
    concatBytes(packet.subarray(0, 1344), new Uint8Array(4096 - 1344), packet.subarray(1344))
  const announced = [...BARE, 'multifd-compression=none', 'large-packets']
  const packet = large(own.ramPacket())
  const cases: [string, Uint8Array, RegExp][] = [
    ['with room for 473 pages', own.patched(packet, [12, SLOTS + 1]), /473, expected .* 472/],
    ['with 473 pages', own.patched(packet, [12, SLOTS], [16, SLOTS + 1]), /473 normal .* 472/],
    ['with more pages in both lists', own.patched(packet, [12, SLOTS], [32, SLOTS]), /at most 472/],
    ['outside the block', own.patched(packet, [324, GUEST_BYTES]), /offset 0x10000/],
  ]
  it.each(cases)('%s', async (_name, bytes, sentence) => {
    expectRefusal(await sendsTo(announced, [large(own.sync()), bytes]), PROTOCOL, sentence)
  })

  it('that is large all the same beside compression, whose packets are not', async () => {
    const zlib = [...BARE, 'multifd-compression=zlib', 'large-packets']
    const many = own.patched(packet, [8, 2], [12, SLOTS])
    expectRefusal(await sendsTo(zlib, [own.sync(), many]), PROTOCOL, /472, expected .* 128/)
  })
})

describe('the main stream is refused', () => {
  const blocks = (idstr: string, usedLength: number): Uint8Array[] => [
    own.ramStart([{ idstr, usedLength }]),
  ]
  const disk = { sectionId: own.RAM_SECTION, idstr: 'disk', instanceId: 0, versionId: 1 }
  const unknownSection = encodeDeviceStart(disk, Uint8Array.of(1))
  const streams: [string, string, Uint8Array[], RegExp][] = [
    [
      'with an unknown block',
      PROTOCOL,
      blocks('pc.ram', GUEST_BYTES),
      /"pc.ram" 65536, expected "g/,
    ],
    [
      'with a block too long',
      PROTOCOL,
      blocks(GUEST_BLOCK, 2 * GUEST_BYTES),
      /131072, expected .*65536/,
    ],
    ['with a block too short', PROTOCOL, blocks(GUEST_BLOCK, 4096), /4096, expected .* 65536/],
    ['with a device that is not here', PROTOCOL, [unknownSection], /device "disk".*does not have/],
    ['with PART before START', PROTOCOL, [own.ramPart()], /section id 1, expected .*START/],
    [
      'with START twice',
      PROTOCOL,
      [own.ramStart(), own.ramStart()],
      /id 1, which is already in use/,
    ],
    ['with EOF before the end of RAM', PROTOCOL, [own.ramStart(), own.end()], /EOF comes before/],
    [
      'with commit before EOF',
      PROTOCOL,
      [own.ramStart(), own.commit()],
      /out of place, .* after EOF/,
    ],
    [
      'with an unknown command',
      PROTOCOL,
      [own.ramStart(), Uint8Array.of(8, 0, 99, 0, 0)],
      /unknown command 0x63/,
    ],
    [
      'with a PING of the wrong size',
      PROTOCOL,
      [own.ramStart(), Uint8Array.of(8, 0, 2, 0, 2, 0, 0)],
      /command 2 has 2 bytes of data, expected 4/,
    ],
    [
      'with RAM behind its end',
      PROTOCOL,
      [own.ramStart(), own.ramEnd(), own.ramPart()],
      /goes on after its end/,
    ],
    [
      'with another footer',
      PROTOCOL,
      [own.patched(own.ramStart(), [own.ramStart().length - 4, 9])],
      /expected the footer of section 1/,
    ],
  ]
  it.each(streams)('%s', async (_name, code, main, sentence) => {
    const outcome = await sends(main, [own.sync(), own.sync(), own.sync()])
    expectRefusal(outcome, code, sentence)
    guest.expectNothingLoaded()
  })

  it('with a page of its own', async () => {
    const page = concatBytes(
      Uint8Array.of(0, 0, 0, 0, 0, 0, 0x10, 0x08, GUEST_BLOCK.length),
      new TextEncoder().encode(GUEST_BLOCK),
      new Uint8Array(4096).fill(0x77),
    )
    const part = own.ramPart()
    const main = [own.ramStart(), part.subarray(0, 5), page, part.subarray(5)]
    expectRefusal(await sends(main, [own.sync()]), UNSUPPORTED, /a page came on the main channel/)
    guest.expectNothingLoaded()
  })
})

describe('a device is refused', () => {
  const clock: Device = {
    idstr: 'clock',
    versionId: 2,
    save: () => new Uint8Array(),
    load: () => {},
  }
  const ram = [own.ramStart(), own.ramEnd()]
  const syncs = [own.sync(), own.sync()]
  const cases: [string, string, Uint8Array[], RegExp][] = [
    ['unknown', PROTOCOL, [...ram, own.device('nic')], /device "nic" .* does not have/],
    ['too new', UNSUPPORTED, [...ram, own.device('clock', 3)], /version 3, expected at most 2/],
    ['sent twice', PROTOCOL, [...ram, own.device('clock'), own.device('clock')], /in use/],
    ['sent before RAM', PROTOCOL, [own.ramStart(), own.device('clock')], /after the end of RAM/],
    ['missing', PROTOCOL, [...ram, own.end()], /no state for device "clock"/],
  ]
  it.each(cases)('%s', async (_name, code, main, sentence) => {
    expectRefusal(await sends(main, syncs, { devices: [clock] }), code, sentence)
  })

  it('that the VMM cannot load, with what it threw', async () => {
    const cause = new Error('no such clock')
    const broken = {
      ...clock,
      load: () => {
        throw cause
      },
    }
    const outcome = await sends([...ram, own.device('clock')], syncs, { devices: [broken] })
    expectRefusal(outcome, 'ERR_MULTIFD_VMM', /load of device "clock".*no such clock/)
    expect(outcome).toMatchObject({ cause })
  })
})

describe('in the wrong order', () => {
  it('a sync point without a SYNC ends by the time limit', async () => {
    const outcome = await sends([own.ramStart()], [], { peerTimeoutMs: 60 })
    expectRefusal(outcome, 'ERR_MULTIFD_TIMEOUT', /silent for 60 ms/)
  })

  it('a SYNC that nobody collects holds the pages behind it back', async () => {
    const outcome = await sends([], [own.sync(), own.ramPacket()], { peerTimeoutMs: 60 })
    expectRefusal(outcome, 'ERR_MULTIFD_TIMEOUT', /silent for 60 ms/)
    guest.expectNothingLoaded()
  })

  it('the end of the stream after "ready" is no commit: the guest does not start', async () => {
    const play = async (script: Script): Promise<void> => {
      const main = await script.connect(own.opening({}), own.ramStart(), own.ramEnd(), own.end())
      await script.connect(own.introduction(0), own.sync(), own.sync())
      main.end()
    }
    const outcome = await attempt({ guest, play })
    expectRefusal(outcome, 'ERR_MULTIFD_PEER_CLOSED', /does not start here.*without handing/)
  })

  it('silence after "ready" is no commit either', async () => {
    const main = [own.ramStart(), own.ramEnd(), own.end()]
    const outcome = await sends(main, [own.sync(), own.sync()], { peerTimeoutMs: 60 })
    expectRefusal(outcome, 'ERR_MULTIFD_TIMEOUT', /does not start here.*silent for 60 ms/)
  })

  it('a page behind the last sync never reaches a guest that may be handed over', async () => {
    const play = async (script: Script): Promise<void> => {
      const main = await script.connect(own.opening({}), own.ramStart(), own.ramEnd(), own.end())
      const channel = await script.connect(own.introduction(0), own.sync(), own.sync())
      await once(main.socket, 'data') // "ready"
      expect(main.received).toEqual(Buffer.from(encodeShut(0)))
      channel.send(own.ramPacket())
      await channel.gone
      main.send(own.commit())
    }
    expect(await attempt({ guest, play })).toMatchObject({ status: 'completed', normalPages: 0 })
    expect(guest.ram.every((byte) => byte === 0)).toBe(true)
  })

  it('a source that says nothing more after its commit cannot hold the guest back', async () => {
    const main = [encodePing(0), own.ramStart(), own.ramEnd(), own.end(), own.commit()]
    const outcome = await sends(main, [own.sync(), own.sync()])
    expect(outcome).toMatchObject({ status: 'completed', syncs: 2 })
  })
})
