// The options of a source, checked once, with their defaults. Names are QEMU's in camel case.

import { DIRTY_TRACKING, DirtyLog, type DirtyTracking } from '../guest/dirty-tracker.ts'
import { GuestMemory } from '../guest/guest-memory.ts'
import { CHANNELS_MAX } from '../kit/limits.ts'
import type { NativeCompression } from '../kit/native.ts'
import {
  describe,
  oneOf,
  optionalBoolean,
  refuseUnknown,
  requireString,
  wholeNumber,
} from '../kit/options.ts'
import { ENGINES, ZERO_COPY } from '../schedule/engine-choice.ts'
import { type FlushThresholds, flushThresholds } from '../schedule/flush-policy.ts'
import { nilUuid, parseUuid } from '../wire/uuid.ts'
import { checkCompression } from './compression.ts'
import { checkDevices, checkVmm, type Device, type NamedDevice, type Vmm } from './vmm.ts'

export interface MigrationSourceOptions {
  /** The guest's RAM; both sides must have the same blocks. */
  memory: GuestMemory
  vmm: Vmm
  /** Default none. */
  devices?: readonly Device[]
  /** How writes are found: `auto` (default), a tracker by name, or the VMM's own log. */
  dirty?: DirtyTracking | DirtyLog
  /** Data connections, 1..255; default 2, as in QEMU. */
  multifdChannels?: number
  /**
   * How bytes reach the kernel. `auto` (default): `io-uring` where sends can be made from
   * registered memory, else `sendmsg`. Where io_uring is not to be had `sendmsg` runs and says so.
   */
  engine?: 'auto' | 'sendmsg' | 'io-uring'
  /**
   * Whether pages are sent from where they lie. `auto` (default): each channel finds out whether
   * the kernel really does so on its path, and how much unreleased memory that takes. `on`: always,
   * with fixed thresholds; fails over UNIX sockets, with the hash tracker and with compression.
   */
  zeroCopy?: 'auto' | 'off' | 'on'
  /**
   * What pages are compressed with, one stream per channel; default `none`. The destination hears
   * of it. Compressed pages are never sent zero-copy. zstd only where its library was there when
   * the addon was built.
   */
  compression?: 'none' | 'zlib' | 'zstd'
  /** zlib 0..9, zstd 0..20; default 1, as in QEMU. */
  compressionLevel?: number
  /**
   * With `zeroCopy: 'on'` only: for all channels, or one entry per channel. Default 16 MiB high,
   * 8 MiB low.
   */
  flushThresholds?: Partial<FlushThresholds> | readonly Partial<FlushThresholds>[]
  /** Bytes on the multifd channels, headers included; 0 (default) is no limit. */
  maxBandwidthBytesPerSecond?: number
  /** The guest is stopped when the stop would take no longer than this; default 300, as in QEMU. */
  downtimeLimitMs?: number
  /**
   * The guest's UUID, which the destination compares; default all zero, as an unset one in QEMU.
   */
  uuid?: string
  /** Default 10 000. */
  connectTimeoutMs?: number
  /** A peer that gives no sign of life for so long has failed; default 10 000. */
  peerTimeoutMs?: number
  /** Allow sending beyond this machine although nothing is encrypted; default false. */
  allowPlaintext?: boolean
}

/** Options with every default filled in. */
export interface SourceSettings {
  memory: GuestMemory
  vmm: Vmm
  devices: NamedDevice[]
  dirty: DirtyTracking | DirtyLog
  multifdChannels: number
  engine: 'auto' | 'sendmsg' | 'io-uring'
  zeroCopy: 'auto' | 'off' | 'on'
  compression: NativeCompression
  /** Undefined without compression. */
  compressionLevel: number | undefined
  flushThresholds: FlushThresholds[]
  maxBandwidthBytesPerSecond: number
  downtimeLimitMs: number
  uuid: Uint8Array
  connectTimeoutMs: number
  peerTimeoutMs: number
  allowPlaintext: boolean
}

const NAMES = [
  'memory',
  'vmm',
  'devices',
  'dirty',
  'multifdChannels',
  'engine',
  'zeroCopy',
  'compression',
  'compressionLevel',
  'flushThresholds',
  'maxBandwidthBytesPerSecond',
  'downtimeLimitMs',
  'uuid',
  'connectTimeoutMs',
  'peerTimeoutMs',
  'allowPlaintext',
]

const THRESHOLDS = ['highWaterBytes', 'lowWaterBytes']

