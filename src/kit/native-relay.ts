// What the addon exports for a relay; part of NativeAddon. Types only.

import type { NativeConnection, NativeEndpoint, NativeError, NativeThread } from './native.ts'

/** The connections to the destination; blocking calls run off the JavaScript thread. */
export interface NativeRelayPorts {
  /** Connects all ports, one after the other, and introduces each at once. */
  connect(): Promise<undefined | NativeError>
  /** Before the first `releaseSync` of a channel: packets may name these and no others. */
  setBlocks(blocks: readonly { idstr: string; usedLength: number }[]): void
  /** A SYNC packet on every port; while every channel is parked. */
  syncOut(): Promise<undefined | NativeError>
  /** Channels that are sending, or wait for a port. */
  writers(): number
  /** Whoever connects or sends gives up. */
  stop(): void
  /** After every channel was joined and every call has settled. */
  close(): void
}

export interface NativeRelayPortsOptions extends NativeEndpoint {
  ports: number
  uuid: Uint8Array
  connectTimeoutMs: number
  compression: string
  /** Undefined: the method's default. */
  compressionLevel: number | undefined
  /** `relayPortCounterNames` of each port, one port after the other. */
  counters: Float64Array
}

export interface NativeRelayChannel extends NativeThread {
  releaseSync(): void
}

export interface NativeRelayAddon {
  readonly relayPortCounterNames: readonly string[]
  createRelayPorts(options: NativeRelayPortsOptions): NativeRelayPorts | NativeError
  /** Takes the connection over. `destroy` also stops the ports: a relay ends as a whole. */
  startRelayChannel(
    ports: NativeRelayPorts,
    connection: NativeConnection,
    options: { compression: string; counters: Float64Array },
  ): NativeRelayChannel | NativeError
}
