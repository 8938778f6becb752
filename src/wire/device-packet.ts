// The header of a device-state packet, the other one that a multifd channel may carry (QEMU 10.0
// and newer): 276 bytes to a value and back. What the payload behind it says is in device-piece.ts.
// The native channel threads do the same and are compared with this reference on random input.

import { fail, ok, type Result } from '../kit/errors.ts'
import { DEVICE_PAYLOAD_BYTES_MAX } from '../kit/limits.ts'
import { checkUnsigned, decodeName, encodeName, hex, quoteBytes, viewOf } from './bytes.ts'
import {
  DEVICE_PACKET_HEADER_BYTES,
  DEVICE_PACKET_NAME_BYTES,
  MULTIFD_FLAG_DEVICE_STATE,
  MULTIFD_FLAG_SYNC,
  MULTIFD_MAGIC,
  MULTIFD_VERSION,
} from './constants.ts'
import { checkOpening } from './packet.ts'

export interface DevicePacketHeader {
  /** 1 to 255 bytes of UTF-8 without NUL. */
  idstr: string
  instanceId: number
  /** Bytes that follow: 1 to 16 MiB + 12. */
  nextPacketSize: number
}

/** @throws RangeError if a field is outside what a destination accepts */
export function encodeDevicePacketHeader(header: DevicePacketHeader): Uint8Array {
  const { idstr, instanceId, nextPacketSize } = header
  checkUnsigned('instanceId', instanceId, 0xffff_ffff)
  checkUnsigned('nextPacketSize', nextPacketSize, DEVICE_PAYLOAD_BYTES_MAX)
  if (nextPacketSize === 0) throw new RangeError('expected nextPacketSize to be at least 1, got 0')
  const bytes = new Uint8Array(DEVICE_PACKET_HEADER_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, MULTIFD_MAGIC)
  view.setUint32(4, MULTIFD_VERSION)
  view.setUint32(8, MULTIFD_FLAG_DEVICE_STATE)
  bytes.set(encodeName('device', idstr, DEVICE_PACKET_NAME_BYTES - 1), 12)
  view.setUint32(268, instanceId)
  view.setUint32(272, nextPacketSize)
  return bytes
}

/** Decodes exactly DEVICE_PACKET_HEADER_BYTES. */
export function decodeDevicePacketHeader(bytes: Uint8Array): Result<DevicePacketHeader> {
  const opening = checkOpening('device-state packet', bytes, DEVICE_PACKET_HEADER_BYTES)
  if (opening !== undefined) return fail('ERR_MULTIFD_PROTOCOL', opening)
  const view = viewOf(bytes)
  const flags = view.getUint32(8)
  if ((flags & MULTIFD_FLAG_SYNC) !== 0) {
    return refuse(`its flags are ${hex(flags)}, and SYNC comes in packets of its own`)
  }
  if (flags !== MULTIFD_FLAG_DEVICE_STATE) {
    return fail(
      'ERR_MULTIFD_UNSUPPORTED',
      `a device-state packet has flags ${hex(flags)}, expected ${hex(MULTIFD_FLAG_DEVICE_STATE)} alone`,
    )
  }
  const room = bytes.subarray(12, 12 + DEVICE_PACKET_NAME_BYTES)
  const idstr = decodeName(room.subarray(0, room.indexOf(0)))
  if (room[DEVICE_PACKET_NAME_BYTES - 1] !== 0 || idstr === undefined) {
    return refuse(`its name is ${quoteBytes(room)}, expected 1 to 255 bytes of UTF-8 and a NUL`)
  }
  const nextPacketSize = view.getUint32(272)
  if (nextPacketSize === 0 || nextPacketSize > DEVICE_PAYLOAD_BYTES_MAX) {
    return refuse(
      `next_packet_size is ${nextPacketSize}, expected 1 to ${DEVICE_PAYLOAD_BYTES_MAX}`,
    )
  }
  return ok({ idstr, instanceId: view.getUint32(268), nextPacketSize })
}

function refuse(problem: string): Result<never> {
  return fail('ERR_MULTIFD_PROTOCOL', `a device-state packet is malformed: ${problem}`)
}
