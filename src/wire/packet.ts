// The two packets of a multifd channel: the 64-byte initial packet and the 1344-byte RAM packet
// header. Pure bytes to values and back; the native channel threads do the same on the hot path and
// are compared with this reference on random input. Payloads are not seen here, guest memory
// neither.

import { fail, type MultifdError, ok, type Result } from '../kit/errors.ts'
import { CHANNELS_MAX, PACKET_PAGES_MAX, PAGE_SIZE_BYTES } from '../kit/limits.ts'
import {
  checkUnsigned,
  decodeName,
  encodeName,
  getBe64,
  hex,
  quoteBytes,
  setBe64,
  viewOf,
} from './bytes.ts'
import {
  INITIAL_PACKET_BYTES,
  MULTIFD_FLAG_COMPRESSION_MASK,
  MULTIFD_FLAG_SYNC,
  MULTIFD_MAGIC,
  MULTIFD_VERSION,
  RAM_PACKET_BLOCK_NAME_BYTES,
  RAM_PACKET_FIXED_BYTES,
} from './constants.ts'

/**
 * Size of every RAM packet header, however many pages it lists: 320 + 8 * 128. Large packets, which
 * only our own ends exchange, are the native codec's alone (native/wire/packet.h).
 */
export const RAM_PACKET_HEADER_BYTES = RAM_PACKET_FIXED_BYTES + 8 * PACKET_PAGES_MAX

/** Most bytes of a compressed payload: what QEMU's receivers have room for, without looking. */
export const PAYLOAD_BYTES_MAX = 1024 * 1024

/** What a channel says first, once, source to destination. */
export interface InitialPacket {
  /** 16 raw bytes, all zero when the VM has no UUID. */
  uuid: Uint8Array
  /** 0-based, below the number of channels. */
  channelId: number
}

/** What an encoder needs to know of a RAM packet; the page counts follow from the lists. */
export interface RamPacket {
  /** MULTIFD_FLAG_SYNC and compression bits. */
  flags: number
  /** Offset slots the sender filled from: PACKET_PAGES_MAX, or 0 in a SYNC packet. */
  pagesAlloc: number
  /** Bytes that follow the header; 0 without normal pages. */
  nextPacketSize: number
  /** Number over all channels; informative only. */
  packetNum: number
  /** Name of the one RAM block all pages belong to; empty without pages. */
  ramblock: string
  /** Byte offsets in the block of pages whose contents follow, in payload order. */
  normalOffsets: readonly number[]
  /** Byte offsets in the block of pages that are zero now. */
  zeroOffsets: readonly number[]
}

/**
 * A decoded RAM packet header. `ramblock` is empty and `nextPacketSize` 0 where the packet lists no
 * page or no normal page: QEMU 7.2 leaves stale values there, with nothing behind them.
 */
export interface RamPacketHeader extends RamPacket {
  normalPages: number
  zeroPages: number
}

export interface RamPacketRules {
  /** The agreed method's bit, compared in packets with pages only. Default 0, uncompressed. */
  compressionFlag?: number
  /**
   * `used_length` in bytes of a RAM block, undefined if there is none of that name. Default: no
   * check.
   */
  usedLength?: (ramblock: string) => number | undefined
}

/** @throws RangeError if the UUID is not 16 bytes or the channel is not 0 .. 254 */
export function encodeInitialPacket(packet: InitialPacket): Uint8Array {
  if (packet.uuid.length !== 16) {
    throw new RangeError(`expected a UUID of 16 bytes, got ${packet.uuid.length}`)
  }
  checkUnsigned('channelId', packet.channelId, CHANNELS_MAX - 1)
  const bytes = new Uint8Array(INITIAL_PACKET_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, MULTIFD_MAGIC)
  view.setUint32(4, MULTIFD_VERSION)
  bytes.set(packet.uuid, 8)
  view.setUint8(24, packet.channelId)
  return bytes
}

/**
 * Decodes exactly 64 bytes. Whether the UUID and the channel are the expected ones is for the
 * caller; the reserved bytes are ignored, as QEMU does.
 */
export function decodeInitialPacket(bytes: Uint8Array): Result<InitialPacket> {
  const problem = checkOpening('initial packet', bytes, INITIAL_PACKET_BYTES)
  if (problem !== undefined) return fail('ERR_MULTIFD_HANDSHAKE', problem)
  const channelId = viewOf(bytes).getUint8(24)
  if (channelId >= CHANNELS_MAX) {
    return fail(
      'ERR_MULTIFD_HANDSHAKE',
      `the initial packet names channel ${channelId}, expected 0 .. ${CHANNELS_MAX - 1}`,
    )
  }
  return ok({ uuid: bytes.slice(8, 24), channelId })
}

