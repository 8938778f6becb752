// What a VMM hands in as its devices, checked once: the simple kind, saved in one piece when the
// guest has stopped, and the full one, which may send while the guest runs and in pieces over the
// channels. What a migration calls is made of them in named-handler.ts.

import { describe, requireFunction, requireName, wholeNumber } from '../kit/options.ts'
import { RAM_IDSTR, RAM_INSTANCE_ID } from '../wire/constants.ts'
import { NamedHandler } from './named-handler.ts'
import type { Device } from './vmm.ts'

/** A device's state, now or later. What it views may change once the next call is made. */
export type Bytes = Uint8Array | Promise<Uint8Array>

/** What `load` gets: which call at the source gave it. */
export type StatePart = 'setup' | 'iterate' | 'piece' | 'complete'

/**
 * A device in full. With `iterate` it sends while the guest runs, in turns with the others; with
 * `completePieces` its state travels over the multifd channels, beside RAM and other devices.
 * Calls into one handler never overlap, but for `pendingEstimate` and `switchoverAck`; each must
 * return, or settle, within `deviceTimeoutMs`. A handler that throws, hangs or does not keep to
 * what it said fails the migration by name.
 */
export interface SaveStateHandler {
  /** 1..255 bytes, the same on both sides. */
  idstr: string
  /** Tells devices of one idstr apart; default 0. */
  instanceId?: number
  /** Of the state's format; default 1. A destination loads its own version and older ones. */
  versionId?: number
  /**
   * Before round 0, at most 256 MiB. Again after a connection was lost and resumed: the destination
   * then begins afresh with it, and what was sent before does not count.
   */
  setup?(): Bytes
  /** Bytes that remain, about; cheap, asked in every pass. Needed with `iterate`. */
  pendingEstimate?(): number
  /**
   * Bytes that remain, asked before the guest is stopped and after it. Of `complete`, with all
   * pieces, at most this many may come after the stop, an eighth and 64 KiB more allowed. Default:
   * `pendingEstimate`; without either nothing is expected.
   */
  pendingExact?(): number | Promise<number>
  /**
   * The device's turn while the guest runs: at most `budgetBytes`, an empty array when there is
   * nothing to send now. Not called while `pendingEstimate` is 0.
   */
  iterate?(budgetBytes: number): Bytes
  /** After the guest stopped: the rest; at most 256 MiB, or 1 MiB with `completePieces`. */
  complete(): Bytes
  /**
   * After the guest stopped, before `complete`: pieces of at most 1 MiB, loaded in their order. All
   * devices give theirs at the same time. A piece must not change until `complete` was called.
   */
  completePieces?(): Iterable<Uint8Array> | AsyncIterable<Uint8Array>
  /**
   * At the destination, in the order in which the source's calls gave the parts; `complete` comes
   * when all RAM is in place, the others may come before.
   */
  load(state: Uint8Array, part: StatePart, versionId: number): void | Promise<void>
  /** At the destination: resolves when this device could take the switchover; no time limit. */
  switchoverAck?(): Promise<void>
  /**
   * How long loading the completed state takes at the destination, milliseconds; part of the
   * predicted downtime. Default 0.
   */
  loadTimeMs?: number
}

const HANDLER_CALLS = [
  'setup',
  'pendingEstimate',
  'pendingExact',
  'iterate',
  'completePieces',
  'switchoverAck',
] as const

/** Longest time a call into a device may take unless told otherwise. */
export const DEVICE_TIMEOUT_MS = 10_000

/**
 * Devices of either kind as handlers that a migration calls.
 * @param timeoutMs of each call
 * @throws TypeError or RangeError for a device that makes no sense
 */
export function checkDevices(
  devices: readonly (Device | SaveStateHandler)[],
  timeoutMs: number = DEVICE_TIMEOUT_MS,
): NamedHandler[] {
  if (!Array.isArray(devices)) {
    throw new TypeError(`devices must be an array, got ${describe(devices)}`)
  }
  const seen = new Set<string>()
  return devices.map((device: Device | SaveStateHandler, index) => {
    if (typeof device !== 'object' || device === null) {
      throw new TypeError(`devices[${index}] must be a device, got ${describe(device)}`)
    }
    const { instanceId = 0, versionId = 1 } = device
    const idstr = requireName(`idstr of devices[${index}]`, device.idstr)
    const u32 = 0xffff_ffff
    wholeNumber(`instanceId of device "${idstr}"`, instanceId, 0, u32)
    wholeNumber(`versionId of device "${idstr}"`, versionId, 0, u32)
    const key = `${idstr}/${instanceId}`
    if (seen.has(key)) throw new TypeError(`two devices are named ${key}`)
    if (idstr === RAM_IDSTR && instanceId === RAM_INSTANCE_ID) {
      throw new TypeError(`a device is named ${key}, which is the name of the guest's memory`)
    }
    seen.add(key)
    const naming = { idstr, instanceId, versionId, timeoutMs }
    return new NamedHandler(naming, checkCalls(device, idstr))
  })
}

function checkCalls(device: Device | SaveStateHandler, idstr: string): SaveStateHandler | Device {
  const of = `of device "${idstr}"`
  requireFunction(`load ${of}`, device.load)
  if (!('complete' in device)) {
    requireFunction(`save ${of}`, device.save)
    // A misspelt `complete` would otherwise lose what the other calls are there for.
    for (const call of HANDLER_CALLS) {
      if (call in device) throw new TypeError(`${call} ${of} needs complete instead of save`)
    }
    return device
  }
  requireFunction(`complete ${of}`, device.complete)
  if ('save' in device) {
    throw new TypeError(`device "${idstr}" has both save and complete, expected one of them`)
  }
  for (const call of HANDLER_CALLS) {
    if (device[call] !== undefined) requireFunction(`${call} ${of}`, device[call])
  }
  if (device.iterate !== undefined && device.pendingEstimate === undefined) {
    throw new TypeError(`iterate ${of} needs pendingEstimate beside it`)
  }
  const { loadTimeMs = 0 } = device
  if (!(Number.isFinite(loadTimeMs) && loadTimeMs >= 0)) {
    const got = describe(loadTimeMs)
    throw new RangeError(`loadTimeMs ${of} must be at least 0 milliseconds, got ${got}`)
  }
  return device
}
