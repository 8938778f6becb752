// Guest memory between guards, for tests of hostile peers: a RAM block in the middle of a
// WebAssembly.Memory whose other bytes must never change.

import { expect } from 'vitest'
import { GuestMemory } from '../../src/guest/guest-memory.ts'

/** Of the WebAssembly of Node, which has no types without the DOM's. */
declare const WebAssembly: { Memory: new (size: { initial: number }) => { buffer: ArrayBuffer } }

export const GUEST_BYTES = 64 * 1024
export const GUEST_BLOCK = 'guest.ram'
const GUARD = 0xa5
const UNTOUCHED = 0x5c

export class GuardedGuest {
  readonly memory: GuestMemory
  readonly ram: Uint8Array
  readonly #whole: Uint8Array

  constructor() {
    const wasm = new WebAssembly.Memory({ initial: 4 })
    this.#whole = new Uint8Array(wasm.buffer).fill(GUARD)
    this.ram = new Uint8Array(wasm.buffer, GUEST_BYTES, GUEST_BYTES)
    this.reset()
    this.memory = GuestMemory.fromWasm(GUEST_BLOCK, wasm, {
      offsetBytes: GUEST_BYTES,
      sizeBytes: GUEST_BYTES,
    })
  }

  /** Every byte of the guest as no peer would write it. */
  reset(): void {
    this.ram.fill(UNTOUCHED)
  }

  /** Nothing outside the block was written. */
  expectGuardsIntact(): void {
    const before = this.#whole.subarray(0, GUEST_BYTES)
    const after = this.#whole.subarray(2 * GUEST_BYTES)
    expect(before.every((byte) => byte === GUARD)).toBe(true)
    expect(after.every((byte) => byte === GUARD)).toBe(true)
  }

  /** The destination has not even emptied it. */
  expectUntouched(): void {
    expect(this.ram.every((byte) => byte === UNTOUCHED)).toBe(true)
  }

  /** Emptied, or not even that, but holding nothing of a peer's. */
  expectNothingLoaded(): void {
    const first = this.ram[0] ?? -1
    expect([0, UNTOUCHED]).toContain(first)
    expect(this.ram.every((byte) => byte === first)).toBe(true)
  }
}