/**
 * @throws RangeError if a field is outside what a destination accepts; nothing is truncated
 * silently
 */
export function encodeRamPacketHeader(packet: RamPacket): Uint8Array {
  const pages = packet.normalOffsets.length + packet.zeroOffsets.length
  checkUnsigned('flags', packet.flags, 0xffff_ffff)
  checkUnsigned('pagesAlloc', packet.pagesAlloc, PACKET_PAGES_MAX)
  checkUnsigned('nextPacketSize', packet.nextPacketSize, 0xffff_ffff)
  checkUnsigned('the number of pages', pages, packet.pagesAlloc)
  const bytes = new Uint8Array(RAM_PACKET_HEADER_BYTES)
  const view = viewOf(bytes)
  view.setUint32(0, MULTIFD_MAGIC)
  view.setUint32(4, MULTIFD_VERSION)
  view.setUint32(8, packet.flags)
  view.setUint32(12, packet.pagesAlloc)
  view.setUint32(16, packet.normalOffsets.length)
  view.setUint32(20, packet.nextPacketSize)
  setBe64(view, 24, packet.packetNum)
  view.setUint32(32, packet.zeroOffsets.length)
  if (pages > 0 || packet.ramblock !== '') {
    // The last of the 256 bytes stays NUL.
    bytes.set(encodeName('RAM block', packet.ramblock, RAM_PACKET_BLOCK_NAME_BYTES - 1), 64)
  }
  let at = RAM_PACKET_FIXED_BYTES
  for (const offset of [...packet.normalOffsets, ...packet.zeroOffsets]) {
    if (offset % PAGE_SIZE_BYTES !== 0) {
      throw new RangeError(
        `expected page offsets that are multiples of ${PAGE_SIZE_BYTES}, got ${offset}`,
      )
    }
    setBe64(view, at, offset)
    at += 8
  }
  return bytes
}

/**
 * A SYNC packet as every QEMU accepts it: magic, version, flag and number, everything else zero.
 */
export function encodeSyncPacket(packetNum: number): Uint8Array {
  return encodeRamPacketHeader({
    flags: MULTIFD_FLAG_SYNC,
    pagesAlloc: 0,
    nextPacketSize: 0,
    packetNum,
    ramblock: '',
    normalOffsets: [],
    zeroOffsets: [],
  })
}

/** Decodes exactly RAM_PACKET_HEADER_BYTES. Unlike QEMU it refuses flag bits it does not know. */
export function decodeRamPacketHeader(
  bytes: Uint8Array,
  rules: RamPacketRules = {},
): Result<RamPacketHeader> {
  const opening = checkOpening('RAM packet', bytes, RAM_PACKET_HEADER_BYTES)
  if (opening !== undefined) return fail('ERR_MULTIFD_PROTOCOL', opening)
  const view = viewOf(bytes)
  const compressionFlag = rules.compressionFlag ?? 0
  const flags = view.getUint32(8)
  // A bit we do not know may change everything behind it, as DEVICE_STATE does.
  if (flags & ~(MULTIFD_FLAG_SYNC | compressionFlag)) {
    return fail(
      'ERR_MULTIFD_UNSUPPORTED',
      `a RAM packet has flags ${hex(flags)}, expected none but ${hex(MULTIFD_FLAG_SYNC | compressionFlag)}; ` +
        'set the same multifd-compression on both ends, and turn device state over multifd off at the source',
    )
  }
  const packetNum = getBe64(view, 24)
  if (packetNum === undefined) {
    return refuse(`packet_num is ${quoteBytes(bytes.subarray(24, 32))}, expected at most 2^53-1`)
  }
  const header: RamPacketHeader = {
    flags,
    pagesAlloc: view.getUint32(12),
    normalPages: view.getUint32(16),
    nextPacketSize: view.getUint32(20),
    packetNum,
    zeroPages: view.getUint32(32),
    ramblock: '',
    normalOffsets: [],
    zeroOffsets: [],
  }
  const problem = checkCounts(header, compressionFlag)
  if (problem !== undefined) return refuse(problem, packetNum)
  if (header.normalPages === 0) header.nextPacketSize = 0
  return header.normalPages + header.zeroPages === 0
    ? ok(header)
    : decodePages(bytes, header, rules)
}

