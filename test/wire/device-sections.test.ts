// The order in which devices of ours may have several sections, and what the reader says to any
// other.

import { describe, expect, it } from 'vitest'
import { be32, concatBytes, encodeCounted } from '../../src/wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../../src/wire/configuration.ts'
import { OWN_MACHINE_NAME } from '../../src/wire/dialect.ts'
import * as writer from '../../src/wire/main-stream-writer.ts'
import { encodeEosWord, encodeMemSizeWord } from '../../src/wire/ram-words.ts'
import { readWhole } from './reading.ts'

const bytes = (...values: number[]) => Uint8Array.from(values)
const opening = (machineName: string) =>
  concatBytes(encodeHeader(), encodeConfiguration({ machineName, capabilities: [] }))
const own = opening(OWN_MACHINE_NAME)
const qemu = opening('pc-q35-9.1')
const wordsEnd = concatBytes(encodeEosWord(), writer.encodeSectionFooter(2))
const list = encodeMemSizeWord([{ idstr: 'pc.ram', usedLength: 0x3000 }])
const setup = concatBytes(writer.encodeRamSectionStart(2), list, wordsEnd)
const ramEnd = concatBytes(writer.encodeRamSectionEnd(2), wordsEnd)
const ramOver = concatBytes(setup, ramEnd)
const section = (type: number, id: number, idstr: string, instance: number, version: number) =>
  concatBytes(bytes(type), be32(id), encodeCounted('section', idstr), be32(instance), be32(version))
const device = writer.encodeDeviceState(
  { sectionId: 9, idstr: 'cpu', instanceId: 0, versionId: 1 },
  bytes(1, 2, 3),
)
const disk = { sectionId: 7, idstr: 'disk', instanceId: 0, versionId: 1 }
const diskStart = writer.encodeDeviceStart(disk, bytes(1))
const diskPart = writer.encodeDevicePart(disk, bytes(2))
const diskEnd = writer.encodeDeviceEnd(disk, bytes(3))
const manyStarts = concatBytes(
  ...Array.from({ length: 4097 }, (_, i) =>
    writer.encodeDeviceStart({ ...disk, sectionId: 10 + i }, bytes()),
  ),
)

type Case = [title: string, stream: Uint8Array[], code: string, sentence: RegExp]

const cases: Case[] = [
  [
    'a PART of a device before its START',
    [own, setup, diskPart],
    'PROTOCOL',
    /unknown section id 7/,
  ],
  ['an END of a device before its START', [own, ramOver, diskEnd], 'PROTOCOL', /section id 7/],
  ['a device started twice', [own, diskStart, setup, diskStart], 'PROTOCOL', /id 7, .* in use/],
  [
    "a device started with RAM's id",
    [own, setup, section(1, 2, 'disk', 0, 1)],
    'PROTOCOL',
    /"disk" has id 2, which is already in use/,
  ],
  [
    "RAM started with a device's id",
    [own, diskStart, section(1, 7, 'ram', 0, 4)],
    'PROTOCOL',
    /"ram" has id 7, which is already in use/,
  ],
  [
    'a device started after the end of RAM',
    [own, ramOver, diskStart],
    'PROTOCOL',
    /"disk" is started after the end of RAM/,
  ],
  [
    'a PART of a device after the end of RAM',
    [own, diskStart, ramOver, diskPart],
    'PROTOCOL',
    /"disk" goes on after the end of RAM, expected its END/,
  ],
  [
    'an END of a device before the end of RAM',
    [own, diskStart, setup, diskEnd],
    'PROTOCOL',
    /"disk" ends before RAM does/,
  ],
  [
    'a PART of a device after its END',
    [own, diskStart, ramOver, diskEnd, diskPart],
    'PROTOCOL',
    /"disk" goes on after its end/,
  ],
  [
    'a device ended twice',
    [own, diskStart, ramOver, diskEnd, diskEnd],
    'PROTOCOL',
    /"disk" goes on after its end/,
  ],
  [
    'a PART of a device that was one section',
    [own, device, writer.encodeDevicePart({ ...disk, sectionId: 9 }, bytes())],
    'PROTOCOL',
    /"cpu" goes on after its end/,
  ],
  [
    'EOF before a device has ended',
    [own, diskStart, ramOver, bytes(0)],
    'PROTOCOL',
    /EOF comes before the end of section "disk"/,
  ],
  [
    'a huge PART',
    [own, diskStart, bytes(2), be32(7), be32(0x1000_0001)],
    'LIMIT',
    /"disk" has 268435457 bytes/,
  ],
  [
    'a wrong footer of a device',
    [own, diskStart, setup, diskPart.subarray(0, -1), bytes(8), ramEnd],
    'PROTOCOL',
    /expected the footer of section 7/,
  ],
  ['too many devices with several sections', [own, manyStarts], 'LIMIT', /more than 4096/],
  [
    'a device of QEMU that sends while the guest runs',
    [qemu, setup, diskStart],
    'UNSUPPORTED',
    /unknown section "disk", instance 0: only RAM/,
  ],
]

describe('the main-stream reader', () => {
  it.each(cases)('refuses %s', (_title, stream, code, sentence) => {
    const { error } = readWhole(concatBytes(...stream))
    expect(error).toMatch(new RegExp(`^ERR_MULTIFD_${code} main stream, byte \\d+: `))
    expect(error).toMatch(sentence)
  })

  it('takes a device that starts before RAM does, beside others of one section', () => {
    const { events, error, end } = readWhole(
      concatBytes(own, diskStart, setup, diskPart, diskPart, ramEnd, diskEnd, device, bytes(0)),
    )
    expect([error, end]).toEqual([undefined, { vmdescription: false, committed: false }])
    const seen = events.flatMap((event) =>
      event.kind === 'device-section' ? [`${event.type} ${event.payload}`] : [],
    )
    expect(seen).toEqual(['start 1', 'part 2', 'part 2', 'end 3'])
  })
})
