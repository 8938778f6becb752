// The return path: what a destination says to the source on the main channel's socket. Encoding,
// and incremental decoding of PONG, SHUT and SWITCHOVER_ACK, and between our own ends of the two
// answers that resume a migration; post-copy requests are refused. What follows from an answer
// (between our own ends SHUT(0) means "ready") is decided by the source.

import { type ErrorCode, fail, MultifdError, ok, type Result } from '../kit/errors.ts'
import { ByteQueue } from './byte-queue.ts'
import {
  be16,
  be32,
  be64,
  concatBytes,
  decodeName,
  encodeCounted,
  getBe64,
  hex,
  quoteBytes,
  viewOf,
} from './bytes.ts'
import {
  MIG_RP_MSG_PONG,
  MIG_RP_MSG_RECV_BITMAP,
  MIG_RP_MSG_REQ_PAGES,
  MIG_RP_MSG_REQ_PAGES_ID,
  MIG_RP_MSG_RESUME_ACK,
  MIG_RP_MSG_SHUT,
  MIG_RP_MSG_SWITCHOVER_ACK,
} from './constants.ts'

export type ReturnPathEvent =
  /** The destination is done; 0 is success, anything else its failure. */
  | { kind: 'shut'; status: number }
  /** The answer to PING with the same value. */
  | { kind: 'pong'; value: number }
  /** The destination's devices are ready for the switchover. */
  | { kind: 'switchover-ack' }
  /** How many rounds the destination has collected. */
  | { kind: 'resume-ack'; rounds: number }
  /** What of a RAM block came since then: bit i of the little-endian bitmap is page i. */
  | { kind: 'recv-bitmap'; idstr: string; bitmap: Uint8Array }

/** Events in order, and the first error, after which nothing is read any more. */
export interface ReturnPathReading {
  events: ReturnPathEvent[]
  error: MultifdError | undefined
}

const HEADER_BYTES = 4

const DATA_BYTES = new Map([
  [MIG_RP_MSG_SHUT, 4],
  [MIG_RP_MSG_PONG, 4],
  [MIG_RP_MSG_SWITCHOVER_ACK, 0],
])

/** A length byte and at least one byte of a name; at most 255 of it. */
const RECV_BITMAP_DATA_BYTES_MIN = 2
const RECV_BITMAP_DATA_BYTES_MAX = 256
const RECV_BITMAP_SIZE_BYTES = 8
const RECV_BITMAP_END = Uint8Array.of(0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef)

const POSTCOPY_ANSWERS = [
  MIG_RP_MSG_REQ_PAGES_ID,
  MIG_RP_MSG_REQ_PAGES,
  MIG_RP_MSG_RECV_BITMAP,
  MIG_RP_MSG_RESUME_ACK,
]

/** @param status 0 for success, any other u32 for failure */
export function encodeShut(status: number): Uint8Array {
  return concatBytes(be16(MIG_RP_MSG_SHUT), be16(4), be32(status))
}

/** @param value the u32 of the PING that is answered */
export function encodePong(value: number): Uint8Array {
  return concatBytes(be16(MIG_RP_MSG_PONG), be16(4), be32(value))
}

export function encodeSwitchoverAck(): Uint8Array {
  return concatBytes(be16(MIG_RP_MSG_SWITCHOVER_ACK), be16(0))
}

/** @param rounds how many rounds were collected, a u32 */
export function encodeResumeAck(rounds: number): Uint8Array {
  return concatBytes(be16(MIG_RP_MSG_RESUME_ACK), be16(4), be32(rounds))
}

/**
 * @param bitmap little-endian, a multiple of 8 bytes
 * @throws RangeError if the name is not one, or the bitmap of another length
 */
export function encodeRecvBitmap(idstr: string, bitmap: Uint8Array): Uint8Array {
  if (bitmap.length % 8 !== 0) {
    throw new RangeError(`expected a bitmap of a multiple of 8 bytes, got ${bitmap.length}`)
  }
  const name = encodeCounted('RAM block', idstr)
  return concatBytes(
    ...[be16(MIG_RP_MSG_RECV_BITMAP), be16(name.length), name],
    ...[be64(bitmap.length), bitmap, RECV_BITMAP_END],
  )
}

