// The multifd connections from a relay to its destination, as one object: they connect together,
// get a SYNC together and end together. Pages go from native threads straight to them.

import { checked, type NativeEndpoint, native } from '../kit/native.ts'
import type { NativeRelayPorts } from '../kit/native-relay.ts'
import { readCounters } from './counters.ts'

/** One connection's counters; bytes count everything on the wire. */
export interface RelayPortCounters {
  sentBytes: number
  packets: number
  syncs: number
}

export interface RelayPortsOptions {
  endpoint: NativeEndpoint
  ports: number
  uuid: Uint8Array
  compression: string
  compressionLevel: number | undefined
  connectTimeoutMs: number
}

export class RelayPorts {
  readonly native: NativeRelayPorts
  readonly #ports: number
  readonly #names: readonly string[]
  readonly #cells: Float64Array
  /** What native threads may still be doing: counters must outlive it. */
  #underway: Promise<unknown> = Promise.resolve()

  /** @throws MultifdError where the compression or its level is not to be had. */
  constructor({ endpoint, ports, ...options }: RelayPortsOptions) {
    this.#ports = ports
    this.#names = native().relayPortCounterNames
    this.#cells = new Float64Array(ports * this.#names.length)
    this.native = checked(
      native().createRelayPorts({ ...endpoint, ports, ...options, counters: this.#cells }),
      'preparing the channels to the destination failed',
    )
  }

  /** Rejects with the first error; what is connected by then stays until `close`. */
  async connect(): Promise<void> {
    const connecting = this.native.connect()
    this.#underway = connecting
    checked(await connecting, 'connecting the multifd channels of the destination failed')
  }

  /** A SYNC on every connection. Every incoming channel is parked. */
  async syncOut(): Promise<void> {
    const syncing = this.native.syncOut()
    this.#underway = syncing
    checked(await syncing, 'sending a SYNC to the destination failed')
  }

  /** Whether a channel waits for the destination to read. */
  get busy(): boolean {
    return this.native.writers() > 0
  }

  get counters(): RelayPortCounters[] {
    const width = this.#names.length
    return Array.from({ length: this.#ports }, (_, port) =>
      readCounters<RelayPortCounters>(
        this.#names,
        this.#cells.subarray(port * width, (port + 1) * width),
      ),
    )
  }

  get sentBytes(): number {
    let bytes = 0
    for (let at = 0; at < this.#cells.length; at += this.#names.length)
      bytes += this.#cells[at] ?? 0
    return bytes
  }

  stop(): void {
    this.native.stop()
  }

  /** Ends the connections; every channel has ended already. */
  async close(): Promise<void> {
    this.native.stop()
    await this.#underway
    this.native.close()
  }
}
