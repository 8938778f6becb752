// The options of receiving a snapshot, checked once, with their defaults.

import { CHANNELS_MAX } from '../kit/limits.ts'
import { COMPRESSIONS, type NativeCompression } from '../kit/native.ts'
import {
  oneOf,
  optionalBoolean,
  optionalSignal,
  refuseUnknown,
  requireString,
  wholeNumber,
} from '../kit/options.ts'
import { checkTimeout, checkUuid } from '../migrate/source-options.ts'

export interface ReceiveSnapshotOptions {
  /** Where the snapshot goes: an empty directory, or one that is made. */
  directory: string
  /**
   * The source's `multifd-channels`, 0 to 255: a QEMU does not announce it. 0: multifd is off
   * there. Default 2, as QEMU's.
   */
  multifdChannels?: number
  /** The source's `multifd-compression`; default none. */
  compression?: NativeCompression
  /** The guest's UUID, which the channels must bring; default: whichever they bring. */
  uuid?: string
  /**
   * Take a guest from a source that does not wait for our word: it is finished before we are, and
   * what fails here afterwards loses the guest. Default false.
   */
  allowNoReturnPath?: boolean
  /**
   * Tell the source that this side is ready for the switchover, which it waits for if its
   * capability `switchover-ack` is on. By default where the machine type, or the stream, shows a
   * QEMU of at least 8.1: an older one fails on it. True: always.
   */
  switchoverAck?: boolean
  /** From the first connection until all are there and said what they are; default 10 000. */
  handshakeTimeoutMs?: number
  /** A source that gives no sign of life for so long has failed; default 10 000. */
  peerTimeoutMs?: number
  /** Listen beyond this machine although nothing is encrypted; default false. */
  allowPlaintext?: boolean
  /** Stops listening, or refuses the migration that runs: the guest goes on at the source. */
  signal?: AbortSignal
}

/** Options with every default filled in. */
export interface ReceiveSettings {
  directory: string
  channels: number
  compression: NativeCompression
  uuid: Uint8Array | undefined
  allowNoReturnPath: boolean
  switchoverAck: boolean
  handshakeTimeoutMs: number
  peerTimeoutMs: number
  allowPlaintext: boolean
  signal: AbortSignal | undefined
}

export const CHANNELS_DEFAULT = 2

const NAMES = [
  'directory',
  'multifdChannels',
  'compression',
  'uuid',
  'allowNoReturnPath',
  'switchoverAck',
  'handshakeTimeoutMs',
  'peerTimeoutMs',
  'allowPlaintext',
  'signal',
]

/** @throws TypeError or RangeError naming the option and what it got. */
export function checkReceiveOptions(options: ReceiveSnapshotOptions): ReceiveSettings {
  refuseUnknown('receiveSnapshot', options, NAMES)
  const directory = requireString('directory', options.directory)
  if (directory === '' || directory.includes('\0')) {
    throw new TypeError('directory must name a directory')
  }
  const { multifdChannels = CHANNELS_DEFAULT, compression = 'none' } = options
  return {
    directory,
    channels: wholeNumber('multifdChannels', multifdChannels, 0, CHANNELS_MAX),
    compression: oneOf('compression', compression, COMPRESSIONS),
    uuid: options.uuid === undefined ? undefined : checkUuid(options.uuid),
    allowNoReturnPath: optionalBoolean('allowNoReturnPath', options.allowNoReturnPath),
    switchoverAck: optionalBoolean('switchoverAck', options.switchoverAck),
    handshakeTimeoutMs: checkTimeout('handshakeTimeoutMs', options.handshakeTimeoutMs),
    peerTimeoutMs: checkTimeout('peerTimeoutMs', options.peerTimeoutMs),
    allowPlaintext: optionalBoolean('allowPlaintext', options.allowPlaintext),
    signal: optionalSignal(options.signal),
  }
}
