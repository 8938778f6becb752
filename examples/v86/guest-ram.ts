// The guest's RAM as both nodes of the example name it to the library, how they hash it, and how
// they wait for a guest: by its own counters. It moves nothing itself.
import { createHash } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { GuestMemory } from '../../src/index.ts'
import type { V86Machine } from './machine.ts'

export const RAM_NAME = 'pc.ram'
export const DEVICES_NAME = 'v86'

const LOOK_INTERVAL_MS = 5

/** Names the machine's RAM to the library; both sides must do it the same way. */
export function guestMemoryOf({ guestMemory }: V86Machine): GuestMemory {
  const { wasmMemory, offsetBytes, sizeBytes } = guestMemory
  return GuestMemory.fromWasm(RAM_NAME, wasmMemory, { offsetBytes, sizeBytes })
}

/** SHA-256 of all guest RAM. The guest must be stopped. */
export function hashRam({ guestMemory }: V86Machine): { hash: string; tookMs: number } {
  const beganMs = performance.now()
  const { wasmMemory, offsetBytes, sizeBytes } = guestMemory
  const ram = new Uint8Array(wasmMemory.buffer, offsetBytes, sizeBytes)
  const hash = createHash('sha256').update(ram).digest('hex')
  return { hash, tookMs: performance.now() - beganMs }
}

/**
 * Looks every 5 ms whether the condition holds; false when it still does not after `limitMs`.
 * Rejects with the signal's reason.
 */
export async function waitFor(
  condition: () => boolean,
  { limitMs, signal }: { limitMs: number; signal?: AbortSignal },
): Promise<boolean> {
  const endMs = performance.now() + limitMs
  for (;;) {
    signal?.throwIfAborted()
    if (condition()) return true
    if (performance.now() >= endMs) return false
    await pause(LOOK_INTERVAL_MS)
  }
}

/** Pages per second between two readings of the guest's counter. */
export class PageRate {
  readonly #machine: V86Machine
  readonly #startPages: number
  readonly #startMs = performance.now()

  constructor(machine: V86Machine) {
    this.#machine = machine
    this.#startPages = machine.readStats().pagesWritten
  }

  /** Pages written since the start. */
  get pages(): number {
    return this.#machine.readStats().pagesWritten - this.#startPages
  }

  /** @param endMs when the guest stopped, if it no longer runs; `performance.now` by default. */
  perSecond(endMs = performance.now()): number {
    return (this.pages / Math.max(endMs - this.#startMs, 1e-3)) * 1000
  }
}