/** Fills in the block and the offsets of a header that lists at least one page. */
function decodePages(
  bytes: Uint8Array,
  header: RamPacketHeader,
  rules: RamPacketRules,
): Result<RamPacketHeader> {
  const room = bytes.subarray(64, 64 + RAM_PACKET_BLOCK_NAME_BYTES - 1)
  const end = room.indexOf(0)
  const name = end < 0 ? room : room.subarray(0, end)
  const ramblock = decodeName(name)
  if (ramblock === undefined) {
    return refuse(`the RAM block name is ${quoteBytes(name)}, expected UTF-8`, header.packetNum)
  }
  const usedLength = rules.usedLength === undefined ? Infinity : rules.usedLength(ramblock)
  if (usedLength === undefined) {
    return refuse(`there is no RAM block named ${JSON.stringify(ramblock)}`, header.packetNum)
  }
  const view = viewOf(bytes)
  const pages = header.normalPages + header.zeroPages
  const offsets: number[] = []
  for (let i = 0; i < pages; i++) {
    const at = RAM_PACKET_FIXED_BYTES + 8 * i
    const offset = getBe64(view, at)
    if (
      offset === undefined ||
      offset % PAGE_SIZE_BYTES !== 0 ||
      offset > usedLength - PAGE_SIZE_BYTES
    ) {
      const came = offset === undefined ? quoteBytes(bytes.subarray(at, at + 8)) : hex(offset)
      const end = usedLength === Infinity ? '' : ` inside its ${hex(usedLength)} bytes`
      return refuse(
        `offset ${i} in RAM block ${JSON.stringify(ramblock)} is ${came}, expected a multiple of ` +
          `${hex(PAGE_SIZE_BYTES)}${end}`,
        header.packetNum,
      )
    }
    offsets.push(offset)
  }
  const normalOffsets = offsets.slice(0, header.normalPages)
  return ok({ ...header, ramblock, normalOffsets, zeroOffsets: offsets.slice(header.normalPages) })
}

/** What is wrong with the length, magic or version of a packet. */
export function checkOpening(what: string, bytes: Uint8Array, size: number): string | undefined {
  if (bytes.length !== size) return `the ${what} has ${bytes.length} bytes, expected ${size}`
  const view = viewOf(bytes)
  if (view.getUint32(0) !== MULTIFD_MAGIC) {
    const came = quoteBytes(bytes.subarray(0, 4))
    return (
      `the ${what} begins with ${came}, expected the multifd magic ${hex(MULTIFD_MAGIC)}; ` +
      'check that the peer is a migration source with multifd on'
    )
  }
  const version = view.getUint32(4)
  if (version === MULTIFD_VERSION) return undefined
  return `the ${what} has multifd version ${version}, expected ${MULTIFD_VERSION}`
}

function checkCounts(header: RamPacketHeader, compressionFlag: number): string | undefined {
  const { flags, pagesAlloc, normalPages, zeroPages, nextPacketSize } = header
  if (pagesAlloc > PACKET_PAGES_MAX) {
    return `pages_alloc is ${pagesAlloc}, expected at most ${PACKET_PAGES_MAX}`
  }
  if (normalPages > pagesAlloc) {
    return `normal_pages is ${normalPages}, expected at most pages_alloc, ${pagesAlloc}`
  }
  if (zeroPages > pagesAlloc - normalPages) {
    return `zero_pages is ${zeroPages}, expected at most ${pagesAlloc - normalPages} beside ${normalPages} normal pages`
  }
  if (normalPages + zeroPages === 0) return undefined
  const compression = flags & MULTIFD_FLAG_COMPRESSION_MASK
  if (compression !== compressionFlag) {
    return (
      `its compression bits are ${hex(compression)}, expected ${hex(compressionFlag)}; ` +
      'set the same multifd-compression on both ends'
    )
  }
  const expected = normalPages * PAGE_SIZE_BYTES
  if (compressionFlag === 0 && normalPages > 0 && nextPacketSize !== expected) {
    return `next_packet_size is ${nextPacketSize}, expected ${expected} for ${normalPages} uncompressed pages`
  }
  if (normalPages > 0 && (nextPacketSize === 0 || nextPacketSize > PAYLOAD_BYTES_MAX)) {
    return `next_packet_size is ${nextPacketSize}, expected 1 to ${PAYLOAD_BYTES_MAX} for ${normalPages} compressed pages`
  }
  return undefined
}

function refuse(problem: string, packetNum?: number): { ok: false; error: MultifdError } {
  const details = packetNum === undefined ? {} : { packetNum }
  return fail('ERR_MULTIFD_PROTOCOL', `a RAM packet is malformed: ${problem}`, details)
}
