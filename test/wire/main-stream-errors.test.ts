// What the reader of the main stream refuses, and that its sentences say what came and what was
// expected.

import { describe, expect, it } from 'vitest'
import { be16, be32, be64, concatBytes, encodeCounted, encodeText } from '../../src/wire/bytes.ts'
import { encodeConfiguration, encodeHeader } from '../../src/wire/configuration.ts'
import { OWN_MACHINE_NAME } from '../../src/wire/dialect.ts'
import * as writer from '../../src/wire/main-stream-writer.ts'
import { encodeEosWord, encodeMemSizeWord, RamPageWords } from '../../src/wire/ram-words.ts'
import { readWhole } from './reading.ts'

const bytes = (...values: number[]) => Uint8Array.from(values)
const opening = (machineName: string, capabilities: string[] = []) =>
  concatBytes(encodeHeader(), encodeConfiguration({ machineName, capabilities }))
const own = opening(OWN_MACHINE_NAME)
const qemu = opening('pc-q35-9.1')
const start = writer.encodeRamSectionStart(2)
const list = encodeMemSizeWord([{ idstr: 'pc.ram', usedLength: 0x3000 }])
const eos = encodeEosWord()
const footer = writer.encodeSectionFooter(2)
const setup = concatBytes(start, list, eos, footer)
const ramOver = concatBytes(setup, writer.encodeRamSectionEnd(2), eos, footer)
const section = (type: number, id: number, idstr: string, instance: number, version: number) =>
  concatBytes(bytes(type), be32(id), encodeCounted('section', idstr), be32(instance), be32(version))
const command = (number: number, data: Uint8Array) =>
  concatBytes(bytes(8), be16(number), be16(data.length), data)
const block = (idstr: string, length: number) =>
  concatBytes(encodeCounted('RAM block', idstr), be64(length))
const configuration = (rest: Uint8Array) =>
  concatBytes(encodeHeader(), bytes(7), be32(3), encodeText('a-b'), rest)
const subsection = (name: string, version: number, ...rest: Uint8Array[]) =>
  configuration(concatBytes(bytes(5), encodeCounted('s', name), be32(version), ...rest))
const device = writer.encodeDeviceState(
  { sectionId: 9, idstr: 'cpu', instanceId: 0, versionId: 1 },
  bytes(1, 2, 3),
)
const manyBlocks = concatBytes(...Array.from({ length: 1025 }, (_, i) => block(`block ${i}`, 4096)))
const manyDevices = concatBytes(
  ...Array.from({ length: 4097 }, (_, i) =>
    writer.encodeDeviceState(
      { sectionId: 10 + i, idstr: 'd', instanceId: i, versionId: 1 },
      bytes(),
    ),
  ),
)

type Case = [title: string, stream: Uint8Array[], code: string, sentence: RegExp]

