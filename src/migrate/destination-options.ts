// The options of a destination, checked once, with their defaults.

import type { GuestMemory } from '../guest/guest-memory.ts'
import { optionalBoolean, optionalSignal, refuseUnknown, wholeNumber } from '../kit/options.ts'
import { DEVICE_QUEUE_BYTES_MAX } from './device-loader.ts'
import type { NamedHandler } from './named-handler.ts'
import { checkDevices, type SaveStateHandler } from './save-state.ts'
import { checkMemory, checkTimeout, checkUuid } from './source-options.ts'
import type { Device } from './vmm.ts'

export interface MigrationDestinationOptions {
  /** Where the guest's RAM goes; the same blocks as at the source. Emptied first. */
  memory: GuestMemory
  /** Default none. Every one of them must come. */
  devices?: readonly (Device | SaveStateHandler)[]
  /** The guest's UUID; default all zero. The source must send the same. */
  uuid?: string
  /**
   * The caller knows that every byte of `memory` is zero, and wants to keep it populated
   * (pre-faulted memory takes a migration faster): it is then not emptied. Default false.
   */
  memoryIsZero?: boolean
  /** From the first connection until all are there and said what they are; default 10 000. */
  handshakeTimeoutMs?: number
  /** A source that gives no sign of life for so long has failed; default 10 000. */
  peerTimeoutMs?: number
  /**
   * When the connections break before the source has stopped its guest, what came is kept for this
   * time, and the source may connect again; 0 fails at once. Default 10 000.
   */
  reconnectTimeoutMs?: number
  /** Longest time for one call into a device; default 10 000. */
  deviceTimeoutMs?: number
  /**
   * Pieces of one device's state that may wait for an earlier one, bytes; default 64 MiB. More
   * fails the migration.
   */
  deviceQueueBytesMax?: number
  /** Listen beyond this machine although nothing is encrypted; default false. */
  allowPlaintext?: boolean
  /** Stops listening, or cancels the migration that runs. */
  signal?: AbortSignal
}

/** Options with every default filled in. */
export interface DestinationSettings {
  memory: GuestMemory
  devices: NamedHandler[]
  uuid: Uint8Array
  memoryIsZero: boolean
  handshakeTimeoutMs: number
  peerTimeoutMs: number
  reconnectTimeoutMs: number
  deviceQueueBytesMax: number
  allowPlaintext: boolean
  signal: AbortSignal | undefined
}

const NAMES = [
  'memory',
  'devices',
  'uuid',
  'memoryIsZero',
  'handshakeTimeoutMs',
  'peerTimeoutMs',
  'reconnectTimeoutMs',
  'deviceTimeoutMs',
  'deviceQueueBytesMax',
  'allowPlaintext',
  'signal',
]

/** @throws TypeError or RangeError naming the option and what it got. */
export function checkDestinationOptions(options: MigrationDestinationOptions): DestinationSettings {
  refuseUnknown('MigrationDestination.listen', options, NAMES)
  return {
    memory: checkMemory(options.memory),
    devices: checkDevices(
      options.devices ?? [],
      checkTimeout('deviceTimeoutMs', options.deviceTimeoutMs),
    ),
    uuid: checkUuid(options.uuid),
    memoryIsZero: optionalBoolean('memoryIsZero', options.memoryIsZero),
    handshakeTimeoutMs: checkTimeout('handshakeTimeoutMs', options.handshakeTimeoutMs),
    peerTimeoutMs: checkTimeout('peerTimeoutMs', options.peerTimeoutMs),
    reconnectTimeoutMs: checkTimeout('reconnectTimeoutMs', options.reconnectTimeoutMs, 0),
    deviceQueueBytesMax: wholeNumber(
      'deviceQueueBytesMax',
      options.deviceQueueBytesMax ?? DEVICE_QUEUE_BYTES_MAX,
      1,
      Number.MAX_SAFE_INTEGER,
    ),
    allowPlaintext: optionalBoolean('allowPlaintext', options.allowPlaintext),
    signal: optionalSignal(options.signal),
  }
}
