// One multifd channel of the destination: it reports that it is parked at a SYNC, and is released;
// and it hands over the state of devices.

import { deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import {
  checked,
  type NativeCompression,
  type NativeConnection,
  type NativeDeviceState,
  type NativeReceiveChannel,
  type NativeReceiveGroup,
  native,
  toError,
} from '../kit/native.ts'
import { type ReceiveCounters, readCounters, receiveCounterNames } from './counters.ts'
import { EVENT, listen } from './native-events.ts'
import { memoryTaken } from './send-channel.ts'

export interface ReceiveChannelListener {
  /** Parked: reads on after `releaseSync`. */
  syncArrived(channelId: number): void
  /** The source closed the channel between two packets. */
  peerEnded(channelId: number): void
  /**
   * The state of a device came; the channel reads on when this returns. Without it device state is
   * refused, and the channel fails with ERR_MULTIFD_UNSUPPORTED.
   */
  deviceState?(channelId: number, state: NativeDeviceState): void
  /** At most once; the channel ends by itself. */
  failed(error: MultifdError): void
}

export interface ReceiveChannelOptions {
  /** What the source compresses with; default none. */
  compression?: NativeCompression
  /** Without compression: packets have room for 472 pages, and not for QEMU's 128. */
  largePackets?: boolean
}

/** Where the cells of the page counters are; the same in every channel. */
let pageCells: [number, number] | undefined

export class ReceiveChannel {
  readonly channelId: number
  /** Resolves, always, when the thread has ended and everything is given back. */
  readonly closed: Promise<void>
  readonly #native: NativeReceiveChannel
  readonly #cells = new Float64Array(receiveCounterNames().length)
  /** It was told to end, or has said why it ended. */
  #over = false

  /** Takes the connection over. */
  constructor(
    group: NativeReceiveGroup,
    connection: NativeConnection,
    listener: ReceiveChannelListener,
    options: ReceiveChannelOptions = {},
  ) {
    const { channelId } = connection
    this.channelId = channelId
    const about = `multifd channel ${channelId}`
    this.#native = checked(
      native().startReceiveChannel(group, connection, { counters: this.#cells, ...options }),
      `starting ${about} failed`,
    )
    const closed = deferred()
    this.closed = closed.promise
    listen(this.#native, (kind) => {
      if (kind === EVENT.SYNC_ARRIVED) listener.syncArrived(channelId)
      if (kind === EVENT.DEVICE_STATE) this.#deviceState(listener)
      if (kind === EVENT.PEER_END) {
        this.#over = true
        listener.peerEnded(channelId)
      }
      if (kind === EVENT.FAILED) {
        this.#over = true
        const cause = this.#native.error()
        if (cause !== null) listener.failed(toError(cause, about, { channelId }))
      }
      if (kind === EVENT.CLOSED) {
        this.#native.join()
        if (!this.#over) listener.failed(memoryTaken(about, channelId))
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

  /** Pages so far, with contents and zero; exact while it is parked. */
  get receivedPages(): number {
    pageCells ??= [
      receiveCounterNames().indexOf('normalPages'),
      receiveCounterNames().indexOf('zeroPages'),
    ]
    return (this.#cells[pageCells[0]] ?? 0) + (this.#cells[pageCells[1]] ?? 0)
  }

  #deviceState(listener: ReceiveChannelListener): void {
    const { channelId } = this
    const state = this.#native.takeDeviceState()
    if (state === null || this.#over) return
    if (listener.deviceState !== undefined) {
      listener.deviceState(channelId, state)
      return
    }
    void this.destroy()
    listener.failed(
      new MultifdError(
        'ERR_MULTIFD_UNSUPPORTED',
        `multifd channel ${channelId}: the state of device "${state.idstr}" (instance ` +
          `${state.instanceId}) came over the channel, where nothing here takes it: switch device ` +
          'state over multifd off at the source',
        { channelId },
      ),
    )
  }

  releaseSync(): void {
    this.#native.releaseSync()
  }

  destroy(): Promise<void> {
    this.#over = true
    this.#native.destroy()
    return this.closed
  }
}