/** Bytes of a bitmap with one bit per page, as RECV_BITMAP carries it. */
export function recvBitmapBytes(pageCount: number): number {
  return Math.ceil(pageCount / 64) * 8
}

export interface ReturnPathOptions {
  /**
   * The peer is our own destination, and may resume: the RAM blocks whose bitmaps it may send, each
   * once. Default: RESUME_ACK and RECV_BITMAP are refused, as they belong to post-copy.
   */
  resumeBlocks?: readonly { idstr: string; pageCount: number }[]
}

/** A bitmap of which part came. */
interface PartialBitmap {
  idstr: string
  bitmap: Uint8Array
  filledBytes: number
}

export class ReturnPathReader {
  readonly #queue = new ByteQueue()
  /** Bytes of the bitmaps that may still come, by name; undefined: the peer cannot resume. */
  readonly #bitmapBytes: Map<string, number> | undefined
  /** Filled in place: a bitmap is copied once, whatever its size and however it is split. */
  #partial: PartialBitmap | undefined
  #error: MultifdError | undefined

  constructor({ resumeBlocks }: ReturnPathOptions = {}) {
    this.#bitmapBytes =
      resumeBlocks &&
      new Map(resumeBlocks.map(({ idstr, pageCount }) => [idstr, recvBitmapBytes(pageCount)]))
  }

