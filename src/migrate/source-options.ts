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
import { checkEngine, type Engine, type ZeroCopy } from '../schedule/engine-choice.ts'
import { type FlushThresholds, flushThresholds } from '../schedule/flush-policy.ts'
import { nilUuid, parseUuid } from '../wire/uuid.ts'
import { checkCompression } from './compression.ts'
import {
  CONVERGENCE_NAMES,
  type ConvergenceSettings,
  checkConvergence,
} from './convergence-options.ts'
import type { NamedHandler } from './named-handler.ts'
import { checkDevices, type SaveStateHandler } from './save-state.ts'
import { checkVmm, type Device, type Vmm } from './vmm.ts'

export interface MigrationSourceOptions {
  /** The guest's RAM; both sides must have the same blocks. */
  memory: GuestMemory
  vmm: Vmm
  /** Default none. */
  devices?: readonly (Device | SaveStateHandler)[]
  /** How writes are found: `auto` (default), a tracker by name, or the VMM's own log. */
  dirty?: DirtyTracking | DirtyLog
  /** Data connections, 1..255; default 2, as in QEMU. */
  multifdChannels?: number
  /**
   * How bytes reach the kernel. `auto` (default): `splice` to a destination on this machine,
   * `io-uring` where sends can be made from registered memory, else `sendmsg`. Where io_uring is
   * not to be had `sendmsg` runs and says so. `splice` hands pages over by reference and is never
   * told when they are let go; it takes no `zeroCopy` but `auto`, and two descriptors a channel.
   */
  engine?: 'auto' | 'sendmsg' | 'io-uring' | 'splice'
  /**
   * Whether pages are sent from where they lie. `auto` (default): each channel finds out whether
   * the kernel really does so on its path, and how much unreleased memory that takes. `on`: always
   * with MSG_ZEROCOPY (on loopback the kernel copies all the same), with fixed thresholds; fails
   * over UNIX sockets, with the hash tracker and with compression.
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
  /** Of RAM and devices together, headers included; 0 (default) is no limit. */
  maxBandwidthBytesPerSecond?: number
  /** The guest is stopped when the stop would take no longer than this; default 300, as in QEMU. */
  downtimeLimitMs?: number
  /** Slows the guest down (`vmm.throttle`) while it writes faster than is sent; default false. */
  autoConverge?: boolean
  /** What the guest may write before that, in percent of what is sent; 1..100, default 50. */
  throttleTriggerThreshold?: number
  /** The first step, percent of the guest's CPU time; 1..99, default 20. */
  cpuThrottleInitial?: number
  /** Each further step, percentage points; 1..99, default 10. */
  cpuThrottleIncrement?: number
  /** The last step, percent; cpuThrottleInitial..99, default 99. */
  maxCpuThrottle?: number
  /** From the beginning of round 0; default 0, which is none. */
  timeLimitMs?: number
  /** What happens at the time limit: the guest stays here (default), or is stopped all the same. */
  timeLimitEnd?: 'cancel' | 'switchover'
  /**
   * Stops the guest and then waits, in the status `pre-switchover`, for `continue`; as QEMU's
   * capability pause-before-switchover. Default false.
   */
  pauseBeforeSwitchover?: boolean
  /** Longest time for one call into a device; default 10 000. */
  deviceTimeoutMs?: number
  /**
   * The guest's UUID, which the destination compares; default all zero, as an unset one in QEMU.
   */
  uuid?: string
  /** Default 10 000. */
  connectTimeoutMs?: number
  /** A peer that gives no sign of life for so long has failed; default 10 000. */
  peerTimeoutMs?: number
  /**
   * A connection that breaks while the guest runs is replaced within this time, and what the
   * destination has is not sent again; 0 fails at once. Default 10 000. The destination has an
   * option of its own.
   */
  reconnectTimeoutMs?: number
  /** Allow sending beyond this machine although nothing is encrypted; default false. */
  allowPlaintext?: boolean
}

/** Options with every default filled in. */
export interface SourceSettings {
  memory: GuestMemory
  vmm: Vmm
  devices: NamedHandler[]
  dirty: DirtyTracking | DirtyLog
  multifdChannels: number
  engine: Engine
  zeroCopy: ZeroCopy
  compression: NativeCompression
  /** Undefined without compression. */
  compressionLevel: number | undefined
  flushThresholds: FlushThresholds[]
  maxBandwidthBytesPerSecond: number
  convergence: ConvergenceSettings
  pauseBeforeSwitchover: boolean
  uuid: Uint8Array
  connectTimeoutMs: number
  peerTimeoutMs: number
  reconnectTimeoutMs: number
  allowPlaintext: boolean
}

const NAMES = [
  ...CONVERGENCE_NAMES,
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
  'pauseBeforeSwitchover',
  'deviceTimeoutMs',
  'uuid',
  'connectTimeoutMs',
  'peerTimeoutMs',
  'reconnectTimeoutMs',
  'allowPlaintext',
]

const THRESHOLDS = ['highWaterBytes', 'lowWaterBytes']

/** A day: longer is a mistake in the unit. */
const TIMEOUT_MS_MAX = 24 * 60 * 60 * 1000

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
  const vmm = checkVmm(options.vmm)
  const { engine, zeroCopy } = checkEngine(options)
  return {
    memory: checkMemory(options.memory),
    vmm,
    devices: checkDevices(
      options.devices ?? [],
      checkTimeout('deviceTimeoutMs', options.deviceTimeoutMs),
    ),
    dirty: checkDirty(options.dirty ?? 'auto', options.memory),
    multifdChannels,
    engine,
    zeroCopy,
    ...checkCompression({ ...options, zeroCopy }),
    flushThresholds: checkThresholds(options.flushThresholds, multifdChannels, zeroCopy),
    maxBandwidthBytesPerSecond: checkBandwidth(options.maxBandwidthBytesPerSecond ?? 0),
    convergence: checkConvergence(options, vmm.throttle !== undefined),
    pauseBeforeSwitchover: optionalBoolean('pauseBeforeSwitchover', options.pauseBeforeSwitchover),
    uuid: checkUuid(options.uuid),
    connectTimeoutMs: checkTimeout('connectTimeoutMs', options.connectTimeoutMs),
    peerTimeoutMs: checkTimeout('peerTimeoutMs', options.peerTimeoutMs),
    reconnectTimeoutMs: checkTimeout('reconnectTimeoutMs', options.reconnectTimeoutMs, 0),
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

export function checkBandwidth(bytesPerSecond: number): number {
  return wholeNumber('maxBandwidthBytesPerSecond', bytesPerSecond, 0, Number.MAX_SAFE_INTEGER)
}

export function checkTimeout(name: string, timeoutMs: number | undefined, minMs = 1): number {
  return wholeNumber(name, timeoutMs ?? 10_000, minMs, TIMEOUT_MS_MAX)
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
