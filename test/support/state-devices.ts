// Devices for tests of whole migrations: what one sends is known, what arrives is kept by part, so
// that a byte lost, doubled or out of order shows.

import type { SaveStateHandler, StatePart } from '../../src/index.ts'
import { randomNumbers } from './pages.ts'

/** Bytes that no other seed gives. */
export function stateBytes(length: number, seed: number): Uint8Array {
  const random = randomNumbers(seed)
  const noise = Uint8Array.from({ length: Math.min(length, 65536) }, () => random() * 256)
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at += noise.length) {
    bytes.set(noise.subarray(0, Math.min(noise.length, length - at)), at)
    bytes[at] = at / noise.length
  }
  return bytes
}

/** Cuts bytes into pieces of so many, the last one shorter. */
export function* cut(bytes: Uint8Array, pieceBytes: number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
}

/** A destination's device: what came since the last START, and in which parts. */
export class Arrived implements SaveStateHandler {
  readonly idstr: string
  /** Parts in order. */
  parts: StatePart[] = []
  #states: Uint8Array[] = []

  constructor(idstr: string) {
    this.idstr = idstr
  }

  /** All of it in one piece. */
  get state(): Buffer {
    return Buffer.concat(this.#states)
  }

  load(state: Uint8Array, part: StatePart): void {
    if (part === 'setup') {
      this.parts = []
      this.#states = []
    }
    this.parts.push(part)
    this.#states.push(Uint8Array.from(state))
  }

  complete(): Uint8Array {
    throw new Error('a destination has nothing to save')
  }
  /** Names it as one that takes pieces, too. */
  setup(): Uint8Array {
    throw new Error('a destination has nothing to send')
  }
}

/** A device that sends all but `rest` bytes of its state while the guest runs. */
export function iterable(idstr: string, state: Uint8Array, restBytes: number) {
  let sent = 0
  const turns: number[] = []
  const left = (): number => state.length - restBytes - sent
  return {
    idstr,
    /** Bytes of each turn. */
    turns,
    setup() {
      sent = 0
      return state.subarray(0, 0)
    },
    pendingEstimate: left,
    pendingExact: () => left() + restBytes,
    iterate(budgetBytes: number) {
      const bytes = Math.min(budgetBytes, left())
      turns.push(bytes)
      sent += bytes
      return state.subarray(sent - bytes, sent)
    },
    complete: () => state.subarray(sent),
    load() {
      throw new Error('a source has nothing to load')
    },
  } satisfies SaveStateHandler & { turns: number[] }
}

/** The same, but what is left after the stop goes in pieces, its last ten bytes by `complete`. */
export function iterableInPieces(
  idstr: string,
  state: Uint8Array,
  options: { restBytes: number; pieceBytes: number },
): SaveStateHandler {
  const device = iterable(idstr, state, options.restBytes)
  const last = state.length - 10
  return {
    ...device,
    completePieces: () => cut(device.complete().subarray(0, -10), options.pieceBytes),
    complete: () => state.subarray(last),
  }
}

/** A device that is saved in pieces, and its last bytes by `complete`. */
export function inPieces(
  idstr: string,
  state: Uint8Array,
  pieceBytes: number,
  restBytes = 0,
): SaveStateHandler {
  return {
    idstr,
    pendingExact: () => state.length,
    completePieces: () => cut(state.subarray(0, state.length - restBytes), pieceBytes),
    complete: () => state.subarray(state.length - restBytes),
    load() {
      throw new Error('a source has nothing to load')
    },
  }
}
