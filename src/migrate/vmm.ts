// What the library asks of a virtual machine monitor: stop and resume the guest, save and load its
// devices. Types, and the one place that calls them and names who failed.

import { MultifdError } from '../kit/errors.ts'
import { describe, optionalBoolean, requireFunction } from '../kit/options.ts'

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
   * Slows the guest down: takes so many percent of its CPU time away, 0..99, until the next call. 0
   * lets it run at full speed. Needed with `autoConverge`.
   */
  throttle?(percent: number): void | Promise<void>
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
  /** What a SaveStateHandler has in place of `save`. */
  complete?: never
}

/** @throws TypeError unless both functions are there; a VMM may have whatever else it likes. */
export function checkVmm(vmm: Vmm): Vmm {
  if (typeof vmm !== 'object' || vmm === null) {
    throw new TypeError(`vmm must be an object with stop and resume, got ${describe(vmm)}`)
  }
  requireFunction('vmm.stop', vmm.stop)
  requireFunction('vmm.resume', vmm.resume)
  if (vmm.throttle !== undefined) requireFunction('vmm.throttle', vmm.throttle)
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
