// The door of a destination: accepts the connections of one migration, keeps multifd channels until
// somebody takes them, and stays open for a source that has to connect again.

import type { MultifdError } from '../kit/errors.ts'
import { CHANNELS_MAX } from '../kit/limits.ts'
import type { NativeConnection, NativeEndpoint } from '../kit/native.ts'
import { trace } from '../kit/trace.ts'
import { Acceptor } from './accept.ts'

/** Who takes multifd channels that introduced themselves. */
export interface ChannelTaker {
  introduce(connection: NativeConnection): void
}

export interface DoorListener {
  main(connection: NativeConnection): void
  /** Any connection that said what it is. */
  arrived(): void
  /** Nobody can come in any more; not called once `stayOpen` was. */
  failed(error: MultifdError): void
}

export class Door {
  readonly #identifyTimeoutMs: number
  readonly #listener: DoorListener
  #acceptor: Acceptor
  #waiting: NativeConnection[] = []
  #taker: ChannelTaker | undefined
  #staysOpen = false
  #closing = false

  /** @throws MultifdError ERR_MULTIFD_CHANNEL if the address is not to be had. */
  constructor(endpoint: NativeEndpoint, identifyTimeoutMs: number, listener: DoorListener) {
    this.#identifyTimeoutMs = identifyTimeoutMs
    this.#listener = listener
    this.#acceptor = this.#open(endpoint)
  }

  /** Where it really listens: port 0 was replaced by the kernel's choice. */
  get endpoint(): NativeEndpoint {
    return this.#acceptor.endpoint
  }
  /** Channels that nobody took yet. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** Channels that wait, and those that come, belong to this connection. */
  giveTo(taker: ChannelTaker): void {
    this.#taker = taker
    for (const connection of this.#waiting.splice(0)) taker.introduce(connection)
  }

  /**
   * All channels are there; a source that lost them may come again, and its channels wait for the
   * main channel they belong to. A stranger cannot hurt any more.
   */
  stayOpen(): void {
    this.#taker = undefined
    this.#staysOpen = true
  }

  /** What waits belongs to nobody who is known. */
  turnAway(): void {
    for (const connection of this.#waiting.splice(0)) connection.close()
  }

  /** Stops listening, and closes what waits. */
  async close(): Promise<void> {
    this.#closing = true
    this.turnAway()
    await this.#acceptor.destroy()
  }

  #open(endpoint: NativeEndpoint): Acceptor {
    return new Acceptor(endpoint, this.#identifyTimeoutMs, {
      connection: (connection) => this.#arrived(connection),
      failed: (error) => this.#failed(error),
    })
  }

  #arrived(connection: NativeConnection): void {
    if (this.#closing) {
      connection.close() // it came in while the acceptor ended
      return
    }
    this.#listener.arrived()
    if (connection.isMain) this.#listener.main(connection)
    else if (this.#taker !== undefined) this.#taker.introduce(connection)
    else if (this.#waiting.length < CHANNELS_MAX) this.#waiting.push(connection)
    else connection.close()
  }

  /** A stranger ends the acceptor, and the next one takes its place. */
  #failed(error: MultifdError): void {
    if (!this.#staysOpen) {
      this.#listener.failed(error)
      return
    }
    const { code, message } = error
    trace('multifd:error', () => ({ side: 'destination', code, message }))
    void this.#acceptor.closed.then(() => {
      if (this.#closing) return
      try {
        this.#acceptor = this.#open(this.#acceptor.endpoint)
      } catch {
        // The address is taken: then nobody can connect again, which costs nothing until one must.
      }
    })
  }
}
