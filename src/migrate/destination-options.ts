// The options of a destination, checked once, with their defaults.

import type { GuestMemory } from '../guest/guest-memory.ts'
import { optionalBoolean, optionalSignal, refuseUnknown } from '../kit/options.ts'
import { checkMemory, checkTimeout, checkUuid } from './source-options.ts'
import { checkDevices, type Device, type NamedDevice } from './vmm.ts'

export interface MigrationDestinationOptions {
  /** Where the guest's RAM goes; the same blocks as at the source. Emptied first. */
  memory: GuestMemory
  /** Default none. Every one of them must come. */
  devices?: readonly Device[]
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
  /** Listen beyond this machine although nothing is encrypted; default false. */
  allowPlaintext?: boolean
  /** Stops listening, or cancels the migration that runs. */
  signal?: AbortSignal
}

/** Options with every default filled in. */
export interface DestinationSettings {
  memory: GuestMemory
  devices: NamedDevice[]
  uuid: Uint8Array
  memoryIsZero: boolean
  handshakeTimeoutMs: number
  peerTimeoutMs: number
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
  'allowPlaintext',
  'signal',
]

/** @throws TypeError or RangeError naming the option and what it got. */
export function checkDestinationOptions(options: MigrationDestinationOptions): DestinationSettings {
  refuseUnknown('MigrationDestination.listen', options, NAMES)
  return {
    memory: checkMemory(options.memory),
    devices: checkDevices(options.devices ?? []),
    uuid: checkUuid(options.uuid),
    memoryIsZero: optionalBoolean('memoryIsZero', options.memoryIsZero),
    handshakeTimeoutMs: checkTimeout('handshakeTimeoutMs', options.handshakeTimeoutMs),
    peerTimeoutMs: checkTimeout('peerTimeoutMs', options.peerTimeoutMs),
    allowPlaintext: optionalBoolean('allowPlaintext', options.allowPlaintext),
    signal: optionalSignal(options.signal),
  }
}
