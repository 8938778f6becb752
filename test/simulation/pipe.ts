// One direction of a simulated connection: bytes with latency and a finite buffer, which come split
// at random, up to where the connection is cut. It knows no migration, only bytes.

import type { Connection, End } from './connection.ts'
import type { Network } from './network.ts'

/** What goes wrong, at one byte of one direction of one connection. */
export interface Cut {
  /** In the order in which connections are made, from 0. */
  connection: number
  direction: 'up' | 'down'
  atByte: number
  /** Both ends see a reset, an orderly end, or nothing for a time (or for ever). */
  kind: 'reset' | 'end' | 'stall'
  stallMs: number
}

/** One direction of a connection. */
export class Pipe {
  /** Bytes on their way, and those that arrived and nobody has read. */
  readonly #onTheWay: { bytes: Uint8Array; dueMs: number }[] = []
  readonly arrived: Uint8Array[] = []
  arrivedBytes = 0
  #onTheWayBytes = 0
  #lastDueMs = 0
  #passedBytes = 0
  #finishDueMs: number | undefined
  stalledUntilMs = 0
  #timed = false
  finished = false
  /** Nothing comes out any more. */
  closed = false
  readonly #network: Network
  readonly #connection: Connection
  readonly #cuts: Cut[]
  readonly #receiver: () => End
  readonly #sender: () => End

  constructor(parts: {
    network: Network
    connection: Connection
    cuts: Cut[]
    receiver: () => End
    sender: () => End
  }) {
    this.#network = parts.network
    this.#connection = parts.connection
    this.#cuts = parts.cuts.sort((left, right) => left.atByte - right.atByte)
    this.#receiver = parts.receiver
    this.#sender = parts.sender
  }

  get room(): number {
    return Math.max(0, this.#network.bufferBytes - this.#onTheWayBytes - this.arrivedBytes)
  }

  put(bytes: Uint8Array): void {
    const { clock, lots } = this.#network
    if (this.closed) {
      this.#network.soon(() => this.#sender().break('EPIPE'))
      return
    }
    let rest = bytes
    while (rest.length > 0) {
      const split = rest.length > 1 && lots.chance(0.3) ? lots.whole(1, rest.length) : rest.length
      const takes = this.#network.latencyMs + split / this.#network.bytesPerMs
      this.#lastDueMs = Math.max(
        this.#lastDueMs + split / this.#network.bytesPerMs,
        clock.nowMs + takes,
      )
      this.#onTheWay.push({ bytes: rest.slice(0, split), dueMs: this.#lastDueMs })
      this.#onTheWayBytes += split
      rest = rest.subarray(split)
    }
    this.#arm()
  }

  finish(): void {
    this.#finishDueMs = Math.max(
      this.#lastDueMs,
      this.#network.clock.nowMs + this.#network.latencyMs,
    )
    this.#arm()
  }

  /** What is on its way is lost, but for what is due before `untilMs`. */
  dropAfter(untilMs: number): void {
    while ((this.#onTheWay.at(-1)?.dueMs ?? 0) > untilMs) {
      this.#onTheWayBytes -= this.#onTheWay.pop()?.bytes.length ?? 0
    }
    this.#finishDueMs = undefined
  }

  take(max: number): Uint8Array {
    const first = this.arrived[0]
    if (first === undefined) return new Uint8Array(0)
    const bytes = first.subarray(0, max)
    if (bytes.length === first.length) this.arrived.shift()
    else this.arrived[0] = first.subarray(max)
    this.arrivedBytes -= bytes.length
    this.#network.soon(() => this.#sender().changed())
    return bytes
  }

  #arm(): void {
    const dueMs = this.#onTheWay[0]?.dueMs ?? this.#finishDueMs
    if (this.#timed || this.closed || dueMs === undefined) return
    const { clock } = this.#network
    const readyMs = Math.max(dueMs, this.stalledUntilMs, this.#network.outUntilMs)
    if (readyMs === Number.POSITIVE_INFINITY) return
    this.#timed = true
    clock.after(Math.max(0, readyMs - clock.nowMs), () => {
      this.#timed = false
      if (this.closed) return
      if (clock.nowMs >= Math.max(this.stalledUntilMs, this.#network.outUntilMs)) this.#arrive()
      this.#arm()
    })
  }

  #arrive(): void {
    const next = this.#onTheWay[0]
    if (next === undefined) {
      if (this.#finishDueMs === undefined) return
      this.#finishDueMs = undefined
      this.finished = true
      this.#receiver().changed()
      return
    }
    const cut = this.#cuts[0]
    const left = (cut?.atByte ?? Number.POSITIVE_INFINITY) - this.#passedBytes
    const bytes = next.bytes.subarray(0, Math.min(next.bytes.length, left))
    if (bytes.length === next.bytes.length) this.#onTheWay.shift()
    else next.bytes = next.bytes.subarray(bytes.length)
    this.#onTheWayBytes -= bytes.length
    this.#passedBytes += bytes.length
    if (bytes.length > 0) this.#receiver().deliver(this, bytes)
    if (cut !== undefined && bytes.length === left) {
      this.#cuts.shift()
      if (!this.#network.mayCut()) return
      this.#network.note(`cut: ${JSON.stringify(cut)}`)
      this.#connection.suffer(cut.kind, cut.stallMs)
    }
  }
}
