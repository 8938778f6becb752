// The options of sendSnapshot, checked once, with their defaults. Names are those of a migration
// source where they mean the same.

import { CHANNELS_MAX } from '../kit/limits.ts'
import { COMPRESSIONS, type NativeCompression } from '../kit/native.ts'
import {
  describe,
  oneOf,
  optionalBoolean,
  optionalSignal,
  refuseUnknown,
  wholeNumber,
} from '../kit/options.ts'
import { checkLevel } from '../migrate/compression.ts'
import { checkTimeout, checkUuid } from '../migrate/source-options.ts'
import { checkEngine, type Engine, type ZeroCopy } from '../schedule/engine-choice.ts'
import type { Dialect } from '../wire/dialect.ts'
import { CHANNELS_DEFAULT } from './receive-options.ts'

export interface SendSnapshotOptions {
  /**
   * Data connections, 0..255; default 2, as in QEMU. QEMU must be told the same number; 0 is for a
   * QEMU without multifd. It need not be the number the snapshot came with.
   */
  multifdChannels?: number
  /** The guest is stopped where it was stored; `cont` lets it run. Default false. */
  paused?: boolean
  /** Where QEMU's sync points are; by default the machine type says it. */
  dialect?: Dialect
  /** The UUID QEMU was started with; default the snapshot's, or none. */
  uuid?: string
  /** QEMU's `multifd-compression`, which must be the same there; default none. */
  compression?: NativeCompression
  /** zlib 0..9, zstd 0..20; default 1, as in QEMU. */
  compressionLevel?: number
  /** As of a migration source; default `auto`. */
  engine?: 'auto' | 'sendmsg' | 'io-uring' | 'splice'
  /** As of a migration source; default `auto`. */
  zeroCopy?: 'auto' | 'off' | 'on'
  /** To each destination; bytes on its connections. 0 (default) is no limit. */
  maxBandwidthBytesPerSecond?: number
  /** Default 10 000. */
  connectTimeoutMs?: number
  /** A destination that gives no sign of life for so long has failed; default 10 000. */
  peerTimeoutMs?: number
  /** Allow sending beyond this machine although nothing is encrypted; default false. */
  allowPlaintext?: boolean
  /** Cancels the destinations that are not done. */
  signal?: AbortSignal
}

/** Options with every default filled in. */
export interface SendSettings {
  multifdChannels: number
  paused: boolean
  dialect: Dialect | undefined
  /** 16 bytes; undefined for the snapshot's. */
  uuid: Uint8Array | undefined
  compression: NativeCompression
  compressionLevel: number | undefined
  engine: Engine
  zeroCopy: ZeroCopy
  maxBandwidthBytesPerSecond: number
  connectTimeoutMs: number
  peerTimeoutMs: number
  allowPlaintext: boolean
  signal: AbortSignal | undefined
}

const NAMES = [
  'multifdChannels',
  'paused',
  'dialect',
  'uuid',
  'compression',
  'compressionLevel',
  'engine',
  'zeroCopy',
  'maxBandwidthBytesPerSecond',
  'connectTimeoutMs',
  'peerTimeoutMs',
  'allowPlaintext',
  'signal',
]

export const DIALECTS = ['per-section', 'per-round'] as const

/** @throws TypeError or RangeError naming the option and what it got. */
export function checkSendOptions(options: SendSnapshotOptions): SendSettings {
  refuseUnknown('sendSnapshot', options, NAMES)
  const { dialect, uuid } = options
  const compression = oneOf('compression', options.compression ?? 'none', COMPRESSIONS)
  const { engine, zeroCopy } = checkEngine(options)
  if (zeroCopy === 'on' && compression !== 'none') {
    throw new TypeError("zeroCopy 'on' sends pages as they are: it does not go with compression")
  }
  return {
    multifdChannels: wholeNumber(
      'multifdChannels',
      options.multifdChannels ?? CHANNELS_DEFAULT,
      0,
      CHANNELS_MAX,
    ),
    paused: optionalBoolean('paused', options.paused),
    dialect: dialect === undefined ? undefined : oneOf('dialect', dialect, DIALECTS),
    uuid: uuid === undefined ? undefined : checkUuid(uuid),
    compression,
    compressionLevel: levelOf(options.compressionLevel, compression),
    engine,
    zeroCopy,
    maxBandwidthBytesPerSecond: wholeNumber(
      'maxBandwidthBytesPerSecond',
      options.maxBandwidthBytesPerSecond ?? 0,
      0,
      Number.MAX_SAFE_INTEGER,
    ),
    connectTimeoutMs: checkTimeout('connectTimeoutMs', options.connectTimeoutMs),
    peerTimeoutMs: checkTimeout('peerTimeoutMs', options.peerTimeoutMs),
    allowPlaintext: optionalBoolean('allowPlaintext', options.allowPlaintext),
    signal: optionalSignal(options.signal),
  }
}

function levelOf(level: number | undefined, compression: NativeCompression): number | undefined {
  if (compression !== 'none') return checkLevel('compressionLevel', compression, level)
  if (level === undefined) return undefined
  throw new TypeError("compressionLevel is for compression 'zlib' or 'zstd', got 'none'")
}

/** One URI, or several. @throws TypeError unless there is at least one. */
export function checkUris(uris: string | readonly string[]): readonly string[] {
  const list: readonly string[] = typeof uris === 'string' ? [uris] : uris
  if (Array.isArray(list) && list.length > 0) return list
  throw new TypeError(`sendSnapshot needs a URI or an array of them, got ${describe(uris)}`)
}