/** A day: longer is a mistake in the unit. */
const TIMEOUT_MS_MAX = 24 * 60 * 60 * 1000
/** QEMU's largest downtime-limit. */
const DOWNTIME_LIMIT_MS_MAX = 2_000_000

/**
 * @throws TypeError or RangeError naming the option and what it got; MultifdError
 * ERR_MULTIFD_UNSUPPORTED for a compression that this build does not have.
 */
export function checkSourceOptions(options: MigrationSourceOptions): SourceSettings {
  refuseUnknown('MigrationSource', options, NAMES)
  const multifdChannels = wholeNumber(
    'multifdChannels',
    options.multifdChannels ?? 2,
    1,
    CHANNELS_MAX,
  )
  const zeroCopy = oneOf('zeroCopy', options.zeroCopy ?? 'auto', ZERO_COPY)
  return {
    memory: checkMemory(options.memory),
    vmm: checkVmm(options.vmm),
    devices: checkDevices(options.devices ?? []),
    dirty: checkDirty(options.dirty ?? 'auto', options.memory),
    multifdChannels,
    engine: oneOf('engine', options.engine ?? 'auto', ENGINES),
    zeroCopy,
    ...checkCompression({ ...options, zeroCopy }),
    flushThresholds: checkThresholds(options.flushThresholds, multifdChannels, zeroCopy),
    maxBandwidthBytesPerSecond: wholeNumber(
      'maxBandwidthBytesPerSecond',
      options.maxBandwidthBytesPerSecond ?? 0,
      0,
      Number.MAX_SAFE_INTEGER,
    ),
    downtimeLimitMs: wholeNumber(
      'downtimeLimitMs',
      options.downtimeLimitMs ?? 300,
      0,
      DOWNTIME_LIMIT_MS_MAX,
    ),
    uuid: checkUuid(options.uuid),
    connectTimeoutMs: checkTimeout('connectTimeoutMs', options.connectTimeoutMs),
    peerTimeoutMs: checkTimeout('peerTimeoutMs', options.peerTimeoutMs),
    allowPlaintext: optionalBoolean('allowPlaintext', options.allowPlaintext),
  }
}

/**
 * @throws TypeError unless it is a GuestMemory, MultifdError ERR_MULTIFD_CLOSED if it is closed.
 */
export function checkMemory(memory: GuestMemory): GuestMemory {
  if (!(memory instanceof GuestMemory)) {
    throw new TypeError(`memory must be a GuestMemory, got ${describe(memory)}`)
  }
  void memory.native // throws when closed
  return memory
}

/** 16 bytes; all zero when unset. @throws TypeError if the text is no UUID. */
export function checkUuid(uuid: string | undefined): Uint8Array {
  if (uuid === undefined) return nilUuid()
  const parsed = parseUuid(requireString('uuid', uuid))
  if (parsed.ok) return parsed.value
  throw new TypeError(`uuid: ${parsed.error.message}`)
}

export function checkTimeout(name: string, timeoutMs: number | undefined): number {
  return wholeNumber(name, timeoutMs ?? 10_000, 1, TIMEOUT_MS_MAX)
}

function checkDirty(
  dirty: DirtyTracking | DirtyLog,
  memory: GuestMemory,
): DirtyTracking | DirtyLog {
  if (!(dirty instanceof DirtyLog)) return oneOf('dirty', dirty, DIRTY_TRACKING)
  if (!dirty.isOf(memory)) throw new TypeError('dirty is a DirtyLog of another GuestMemory')
  return dirty
}

function checkThresholds(
  given: MigrationSourceOptions['flushThresholds'],
  channels: number,
  zeroCopy: string,
): FlushThresholds[] {
  const thresholds = eachThresholds(given ?? {}, channels)
  if (given === undefined || zeroCopy === 'on') return thresholds
  throw new TypeError(
    `flushThresholds are for zeroCopy: 'on', got zeroCopy: '${zeroCopy}', ` +
      'which finds its own or has none',
  )
}

function eachThresholds(
  given: Partial<FlushThresholds> | readonly Partial<FlushThresholds>[],
  channels: number,
): FlushThresholds[] {
  if (!Array.isArray(given)) {
    refuseUnknown('flushThresholds', given, THRESHOLDS)
    const common = flushThresholds(given as Partial<FlushThresholds>)
    return Array.from({ length: channels }, () => common)
  }
  wholeNumber('the length of flushThresholds', given.length, channels, channels)
  return given.map((entry: Partial<FlushThresholds>, index) => {
    refuseUnknown(`flushThresholds[${index}]`, entry, THRESHOLDS)
    return flushThresholds(entry)
  })
}
