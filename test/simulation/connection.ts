// A simulated connection: two pipes, and an end at each side that behaves as a TCP socket does when
// it is closed, reset, or left by its peer.

import type { Network } from './network.ts'
import { type Cut, Pipe } from './pipe.ts'

/** One end of a connection, as a socket sees it. */
export class End {
  /** Called when something may be read or written, or the connection has ended or broken. */
  changed: () => void = () => {}
  /** Why nothing more comes or goes. */
  broken: 'ECONNRESET' | 'EPIPE' | undefined
  closed = false
  #finished = false
  readonly #network: Network
  readonly #out: () => Pipe
  readonly #in: () => Pipe
  readonly #peer: () => End

  constructor(network: Network, out: () => Pipe, into: () => Pipe, peer: () => End) {
    this.#network = network
    this.#out = out
    this.#in = into
    this.#peer = peer
    network.openEnds.add(this)
  }

  get readable(): number {
    return this.#in().arrivedBytes
  }
  /** The peer said that nothing more comes, and everything was read. */
  get ended(): boolean {
    return this.#in().finished && this.readable === 0
  }
  /** The same, whether or not it was read. */
  get finished(): boolean {
    return this.#in().finished
  }
  /** Bytes that may be written now. */
  get writable(): number {
    return this.closed || this.#finished || this.broken !== undefined ? 0 : this.#out().room
  }

  read(max = Number.POSITIVE_INFINITY): Uint8Array {
    return this.#in().take(max)
  }

  peek(count: number): Uint8Array {
    return this.#in().arrived[0]?.subarray(0, count) ?? new Uint8Array(0)
  }

  /** What is readable is enough. */
  readExactly(count: number): Uint8Array {
    const bytes = new Uint8Array(count)
    for (let at = 0; at < count; ) {
      const more = this.read(count - at)
      bytes.set(more, at)
      at += more.length
    }
    return bytes
  }

  /** Takes as much as there is room for; how much. */
  write(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.writable)
    if (taken > 0) this.#out().put(bytes.slice(0, taken))
    return taken
  }

  /** What was written still arrives, and then the end of it. */
  finish(): void {
    if (this.#finished || this.closed || this.broken !== undefined) return
    this.#finished = true
    this.#out().finish()
  }

  /** As close(2): orderly, unless something that came was not read. */
  close(): void {
    if (this.closed) return
    if (this.readable > 0) this.reset()
    else {
      this.finish()
      this.#gone()
    }
  }

  /** As close(2) without lingering: what is on its way is lost. */
  reset(): void {
    if (this.closed) return
    this.#gone()
    if (this.broken === undefined) this.#tellReset()
  }

  deliver(pipe: Pipe, bytes: Uint8Array): void {
    if (this.closed) {
      // Nobody reads it: the kernel answers with a reset.
      this.#tellReset()
      return
    }
    pipe.arrived.push(bytes)
    pipe.arrivedBytes += bytes.length
    this.changed()
  }

  break(how: 'ECONNRESET' | 'EPIPE'): void {
    if (this.broken !== undefined || this.closed) return
    this.broken = how
    this.changed()
  }

  #tellReset(): void {
    const { clock, lots, latencyMs } = this.#network
    const out = this.#out()
    out.dropAfter(clock.nowMs + latencyMs * lots.between(0, 1))
    this.#in().dropAfter(0)
    const tell = (): void => {
      const untilMs = Math.max(out.stalledUntilMs, this.#network.outUntilMs)
      if (untilMs === Number.POSITIVE_INFINITY) return
      if (untilMs > clock.nowMs) clock.after(untilMs - clock.nowMs, tell)
      else this.#peer().break('ECONNRESET')
    }
    clock.after(latencyMs, tell)
  }

  #gone(): void {
    this.#network.note(`connection ${this.#network.nameOf(this)} closed`)
    this.closed = true
    this.#network.openEnds.delete(this)
  }
}

export class Connection {
  readonly client: End
  readonly server: End
  readonly #network: Network
  readonly #up: Pipe
  readonly #down: Pipe

  constructor(network: Network, cuts: Cut[]) {
    this.#network = network
    const of = (direction: 'up' | 'down'): Cut[] =>
      cuts.filter((cut) => cut.direction === direction)
    const [client, server] = [() => this.client, () => this.server]
    const common = { network, connection: this }
    this.#up = new Pipe({ ...common, cuts: of('up'), receiver: server, sender: client })
    this.#down = new Pipe({ ...common, cuts: of('down'), receiver: client, sender: server })
    const [up, down] = [() => this.#up, () => this.#down]
    this.client = new End(network, up, down, server)
    this.server = new End(network, down, up, client)
  }

  suffer(kind: Cut['kind'], stallMs: number): void {
    const nowMs = this.#network.clock.nowMs
    if (kind === 'stall') {
      for (const pipe of [this.#up, this.#down]) {
        pipe.stalledUntilMs = Math.max(pipe.stalledUntilMs, nowMs + stallMs)
      }
      return
    }
    for (const [end, pipe] of [
      [this.client, this.#down],
      [this.server, this.#up],
    ] as const) {
      pipe.dropAfter(0)
      pipe.closed = true
      if (kind === 'reset') end.break('ECONNRESET')
      else {
        pipe.finished = true
        end.changed()
      }
    }
  }
}
