// The network of a simulation: who listens, who connects, how fast it is, and when nothing passes.

import type { SimulatedClock } from './clock.ts'
import { Connection, type End } from './connection.ts'
import type { Lots } from './draw.ts'
import type { Cut } from './pipe.ts'

export class Network {
  readonly clock: SimulatedClock
  readonly lots: Lots
  readonly latencyMs: number
  readonly bytesPerMs: number
  /** What one direction holds: a send buffer and a receive buffer. */
  readonly bufferBytes: number
  /** Nothing passes before. */
  outUntilMs = 0
  readonly openEnds = new Set<End>()
  readonly connections: Connection[] = []
  readonly note: (what: string) => void
  readonly mayCut: () => boolean
  readonly #cuts: readonly Cut[]
  readonly #listeners = new Map<string, (end: End) => void>()

  constructor(
    clock: SimulatedClock,
    lots: Lots,
    cuts: readonly Cut[],
    hooks: { note: (what: string) => void; mayCut: () => boolean },
  ) {
    this.clock = clock
    this.lots = lots
    this.#cuts = cuts
    this.note = hooks.note
    this.mayCut = hooks.mayCut
    this.latencyMs = lots.between(0.05, lots.oneOf([0.2, 2, 20]))
    this.bytesPerMs = lots.spread(20, 20_000)
    this.bufferBytes = lots.spread(64, 65_536)
  }

  soon(action: () => void): void {
    this.clock.after(this.lots.between(0, 0.1), action)
  }

  listen(path: string, accepted: (end: End) => void): boolean {
    if (this.#listeners.has(path)) return false
    this.#listeners.set(path, accepted)
    return true
  }
  unlisten(path: string): void {
    this.#listeners.delete(path)
  }

  /**
   * Connects; the answer comes later, once. What it returns calls the attempt off.
   * @param answer gets the client's end, or undefined where nobody listens.
   */
  connect(path: string, answer: (end: End | undefined) => void): () => void {
    let calledOff = false
    const attempt = (): void => {
      if (calledOff) return
      if (this.outUntilMs > this.clock.nowMs) {
        if (Number.isFinite(this.outUntilMs))
          this.clock.after(this.outUntilMs - this.clock.nowMs, attempt)
        return
      }
      const accepted = this.#listeners.get(path)
      if (accepted === undefined) {
        answer(undefined)
        return
      }
      const connection = this.#make()
      accepted(connection.server)
      answer(connection.client)
    }
    this.clock.after(2 * this.latencyMs * this.lots.between(1, 1.5), attempt)
    return () => {
      calledOff = true
    }
  }

  /** For a log: which end of which connection it is. */
  nameOf(end: End): string {
    const number = this.connections.findIndex(({ client, server }) =>
      [client, server].includes(end),
    )
    return `${number}${this.connections[number]?.client === end ? ' at the source' : ' at the destination'}`
  }

  /** All connections that are there break, stall, or end. */
  sufferAll(kind: Cut['kind'], stallMs: number): void {
    for (const connection of this.connections) connection.suffer(kind, stallMs)
  }

  #make(): Connection {
    const number = this.connections.length
    const connection = new Connection(
      this,
      this.#cuts.filter((cut) => cut.connection === number),
    )
    this.connections.push(connection)
    return connection
  }
}
