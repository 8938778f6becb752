// The description of the devices at the end of a stream, and finding the end of a QEMU stream by
// it.

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { be32, concatBytes, encodeText } from '../../src/wire/bytes.ts'
import { DeviceTail } from '../../src/wire/device-tail.ts'
import {
  encodeDeviceState,
  encodeEof,
  encodeVmdescription,
} from '../../src/wire/main-stream-writer.ts'
import {
  buildVmdescription,
  describedDeviceBytes,
  describedDevices,
} from '../../src/wire/vmdescription.ts'
import { cutAt } from './reading.ts'

const devices = fc.array(
  fc.record({
    sectionId: fc.nat(300),
    idstr: fc.constantFrom('cpu', 'timer', 'größer'),
    instanceId: fc.nat(3),
    versionId: fc.nat(3),
    payload: fc.uint8Array({ maxLength: 60 }),
  }),
  { minLength: 1, maxLength: 5 },
)

/** What looks like "footer, EOF, vmdescription" to a careless reader, for use inside a payload. */
function decoy(text: string): Uint8Array {
  return concatBytes(Uint8Array.of(0x7e), be32(1), encodeEof(), encodeVmdescription(text))
}

describe('a vmdescription', () => {
  it('of our own devices adds up to the bytes of their sections', () => {
    fc.assert(
      fc.property(devices, (list) => {
        const bytes = list.reduce(
          (sum, { payload, ...name }) => sum + encodeDeviceState(name, payload).length,
          0,
        )
        const text = buildVmdescription(list.map((d) => ({ ...d, payloadBytes: d.payload.length })))
        expect(describedDeviceBytes(text)).toBe(bytes)
      }),
    )
  })

  it('lists the devices in order, each with the length of its section', () => {
    fc.assert(
      fc.property(devices, (list) => {
        const text = buildVmdescription(list.map((d) => ({ ...d, payloadBytes: d.payload.length })))
        const expected = list.map(({ payload, ...name }) => ({
          idstr: name.idstr,
          payloadBytes: 4 + payload.length,
          sectionBytes: encodeDeviceState(name, payload).length,
        }))
        expect(describedDevices(text)).toEqual(expected)
      }),
    )
    expect(describedDevices('{"devices":[{"fields":[]}]}')).toBeUndefined()
    expect(describedDevices('[]')).toBeUndefined()
  })

  it('counts arrays and subsections', () => {
    const text = JSON.stringify({
      devices: [
        {
          name: 'cpu',
          fields: [{ size: 8, array_len: 3 }, { size: 5 }],
          subsections: [{ vmsd_name: 'cpu/x', fields: [{ size: 1 }] }],
        },
      ],
    })
    expect(describedDeviceBytes(text)).toBe(19 + 3 + 24 + 5 + (1 + 1 + 5 + 4 + 1))
  })

  it.each([
    ['not JSON', '{'],
    ['a list', '[]'],
    ['no devices', '{}'],
    ['a device without name', '{"devices":[{"fields":[]}]}'],
    ['a negative size', '{"devices":[{"name":"a","fields":[{"size":-1}]}]}'],
    ['a huge size', '{"devices":[{"name":"a","fields":[{"size":9e15},{"size":9e15}]}]}'],
    [
      'deep nesting',
      `{"devices":[${'{"name":"a","vmsd_name":"a","subsections":['.repeat(60)}${']}'.repeat(60)}]}`,
    ],
  ])('is refused: %s', (_title, text) => {
    expect(describedDeviceBytes(text)).toBeUndefined()
  })
})

describe('the end of a device tail', () => {
  it('is found at the same byte however it is split, past decoys, and leaves what follows', () => {
    const decoys = fc.constantFrom(
      '{',
      '{}',
      '{"devices":[]}',
      '{"devices":[{"name":"a","fields":[]}]}',
    )
    fc.assert(
      fc.property(devices, decoys, fc.array(fc.nat(600)), (list, text, cuts) => {
        const all = [
          ...list,
          { sectionId: 9, idstr: 'decoy', instanceId: 0, versionId: 1, payload: decoy(text) },
        ]
        const sections = concatBytes(
          ...all.map(({ payload, ...name }) => encodeDeviceState(name, payload)),
        )
        const json = buildVmdescription(all.map((d) => ({ ...d, payloadBytes: d.payload.length })))
        const bytes = concatBytes(sections, encodeEof(), encodeVmdescription(json))
        const tail = new DeviceTail()
        let used = 0
        for (const piece of cutAt(concatBytes(bytes, encodeText('more')), cuts)) {
          used += tail.push(piece)
        }
        expect(used).toBe(bytes.length)
        expect(tail.deviceBytes).toBe(sections.length)
        expect(tail.vmdescription).toBe(json)
        expect(tail.mayEndHere()).toBe(true)
      }),
    )
  })

  it('may also be a description whose lengths do not fit, if nothing follows it', () => {
    const tail = new DeviceTail()
    tail.push(decoy('{"devices":[]}'))
    expect(tail.deviceBytes).toBeUndefined()
    expect(tail.mayEndHere()).toBe(true)
    tail.push(Uint8Array.of(1))
    expect(tail.mayEndHere()).toBe(false)
  })
})