const cases: Case[] = [
  [
    'an HTTP request',
    [encodeText('GET / HTTP/1.1\r\n')],
    'HANDSHAKE',
    /got "GET " \(47 45 54 20\), expected .*QEVM/,
  ],
  ['binary noise', [bytes(0, 1, 2, 3)], 'HANDSHAKE', /got 00 01 02 03, expected/],
  [
    'stream version 2',
    [bytes(0x51, 0x45, 0x56, 0x4d, 0, 0, 0, 2)],
    'HANDSHAKE',
    /version 2, expected 3/,
  ],
  [
    'no configuration',
    [encodeHeader(), start],
    'PROTOCOL',
    /type 0x01, expected the configuration/,
  ],
  [
    'an empty machine name',
    [encodeHeader(), bytes(7), be32(0)],
    'PROTOCOL',
    /0 bytes long, expected 1/,
  ],
  [
    'a long machine name',
    [encodeHeader(), bytes(7), be32(1025)],
    'LIMIT',
    /1025 bytes long, expected 1 .. 1024/,
  ],
  [
    'a machine name that is not text',
    [encodeHeader(), bytes(7), be32(1), bytes(0xff)],
    'PROTOCOL',
    /machine name is ff/,
  ],
  [
    'another version of ours',
    [opening('multifd/2'), eos],
    'UNSUPPORTED',
    /"multifd\/2".*multifd\/1/,
  ],
  ['mapped-ram', [opening('pc-q35-9.1', ['mapped-ram']), eos], 'UNSUPPORTED', /mapped-ram/],
  ['an unknown subsection', [subsection('configuration/x', 1)], 'PROTOCOL', /"configuration\/x"/],
  [
    'a subsection version',
    [subsection('configuration/uuid', 2)],
    'PROTOCOL',
    /version 2, expected 1/,
  ],
  [
    '64 KiB pages',
    [subsection('configuration/target-page-bits', 1, be32(16))],
    'UNSUPPORTED',
    /2\^16 bytes, expected 2\^12/,
  ],
  [
    'too many capabilities',
    [subsection('configuration/capabilities', 1, be32(257))],
    'LIMIT',
    /257 entries, expected at most 256/,
  ],
  [
    'a subsection twice',
    [
      subsection(
        'configuration/capabilities',
        1,
        be32(0),
        bytes(5),
        encodeCounted('s', 'configuration/capabilities'),
        be32(1),
      ),
    ],
    'PROTOCOL',
    /twice/,
  ],
  ['an unknown section type', [own, bytes(0x47)], 'PROTOCOL', /type 0x47, expected a section/],
  [
    'an unknown iterable section',
    [qemu, section(1, 3, 'vfio', 0, 1)],
    'UNSUPPORTED',
    /unknown section "vfio"/,
  ],
  ['a second RAM instance', [qemu, section(1, 3, 'ram', 1, 4)], 'UNSUPPORTED', /"ram", instance 1/],
  ['RAM version 5', [qemu, section(1, 3, 'ram', 0, 5)], 'PROTOCOL', /version 5, expected 4/],
  ['RAM started twice', [qemu, setup, section(1, 3, 'ram', 0, 4)], 'PROTOCOL', /started twice/],
  [
    'a PART before START',
    [qemu, writer.encodeRamSectionPart(2)],
    'PROTOCOL',
    /id 2, .* a START section first/,
  ],
  [
    'a wrong section id',
    [qemu, setup, writer.encodeRamSectionPart(3)],
    'PROTOCOL',
    /id 3, expected that of RAM, 2/,
  ],
  [
    'a PART after END',
    [qemu, ramOver, writer.encodeRamSectionPart(2)],
    'PROTOCOL',
    /after its end/,
  ],
  [
    'a wrong footer id',
    [qemu, start, list, eos, writer.encodeSectionFooter(3)],
    'PROTOCOL',
    /got 7e 00 00 00 03, expected the footer of section 2/,
  ],
  [
    'no footer',
    [qemu, start, list, eos, writer.encodeRamSectionPart(2)],
    'PROTOCOL',
    /expected the footer/,
  ],
  ['a page before the block list', [qemu, start, be64(0x22)], 'PROTOCOL', /expected MEM_SIZE/],
  ['EOS before the block list', [qemu, start, eos], 'PROTOCOL', /expected MEM_SIZE/],
  ['a second block list', [qemu, start, list, list], 'PROTOCOL', /only one RAM block list/],
  ['an empty block list', [qemu, start, be64(4)], 'PROTOCOL', /at least one page/],
  [
    'a list above its total',
    [qemu, start, be64(0x2004), block('a', 0x1000), block('b', 0x2000)],
    'PROTOCOL',
    /total of 0x2000 .*"b" has 0x2000, expected at most 0x1000/,
  ],
  [
    'a block twice',
    [qemu, start, be64(0x2004), block('a', 0x1000), block('a', 0x1000)],
    'PROTOCOL',
    /"a" is listed twice/,
  ],
  ['half a page', [qemu, start, be64(0x1004), block('a', 0x800)], 'PROTOCOL', /whole pages/],
  [
    'an endless block list',
    [qemu, start, be64(0x1000_0004), manyBlocks],
    'LIMIT',
    /more than 1024 blocks/,
  ],
  [
    'an unnamed block',
    [qemu, start, be64(0x1004), bytes(0), be64(0x1000)],
    'PROTOCOL',
    /named nothing/,
  ],
  [
    'CONTINUE without a block',
    [qemu, start, list, be64(0x22), bytes(0)],
    'PROTOCOL',
    /expected a RAM block name/,
  ],
  [
    'an unknown block',
    [qemu, start, list, be64(2), encodeCounted('b', 'vga'), bytes(0)],
    'PROTOCOL',
    /no RAM block named "vga"/,
  ],
  [
    'a page outside its block',
    [qemu, start, list, be64(0x3002), encodeCounted('b', 'pc.ram'), bytes(0)],
    'PROTOCOL',
    /0x3000 is outside RAM block "pc.ram"/,
  ],
  [
    'an address above 2^53',
    [qemu, start, list, bytes(0xff, 0, 0, 0, 0, 0, 0, 2)],
    'PROTOCOL',
    /below 2\^53/,
  ],
  [
    'a fill byte',
    [qemu, start, list, be64(2), encodeCounted('b', 'pc.ram'), bytes(7)],
    'PROTOCOL',
    /0x07, expected 0x00/,
  ],
  ['an address beside EOS', [qemu, start, list, be64(0x1010)], 'PROTOCOL', /no address/],
  ['XBZRLE', [qemu, start, list, be64(0x40)], 'UNSUPPORTED', /XBZRLE/],
  [
    'an unknown word',
    [qemu, start, list, be64(0x400)],
    'PROTOCOL',
    /00 00 00 00 00 00 04 00, expected ZERO/,
  ],
  [
    'an early device section of QEMU',
    [qemu, section(4, 3, 'virtio-mem', 0, 1)],
    'UNSUPPORTED',
    /before the end of RAM/,
  ],
  [
    'a huge device',
    [own, section(4, 3, 'cpu', 0, 1), be32(0x1000_0001)],
    'LIMIT',
    /"cpu" has 268435457 bytes/,
  ],
  ['a device id twice', [own, device, device], 'PROTOCOL', /id 9, which is already in use/],
  [
    "a device with RAM's id",
    [own, setup, section(4, 2, 'cpu', 0, 1)],
    'PROTOCOL',
    /already in use/,
  ],
  ['too many devices', [own, manyDevices], 'LIMIT', /more than 4096/],
  ['EOF before RAM is over', [own, setup, bytes(0)], 'PROTOCOL', /EOF comes before/],
  ['an unknown command', [own, command(12, bytes())], 'PROTOCOL', /unknown command 0xc/],
  [
    'a PING of the wrong length',
    [own, command(2, bytes(1))],
    'PROTOCOL',
    /1 bytes of data, expected 4/,
  ],
  ['post-copy', [qemu, command(3, bytes())], 'UNSUPPORTED', /postcopy-ram off/],
  ['a packaged stream', [qemu, command(7, be32(100))], 'UNSUPPORTED', /post-copy/],
  ['COLO', [qemu, command(8, bytes())], 'UNSUPPORTED', /x-colo/],
  [
    'our commit from QEMU',
    [qemu, ramOver, bytes(0), writer.encodeCommit()],
    'PROTOCOL',
    /unknown command 0x4d01/,
  ],
  ['commit before EOF', [own, ramOver, writer.encodeCommit()], 'PROTOCOL', /only after EOF/],
  [
    'commit twice',
    [own, ramOver, bytes(0), writer.encodeCommit(), writer.encodeCommit()],
    'PROTOCOL',
    /twice/,
  ],
  [
    'a PING after EOF',
    [own, ramOver, bytes(0), writer.encodePing(1)],
    'PROTOCOL',
    /only before EOF/,
  ],
  [
    'a huge vmdescription',
    [own, ramOver, bytes(0, 6), be32(0x100_0001)],
    'LIMIT',
    /16777217 bytes/,
  ],
  [
    'a vmdescription that is not text',
    [own, ramOver, bytes(0, 6), be32(1), bytes(0xff)],
    'PROTOCOL',
    /UTF-8/,
  ],
  [
    'bytes behind the end',
    [own, ramOver, bytes(0), writer.encodeVmdescription('{}'), bytes(6)],
    'PROTOCOL',
    /behind the end/,
  ],
]

