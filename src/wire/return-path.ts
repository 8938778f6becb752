// The return path: what a destination says to the source on the main channel's socket. Encoding,
// and incremental decoding of PONG, SHUT and SWITCHOVER_ACK; post-copy requests are refused. What
// follows from an answer (between our own ends SHUT(0) means "ready") is decided by the source.

import { type ErrorCode, fail, MultifdError, ok, type Result } from '../kit/errors.ts'
import { ByteQueue } from './byte-queue.ts'
import { be16, be32, concatBytes, hex, quoteBytes } from './bytes.ts'
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

export class ReturnPathReader {
  readonly #queue = new ByteQueue()
  #error: MultifdError | undefined

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
    if (held === 0) return ok(undefined)
    return fail(
      'ERR_MULTIFD_PEER_CLOSED',
      `the return path ended at byte ${this.#queue.position + held}, inside an answer of which ` +
        `${quoteBytes(this.#queue.peek(held))} came`,
    )
  }

  #read(): ReturnPathEvent | undefined {
    const queue = this.#queue
    if (queue.available < HEADER_BYTES) return undefined
    const type = queue.be16At(0)
    const length = queue.be16At(2)
    const expected = DATA_BYTES.get(type)
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
    return { kind: 'switchover-ack' }
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
