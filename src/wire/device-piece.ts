// What the payload of a device-state packet says between our own ends, in the layout of QEMU's VFIO
// (migration-multifd.c): version, index and flags in front of a piece of one device's state, and
// the words around the last one. Pure bytes; which device they are for is in the packet's header.

import { fail, ok, type Result } from '../kit/errors.ts'
import { be32, checkUnsigned, concatBytes, hex, viewOf } from './bytes.ts'

/** Version of the layout. */
const PIECE_VERSION = 0
/** Index that QEMU uses for "none". */
const PIECE_INDEX_NONE = 0xffff_ffff
/** Flag of the last piece: its data is the device's configuration between the two words below. */
const PIECE_FLAG_CONFIG_STATE = 0x1
const PIECE_PREFIX_BYTES = 12

const CONFIG_STATE = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x02)
const END_OF_STATE = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xef, 0x10, 0x00, 0x01)

/** One piece of a device's state. */
export interface DevicePiece {
  /** 0, 1, 2, ... per device, in the order in which they are loaded. */
  index: number
  /** Nothing of this device comes behind it. */
  last: boolean
  /** Of the last one, without the words around it. */
  data: Uint8Array
}

/**
 * A piece as two runs of bytes, so that the state of all but the last is not copied.
 * @throws RangeError if the index is not 0 .. 0xfffffffe
 */
export function encodeDevicePiece(piece: DevicePiece): { prefix: Uint8Array; data: Uint8Array } {
  const { index, last, data } = piece
  checkUnsigned('the index of a piece', index, PIECE_INDEX_NONE - 1)
  const flags = last ? PIECE_FLAG_CONFIG_STATE : 0
  const prefix = concatBytes(be32(PIECE_VERSION), be32(index), be32(flags))
  return { prefix, data: last ? concatBytes(CONFIG_STATE, data, END_OF_STATE) : data }
}

/** Decodes the payload of a device-state packet; the data is a view of it. */
export function decodeDevicePiece(bytes: Uint8Array): Result<DevicePiece> {
  const prefixEnd = PIECE_PREFIX_BYTES
  if (bytes.length < prefixEnd) {
    return refuse(`a piece has ${bytes.length} bytes, expected at least ${prefixEnd}`)
  }
  const view = viewOf(bytes)
  const [version, index, flags] = [view.getUint32(0), view.getUint32(4), view.getUint32(8)]
  if (version !== PIECE_VERSION) {
    return fail(
      'ERR_MULTIFD_UNSUPPORTED',
      `a piece has version ${version}, expected ${PIECE_VERSION}: run the same version on both ends`,
    )
  }
  if (index === PIECE_INDEX_NONE)
    return refuse(`a piece has the index ${hex(index)}, which is none`)
  const last = flags === PIECE_FLAG_CONFIG_STATE
  if (flags !== 0 && !last) return refuse(`piece ${index} has flags ${hex(flags)}, expected 0 or 1`)
  const data = bytes.subarray(prefixEnd)
  if (!last) return ok({ index, last, data })
  const words = CONFIG_STATE.length + END_OF_STATE.length
  const framed =
    data.length >= words &&
    equal(data.subarray(0, CONFIG_STATE.length), CONFIG_STATE) &&
    isEndOfState(data.subarray(-END_OF_STATE.length))
  if (!framed) return refuse(`the last piece, ${index}, is not between its two words`)
  return ok({ index, last, data: data.subarray(CONFIG_STATE.length, -END_OF_STATE.length) })
}

/** What the END section of a device holds whose state travels in pieces. */
export function endOfState(): Uint8Array {
  return END_OF_STATE.slice()
}

/** Whether an END section says that the state travels in pieces. */
export function isEndOfState(payload: Uint8Array): boolean {
  return equal(payload, END_OF_STATE)
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at])
}

function refuse(problem: string): Result<DevicePiece> {
  return fail('ERR_MULTIFD_PROTOCOL', problem)
}