describe('the main-stream reader refuses', () => {
  it.each(cases)('%s', (_title, stream, code, sentence) => {
    const { error } = readWhole(concatBytes(...stream))
    expect(error).toMatch(new RegExp(`^ERR_MULTIFD_${code} main stream, byte \\d+: `))
    expect(error).toMatch(sentence)
  })
})

describe('the main-stream reader accepts', () => {
  it('addresses in the block list when x-ignore-shared is on', () => {
    const blocks = [{ idstr: 'pc.ram', usedLength: 0x3000, gpa: 0x1_0000_0000 }]
    const { events, error } = readWhole(
      concatBytes(opening('pc-q35-9.1', ['x-ignore-shared']), start, encodeMemSizeWord(blocks)),
    )
    expect(error).toBeUndefined()
    expect(events.at(-1)).toEqual({ kind: 'ram-mem-size', totalBytes: 0x3000, blocks })
  })

  it('the last block named across sections', () => {
    const pages = new RamPageWords()
    const first = pages.zero('pc.ram', 0)
    const second = pages.zero('pc.ram', 0x1000)
    expect(second.length).toBe(9)
    const part = concatBytes(writer.encodeRamSectionPart(2), second)
    const { events, error } = readWhole(concatBytes(qemu, start, list, first, eos, footer, part))
    expect(error).toBeUndefined()
    expect(events.at(-1)).toEqual({ kind: 'ram-zero', idstr: 'pc.ram', offset: 0x1000, pages: 1 })
  })

  it('a QEMU stream without devices and without vmdescription', () => {
    const { end } = readWhole(concatBytes(qemu, ramOver, bytes(0)))
    expect(end).toEqual({ vmdescription: false, committed: false })
  })

  it('a configuration only once the byte behind it is there', () => {
    expect(readWhole(own).events.map((event) => event.kind)).toEqual(['header'])
    const { events } = readWhole(concatBytes(own, writer.encodeOpenReturnPath()))
    expect(events.map((event) => event.kind)).toEqual(['header', 'configuration', 'command'])
  })
})
