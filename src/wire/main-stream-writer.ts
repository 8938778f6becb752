// The bytes of a main stream but for the configuration (configuration.ts) and the RAM words
// (ram-words.ts): sections, commands, devices of our own, the end. Each function gives the bytes of
// one element; their order in time and the sockets they go to are the migration's business.

import { DEVICE_STATE_BYTES_MAX, VMDESC_BYTES_MAX } from '../kit/limits.ts'
import { be16, be32, checkUnsigned, concatBytes, encodeCounted, encodeText } from './bytes.ts'
import {
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PING,
  MIG_CMD_SWITCHOVER_START,
  QEMU_VM_COMMAND,
  QEMU_VM_EOF,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_FOOTER,
  QEMU_VM_SECTION_FULL,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  QEMU_VM_VMDESCRIPTION,
  RAM_IDSTR,
  RAM_INSTANCE_ID,
  RAM_VERSION_ID,
} from './constants.ts'
import { OWN_COMMAND_CANCEL, OWN_COMMAND_COMMIT } from './dialect.ts'
import type { SectionName } from './main-stream-events.ts'

const NOTHING = new Uint8Array(0)

/** Opens the RAM section: the block list, the setup sync and EOS follow, then the footer. */
export function encodeRamSectionStart(sectionId: number): Uint8Array {
  return encodeNamedSection(QEMU_VM_SECTION_START, {
    sectionId,
    idstr: RAM_IDSTR,
    instanceId: RAM_INSTANCE_ID,
    versionId: RAM_VERSION_ID,
  })
}

/** Begins a further part of the RAM section, before its words and EOS. */
export function encodeRamSectionPart(sectionId: number): Uint8Array {
  return concatBytes(Uint8Array.of(QEMU_VM_SECTION_PART), be32(sectionId))
}

/** Begins the last part of the RAM section, before its words and EOS. */
export function encodeRamSectionEnd(sectionId: number): Uint8Array {
  return concatBytes(Uint8Array.of(QEMU_VM_SECTION_END), be32(sectionId))
}

/** Closes any section; the id is that of its beginning. */
export function encodeSectionFooter(sectionId: number): Uint8Array {
  return concatBytes(Uint8Array.of(QEMU_VM_SECTION_FOOTER), be32(sectionId))
}

/**
 * One whole device as our own ends send it: a FULL section with be32 length and payload, footer
 * included.
 * @throws RangeError if the payload is larger than DEVICE_STATE_BYTES_MAX or a field does not fit
 */
export function encodeDeviceState(device: SectionName, payload: Uint8Array): Uint8Array {
  return encodeDevice(encodeNamedSection(QEMU_VM_SECTION_FULL, device), device, payload)
}

/**
 * The first section of a device that has several: names it for PART and END. Laid out as FULL.
 * @throws RangeError as encodeDeviceState
 */
export function encodeDeviceStart(device: SectionName, payload: Uint8Array): Uint8Array {
  return encodeDevice(encodeNamedSection(QEMU_VM_SECTION_START, device), device, payload)
}

/** A turn of a device while the guest runs; only after its START. @throws RangeError as above */
export function encodeDevicePart(device: SectionName, payload: Uint8Array): Uint8Array {
  const { sectionId } = device
  return encodeDevice(
    concatBytes(Uint8Array.of(QEMU_VM_SECTION_PART), be32(sectionId)),
    device,
    payload,
  )
}

/** The last section of a device that has several, after RAM's END. @throws RangeError as above */
export function encodeDeviceEnd(device: SectionName, payload: Uint8Array): Uint8Array {
  const { sectionId } = device
  return encodeDevice(
    concatBytes(Uint8Array.of(QEMU_VM_SECTION_END), be32(sectionId)),
    device,
    payload,
  )
}

function encodeDevice(begin: Uint8Array, device: SectionName, payload: Uint8Array): Uint8Array {
  checkUnsigned(
    `the payload of device ${device.idstr} in bytes`,
    payload.length,
    DEVICE_STATE_BYTES_MAX,
  )
  return concatBytes(begin, be32(payload.length), payload, encodeSectionFooter(device.sectionId))
}

export function encodeOpenReturnPath(): Uint8Array {
  return encodeCommand(MIG_CMD_OPEN_RETURN_PATH, NOTHING)
}

/** @param value any u32; comes back in PONG. Only after OPEN_RETURN_PATH. */
export function encodePing(value: number): Uint8Array {
  return encodeCommand(MIG_CMD_PING, be32(value))
}

/** The guest is stopped and END follows. Never for a QEMU older than 10.0, which ends on it. */
export function encodeSwitchoverStart(): Uint8Array {
  return encodeCommand(MIG_CMD_SWITCHOVER_START, NOTHING)
}

/** The source gives its guest up. Only between our own ends, after EOF and the peer's SHUT(0). */
export function encodeCommit(): Uint8Array {
  return encodeCommand(OWN_COMMAND_COMMIT, NOTHING)
}

/** The source gives the migration up and keeps its guest. Only between our own ends. */
export function encodeCancel(): Uint8Array {
  return encodeCommand(OWN_COMMAND_CANCEL, NOTHING)
}

export function encodeEof(): Uint8Array {
  return Uint8Array.of(QEMU_VM_EOF)
}

/** @param text JSON, at most VMDESC_BYTES_MAX bytes in UTF-8. Right after EOF. */
export function encodeVmdescription(text: string): Uint8Array {
  const bytes = encodeText(text)
  checkUnsigned('the length of the vmdescription', bytes.length, VMDESC_BYTES_MAX)
  return concatBytes(Uint8Array.of(QEMU_VM_VMDESCRIPTION), be32(bytes.length), bytes)
}

function encodeCommand(command: number, data: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of(QEMU_VM_COMMAND), be16(command), be16(data.length), data)
}

function encodeNamedSection(type: number, section: SectionName): Uint8Array {
  return concatBytes(
    Uint8Array.of(type),
    be32(section.sectionId),
    encodeCounted('section', section.idstr),
    be32(section.instanceId),
    be32(section.versionId),
  )
}
