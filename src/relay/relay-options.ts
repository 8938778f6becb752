// The options of a relay, checked once, with their defaults.

import { CHANNELS_MAX } from '../kit/limits.ts'
import { COMPRESSIONS, type NativeCompression } from '../kit/native.ts'
import {
  oneOf,
  optionalBoolean,
  optionalSignal,
  refuseUnknown,
  wholeNumber,
} from '../kit/options.ts'
import { checkLevel } from '../migrate/compression.ts'
import { checkTimeout } from '../migrate/source-options.ts'

export type RelayCompression = NativeCompression

export interface RelayOptions {
  /**
   * The source's multifd-channels, 1..255, default 2; 0 if it has multifd off, which the
   * destination must have then, too.
   */
  multifdChannels?: number
  /** The destination's multifd-channels; default the source's. */
  toMultifdChannels?: number
  /** The source's multifd-compression; default `none`. */
  compression?: RelayCompression
  /** The destination's multifd-compression; default the source's. */
  toCompression?: RelayCompression
  /** How hard to compress for the destination, as QEMU's levels; default QEMU's, 1. */
  toCompressionLevel?: number
  /** For each connection to the destination; default 10 000. */
  connectTimeoutMs?: number
  /** From the source's first connection until all are there; default 10 000. */
  handshakeTimeoutMs?: number
  /**
   * No byte moved for so long: the relay has failed; or the destination has everything and did not
   * say how it ended: the status is `unknown`. Default 10 000.
   */
  peerTimeoutMs?: number
  /** Listen and connect beyond this machine although nothing is encrypted; default false. */
  allowPlaintext?: boolean
  /**
   * Ends the relay: the source's guest runs on. Once the destination has everything it cannot be
   * ended any more; the status is `unknown` then.
   */
  signal?: AbortSignal
}

/** Options with every default filled in. */
export interface RelaySettings {
  multifdChannels: number
  toMultifdChannels: number
  compression: RelayCompression
  toCompression: RelayCompression
  toCompressionLevel: number | undefined
  connectTimeoutMs: number
  handshakeTimeoutMs: number
  peerTimeoutMs: number
  allowPlaintext: boolean
  signal: AbortSignal | undefined
}

/** How the QEMU of one side has to be set up. */
export interface QemuSide {
  /** 0: multifd off. */
  channels: number
  compression: RelayCompression
}

export function sidesOf(settings: RelaySettings): { source: QemuSide; destination: QemuSide } {
  return {
    source: { channels: settings.multifdChannels, compression: settings.compression },
    destination: { channels: settings.toMultifdChannels, compression: settings.toCompression },
  }
}

const NAMES = [
  'multifdChannels',
  'toMultifdChannels',
  'compression',
  'toCompression',
  'toCompressionLevel',
  'connectTimeoutMs',
  'handshakeTimeoutMs',
  'peerTimeoutMs',
  'allowPlaintext',
  'signal',
]

/** @throws TypeError or RangeError naming the option and what it got. */
export function checkRelayOptions(options: RelayOptions): RelaySettings {
  refuseUnknown('relay', options, NAMES)
  const channels = wholeNumber('multifdChannels', options.multifdChannels ?? 2, 0, CHANNELS_MAX)
  const toChannels = options.toMultifdChannels ?? channels
  wholeNumber('toMultifdChannels', toChannels, 0, CHANNELS_MAX)
  if ((channels === 0) !== (toChannels === 0)) {
    throw new RangeError(
      'multifdChannels and toMultifdChannels must both be 0 (multifd off) or both be 1 or more, ' +
        `got ${channels} and ${toChannels}: a destination without multifd cannot take what a source ` +
        'with multifd sends',
    )
  }
  const compression = oneOf('compression', options.compression ?? 'none', COMPRESSIONS)
  const toCompression = oneOf('toCompression', options.toCompression ?? compression, COMPRESSIONS)
  const level = options.toCompressionLevel
  if (level !== undefined && toCompression === 'none') {
    throw new TypeError('toCompressionLevel needs a toCompression: zlib or zstd')
  }
  if (level !== undefined) {
    checkLevel('toCompressionLevel', toCompression, level)
  }
  return {
    multifdChannels: channels,
    toMultifdChannels: toChannels,
    compression,
    toCompression,
    toCompressionLevel: level,
    connectTimeoutMs: checkTimeout('connectTimeoutMs', options.connectTimeoutMs),
    handshakeTimeoutMs: checkTimeout('handshakeTimeoutMs', options.handshakeTimeoutMs),
    peerTimeoutMs: checkTimeout('peerTimeoutMs', options.peerTimeoutMs),
    allowPlaintext: optionalBoolean('allowPlaintext', options.allowPlaintext),
    signal: optionalSignal(options.signal),
  }
}
