// One multifd channel from the source of a relay: its thread passes packets on by itself, reports
// that it is parked at a SYNC, and is released.

import { deferred } from '../kit/deferred.ts'
import { checked, type NativeConnection, native, toError } from '../kit/native.ts'
import type { NativeRelayChannel } from '../kit/native-relay.ts'
import { type ReceiveCounters, readCounters, receiveCounterNames } from './counters.ts'
import { EVENT, listen } from './native-events.ts'
import type { ReceiveChannelListener } from './receive-channel.ts'
import type { RelayPorts } from './relay-ports.ts'

export class RelayChannel {
  readonly channelId: number
  /** Resolves, always, when the thread has ended and everything is given back. */
  readonly closed: Promise<void>
  readonly #native: NativeRelayChannel
  readonly #cells = new Float64Array(receiveCounterNames().length)

  /** Takes the connection over. */
  constructor(
    ports: RelayPorts,
    connection: NativeConnection,
    compression: string,
    listener: ReceiveChannelListener,
  ) {
    const { channelId } = connection
    this.channelId = channelId
    const about = `multifd channel ${channelId} of the source`
    this.#native = checked(
      native().startRelayChannel(ports.native, connection, { compression, counters: this.#cells }),
      `starting ${about} failed`,
    )
    const closed = deferred()
    this.closed = closed.promise
    listen(this.#native, (kind) => {
      if (kind === EVENT.SYNC_ARRIVED) listener.syncArrived(channelId)
      if (kind === EVENT.PEER_END) listener.peerEnded(channelId)
      if (kind === EVENT.FAILED) {
        const cause = this.#native.error()
        if (cause !== null) listener.failed(toError(cause, about, { channelId }))
      }
      if (kind === EVENT.CLOSED) {
        this.#native.join()
        closed.resolve()
      }
    })
  }

  get counters(): ReceiveCounters {
    return readCounters<ReceiveCounters>(receiveCounterNames(), this.#cells)
  }

  /** Everything read so far; one cell, read in place. */
  get receivedBytes(): number {
    return this.#cells[0] ?? 0
  }

  releaseSync(): void {
    this.#native.releaseSync()
  }

  /** Ends the thread, and stops the ports with it. */
  destroy(): Promise<void> {
    this.#native.destroy()
    return this.closed
  }
}
