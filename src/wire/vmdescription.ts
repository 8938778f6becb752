// The JSON at the end of a stream that lists the device sections and their lengths. It writes the
// one of our own devices, and reads anybody's far enough to add up how long the sections before it
// must be. It does not know what a device's fields mean.

import { DEVICE_SECTIONS_MAX, PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { encodeText } from './bytes.ts'
import type { SectionName } from './main-stream-events.ts'

/** One device section as our own sources write it: be32 length and that many bytes. */
export interface DeviceDescription extends Omit<SectionName, 'sectionId'> {
  payloadBytes: number
}

/** Type byte, section id, idstr's length byte, instance id, version id; then the footer. */
const SECTION_FRAMING_BYTES = 1 + 4 + 1 + 4 + 4 + 5
/** QEMU nests subsections a few levels deep; the bound ends a hostile description. */
const SUBSECTION_DEPTH_MAX = 32

/**
 * The vmdescription of our own devices: one `buffer` field named `data` each. It lists the FULL
 * sections; what has START and END is left out, as RAM and QEMU's own iterable devices are.
 */
export function buildVmdescription(devices: readonly DeviceDescription[]): string {
  return JSON.stringify({
    page_size: PAGE_SIZE_BYTES,
    devices: devices.map(({ idstr, instanceId, versionId, payloadBytes }) => ({
      name: idstr,
      instance_id: instanceId,
      vmsd_name: idstr,
      version: versionId,
      fields: [{ name: 'data', type: 'buffer', size: 4 + payloadBytes }],
    })),
  })
}

/** A device as a vmdescription lists it. */
export interface DescribedDevice {
  idstr: string
  /** Of the device's FULL section, framing included. */
  sectionBytes: number
  /** Of the state in it, subsections included. */
  payloadBytes: number
}

/** The devices of a vmdescription in the stream's order; undefined if the text is none. */
export function describedDevices(text: string): DescribedDevice[] | undefined {
  const devices = property(parseJson(text), 'devices')
  if (!Array.isArray(devices) || devices.length > DEVICE_SECTIONS_MAX) return undefined
  const described: DescribedDevice[] = []
  for (const device of devices) {
    const idstr = property(device, 'name')
    const payloadBytes = stateBytes(device, 0)
    if (typeof idstr !== 'string' || payloadBytes === undefined) return undefined
    const framingBytes = SECTION_FRAMING_BYTES + encodeText(idstr).length
    described.push({ idstr, payloadBytes, sectionBytes: framingBytes + payloadBytes })
  }
  return described
}

/**
 * Bytes of all FULL sections a vmdescription lists, framing included; undefined if the text is not
 * a vmdescription. Used to tell the end of a QEMU stream from bytes that look like one.
 */
export function describedDeviceBytes(text: string): number | undefined {
  return sum(describedDevices(text), ({ sectionBytes }: DescribedDevice) => sectionBytes)
}

/**
 * Fields, plus each subsection with its framing. A struct's size already covers what is inside it.
 */
function stateBytes(state: unknown, depth: number): number | undefined {
  if (depth > SUBSECTION_DEPTH_MAX) return undefined
  const fields = sum(property(state, 'fields') ?? [], (field) => {
    const size = property(field, 'size')
    const count = property(field, 'array_len') ?? 1
    return isLength(size) && isLength(count) ? size * count : undefined
  })
  const subsections = sum(property(state, 'subsections') ?? [], (subsection) => {
    const name = property(subsection, 'vmsd_name')
    const inside = stateBytes(subsection, depth + 1)
    if (typeof name !== 'string' || inside === undefined) return undefined
    return 1 + 1 + encodeText(name).length + 4 + inside
  })
  return fields === undefined || subsections === undefined ? undefined : fields + subsections
}

function sum<Item>(
  items: unknown,
  measure: (item: Item) => number | undefined,
): number | undefined {
  if (!Array.isArray(items)) return undefined
  let total = 0
  for (const item of items) {
    const length = measure(item)
    if (length === undefined) return undefined
    total += length
  }
  return Number.isSafeInteger(total) ? total : undefined
}

function property(value: unknown, key: string): unknown {
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return undefined
  return (value as Record<string, unknown>)[key]
}

function isLength(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