  /** Takes the next bytes, split in any way. After an error it stays failed. */
  push(bytes: Uint8Array): ReturnPathReading {
    const events: ReturnPathEvent[] = []
    if (this.#error !== undefined) return { events, error: this.#error }
    this.#queue.append(bytes)
    for (let event = this.#read(); event !== undefined; event = this.#read()) events.push(event)
    if (this.#error !== undefined) this.#queue.clear()
    return { events, error: this.#error }
  }

  /** The peer closed its end: an error if that was inside an answer. */
  end(): Result<void> {
    if (this.#error !== undefined) return { ok: false, error: this.#error }
    const held = this.#queue.available
    if (held === 0 && this.#partial === undefined) return ok(undefined)
    if (this.#partial !== undefined) {
      const { idstr, bitmap, filledBytes } = this.#partial
      return fail(
        'ERR_MULTIFD_PEER_CLOSED',
        `the return path ended at byte ${this.#queue.position + held}, inside the bitmap of ` +
          `${JSON.stringify(idstr)}, of which ${filledBytes} of ${bitmap.length} bytes came`,
      )
    }
    return fail(
      'ERR_MULTIFD_PEER_CLOSED',
      `the return path ended at byte ${this.#queue.position + held}, inside an answer of which ` +
        `${quoteBytes(this.#queue.peek(held))} came`,
    )
  }

  #read(): ReturnPathEvent | undefined {
    if (this.#partial !== undefined) return this.#fillBitmap(this.#partial)
    const queue = this.#queue
    if (queue.available < HEADER_BYTES) return undefined
    const type = queue.be16At(0)
    const length = queue.be16At(2)
    if (type === MIG_RP_MSG_RECV_BITMAP && this.#bitmapBytes !== undefined) {
      return this.#beginBitmap(this.#bitmapBytes, length)
    }
    const resumes = type === MIG_RP_MSG_RESUME_ACK && this.#bitmapBytes !== undefined
    const expected = resumes ? 4 : DATA_BYTES.get(type)
    if (expected === undefined) return this.#refuseType(type)
    if (length !== expected) {
      return this.#fail(
        'ERR_MULTIFD_PROTOCOL',
        `answer ${type} has ${length} bytes of data, expected ${expected}`,
      )
    }
    if (queue.available < HEADER_BYTES + length) return undefined
    const value = length === 4 ? queue.be32At(HEADER_BYTES) : 0
    queue.skip(HEADER_BYTES + length)
    if (type === MIG_RP_MSG_SHUT) return { kind: 'shut', status: value }
    if (type === MIG_RP_MSG_PONG) return { kind: 'pong', value }
    if (resumes) return { kind: 'resume-ack', rounds: value }
    return { kind: 'switchover-ack' }
  }

  #beginBitmap(expected: Map<string, number>, length: number): ReturnPathEvent | undefined {
    const queue = this.#queue
    if (length < RECV_BITMAP_DATA_BYTES_MIN || length > RECV_BITMAP_DATA_BYTES_MAX) {
      return this.#fail(
        'ERR_MULTIFD_PROTOCOL',
        `RECV_BITMAP has ${length} bytes of data, expected ${RECV_BITMAP_DATA_BYTES_MIN} .. ` +
          `${RECV_BITMAP_DATA_BYTES_MAX}`,
      )
    }
    const headBytes = HEADER_BYTES + length
    if (queue.available < headBytes + RECV_BITMAP_SIZE_BYTES) return undefined
    const head = queue.peek(headBytes + RECV_BITMAP_SIZE_BYTES)
    const name = head.subarray(HEADER_BYTES + 1, headBytes)
    const idstr = head[HEADER_BYTES] === name.length ? decodeName(name) : undefined
    const bitmapBytes = idstr === undefined ? undefined : expected.get(idstr)
    if (idstr === undefined || bitmapBytes === undefined) {
      return this.#fail(
        'ERR_MULTIFD_PROTOCOL',
        `RECV_BITMAP is for RAM block ${quoteBytes(name)}, which this source does not have or ` +
          'got before',
      )
    }
    const sizeBytes = getBe64(viewOf(head), headBytes)
    if (sizeBytes !== bitmapBytes) {
      return this.#fail(
        'ERR_MULTIFD_PROTOCOL',
        `the bitmap of RAM block ${JSON.stringify(idstr)} has ${sizeBytes ?? 'too many'} bytes, ` +
          `expected ${bitmapBytes}: give both sides the same blocks`,
      )
    }
    expected.delete(idstr)
    queue.skip(head.length)
    this.#partial = { idstr, bitmap: new Uint8Array(bitmapBytes), filledBytes: 0 }
    return this.#fillBitmap(this.#partial)
  }

  #fillBitmap(partial: PartialBitmap): ReturnPathEvent | undefined {
    const { idstr, bitmap } = partial
    const queue = this.#queue
    const piece = queue.peek(bitmap.length - partial.filledBytes)
    bitmap.set(piece, partial.filledBytes)
    partial.filledBytes += piece.length
    queue.skip(piece.length)
    if (partial.filledBytes < bitmap.length) return undefined
    if (queue.available < RECV_BITMAP_END.length) return undefined
    const end = queue.peek(RECV_BITMAP_END.length)
    if (!end.every((byte, at) => byte === RECV_BITMAP_END[at])) {
      return this.#fail(
        'ERR_MULTIFD_PROTOCOL',
        `behind the bitmap of RAM block ${JSON.stringify(idstr)} came ${quoteBytes(end)}, ` +
          `expected ${quoteBytes(RECV_BITMAP_END)}`,
      )
    }
    queue.skip(RECV_BITMAP_END.length)
    this.#partial = undefined
    return { kind: 'recv-bitmap', idstr, bitmap }
  }

  #refuseType(type: number): undefined {
    if (POSTCOPY_ANSWERS.includes(type)) {
      return this.#fail(
        'ERR_MULTIFD_UNSUPPORTED',
        `answer ${type} belongs to post-copy, expected PONG, SHUT or SWITCHOVER_ACK; turn postcopy-ram off`,
      )
    }
    const came = quoteBytes(this.#queue.peek(HEADER_BYTES))
    return this.#fail(
      'ERR_MULTIFD_PROTOCOL',
      `got ${came} (answer ${hex(type, 4)}), expected PONG, SHUT or SWITCHOVER_ACK`,
    )
  }

  #fail(code: ErrorCode, problem: string): undefined {
    this.#error = new MultifdError(code, `return path, byte ${this.#queue.position}: ${problem}`)
    return undefined
  }
}
