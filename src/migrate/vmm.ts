// What the library asks of a virtual machine monitor: stop and resume the guest, save and load its
// devices. Types, and the one place that calls them and names who failed.

import { MultifdError } from '../kit/errors.ts'
import { DEVICE_STATE_BYTES_MAX } from '../kit/limits.ts'
import {
  describe,
  optionalBoolean,
  requireFunction,
  requireName,
  wholeNumber,
} from '../kit/options.ts'

/**
 * The VMM on the source's side. Its functions may be asynchronous and are never called at the same
 * time.
 */
export interface Vmm {
  /** Returns when no instruction of the guest will run and nobody writes its memory any more. */
  stop(): void | Promise<void>
  /** The migration did not happen: the guest runs on, with the memory and devices it has. */
  resume(): void | Promise<void>
  /**
   * False promises that no page of the guest memory is dropped while migrating (no balloon, no
   * `GuestMemory.discard`, which is refused then): memory that is fully populated, and not in
   * huge pages, can be registered with the kernel once, instead of being pinned for every send.
   * Default true.
   */
  readonly discards?: boolean
}

/**
 * A device whose state is saved when the guest has stopped. Names must be the same on both sides.
 */
export interface Device {
  /** 1..255 bytes. */
  idstr: string
  /** Tells devices of one idstr apart; default 0. */
  instanceId?: number
  /** Of the state's format; default 1. A destination loads its own version and older ones. */
  versionId?: number
  /** The state; at most 256 MiB. The guest stands still. */
  save(): Uint8Array | Promise<Uint8Array>
  /** Called at the destination when all RAM is in place. */
  load(state: Uint8Array, versionId: number): void | Promise<void>
}

/** A device with its defaults filled in. */
export type NamedDevice = Device & { instanceId: number; versionId: number }

/** @throws TypeError or RangeError for a device that makes no sense. */
export function checkDevices(devices: readonly Device[]): NamedDevice[] {
  if (!Array.isArray(devices)) {
    throw new TypeError(`devices must be an array, got ${describe(devices)}`)
  }
  const seen = new Set<string>()
  return devices.map((device: Device, index) => {
    if (typeof device !== 'object' || device === null) {
      throw new TypeError(`devices[${index}] must be a device, got ${describe(device)}`)
    }
    const { instanceId = 0, versionId = 1 } = device
    const idstr = requireName(`idstr of devices[${index}]`, device.idstr)
    const u32 = 0xffff_ffff
    wholeNumber(`instanceId of device "${idstr}"`, instanceId, 0, u32)
    wholeNumber(`versionId of device "${idstr}"`, versionId, 0, u32)
    requireFunction(`save of device "${idstr}"`, device.save)
    requireFunction(`load of device "${idstr}"`, device.load)
    const key = `${idstr}/${instanceId}`
    if (seen.has(key)) throw new TypeError(`two devices are named ${key}`)
    seen.add(key)
    return {
      idstr,
      instanceId,
      versionId,
      save: () => device.save(),
      load: (state, version) => device.load(state, version),
    }
  })
}

/** @throws TypeError unless both functions are there; a VMM may have whatever else it likes. */
export function checkVmm(vmm: Vmm): Vmm {
  if (typeof vmm !== 'object' || vmm === null) {
    throw new TypeError(`vmm must be an object with stop and resume, got ${describe(vmm)}`)
  }
  requireFunction('vmm.stop', vmm.stop)
  requireFunction('vmm.resume', vmm.resume)
  optionalBoolean('vmm.discards', vmm.discards)
  return vmm
}

/** Calls into the VMM; what it throws becomes the cause of an error that says who threw. */
export async function callVmm<T>(what: string, call: () => T | Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (cause) {
    throw vmmFailure(what, cause)
  }
}

/** The error of a call into the VMM that threw. */
export function vmmFailure(what: string, cause: unknown): MultifdError {
  const reason = cause instanceof Error ? cause.message : String(cause)
  return new MultifdError('ERR_MULTIFD_VMM', `${what} failed: ${reason}`, { cause })
}

/** Saves one device and checks what it gave. */
export async function saveDevice(device: NamedDevice): Promise<Uint8Array> {
  const what = `saving device "${device.idstr}"`
  const state = await callVmm(what, () => device.save())
  if (state instanceof Uint8Array && state.length <= DEVICE_STATE_BYTES_MAX) return state
  const got = state instanceof Uint8Array ? `${state.length} bytes` : typeof state
  throw new MultifdError(
    'ERR_MULTIFD_VMM',
    `${what} gave ${got}, expected a Uint8Array of at most ${DEVICE_STATE_BYTES_MAX} bytes`,
  )
}
