// Which tracker tells the source what the guest wrote: the kernel (userfaultfd), the VMM's own log,
// or a hash per page. Chooses and says why; the tracking itself is native.

import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { checked, type NativeDirtyLog, type NativeRamState, native } from '../kit/native.ts'
import { describe, wholeNumber } from '../kit/options.ts'
import { GuestMemory, wholePages } from './guest-memory.ts'

/**
 * How written pages are found. `auto`: userfaultfd where the kernel has it (6.7; arm64 6.10),
 * otherwise `hash`, which reads all populated memory once per round and sends private copies.
 */
export type DirtyTracking = 'auto' | 'userfaultfd' | 'hash'

export const DIRTY_TRACKING = ['auto', 'userfaultfd', 'hash'] as const

/**
 * Dirty bits from the VMM itself: set page by page, or ORed in as KVM's bitmap (KVM_GET_DIRTY_LOG).
 * Hand it to `MigrationSource` as `dirty`. Marks before a migration starts are not needed, its
 * first round sends every populated page; from the start to the end of one, every write must be
 * marked. Calls are lock-free and cost nothing while no migration runs.
 */
export class DirtyLog {
  readonly #memory: GuestMemory
  #native: NativeDirtyLog | undefined

  /** @throws TypeError unless it is a GuestMemory. */
  constructor(memory: GuestMemory) {
    if (!(memory instanceof GuestMemory)) {
      throw new TypeError(`a DirtyLog needs a GuestMemory, got ${describe(memory)}`)
    }
    this.#memory = memory
  }

  /**
   * Marks the pages that `[offsetBytes, offsetBytes + sizeBytes)` touches.
   * @throws RangeError outside the block.
   */
  mark(idstr: string, offsetBytes: number, sizeBytes: number): void {
    const block = this.#memory.blockIndex(idstr)
    const usedLength = this.#memory.blocks[block]?.usedLength ?? 0
    wholeNumber('offsetBytes', offsetBytes, 0, usedLength)
    wholeNumber('sizeBytes', sizeBytes, 0, usedLength - offsetBytes)
    const firstPage = Math.floor(offsetBytes / PAGE_SIZE_BYTES)
    const endPage = Math.ceil((offsetBytes + sizeBytes) / PAGE_SIZE_BYTES)
    if (endPage > firstPage) this.#native?.mark(block, firstPage, endPage - firstPage)
  }

  /**
   * ORs in a bitmap: bit i of the little-endian bytes is the page at `offsetBytes` plus i pages.
   * @throws RangeError outside the block or off a page boundary.
   */
  orBitmap(idstr: string, offsetBytes: number, bitmap: Uint8Array): void {
    const block = this.#memory.blockIndex(idstr)
    const usedLength = this.#memory.blocks[block]?.usedLength ?? 0
    const firstPage = wholePages('offsetBytes', offsetBytes, usedLength)
    if (!(bitmap instanceof Uint8Array)) {
      throw new TypeError(`the bitmap must be a Uint8Array, got ${describe(bitmap)}`)
    }
    const pagesLeft = usedLength / PAGE_SIZE_BYTES - firstPage
    wholeNumber('the length of the bitmap', bitmap.length, 0, Math.ceil(pagesLeft / 8))
    this.#native?.orBytes(block, firstPage, bitmap)
  }

  /** @internal */
  isOf(memory: GuestMemory): boolean {
    return memory === this.#memory
  }

  /** @internal A fresh native log for the migration that starts. */
  begin(memory: GuestMemory): NativeDirtyLog {
    this.#native = checked(native().createDirtyLog(memory.native), 'making a dirty log failed')
    return this.#native
  }

  /** @internal The migration is over: marks cost nothing again. */
  end(): void {
    this.#native?.close()
    this.#native = undefined
  }
}

/** The tracker a migration runs with, and why. */
export interface TrackerChoice {
  ram: NativeRamState
  /** `userfaultfd`, `hash` or `vmm`. */
  tracker: string
  /** A sentence: who asked for it, or why the better one was not to be had. */
  reason: string
}

/**
 * @throws MultifdError ERR_MULTIFD_UNSUPPORTED if the tracker that was asked for is not to be had.
 */
export function openRamState(memory: GuestMemory, dirty: DirtyTracking | DirtyLog): TrackerChoice {
  const about = 'tracking the guest writes failed'
  if (dirty instanceof DirtyLog) {
    const ram = checked(native().createRamState(memory.native, dirty.begin(memory)), about)
    return { ram, tracker: ram.tracker, reason: 'the VMM brings its own dirty log' }
  }
  if (dirty !== 'auto') {
    const ram = checked(native().createRamState(memory.native, dirty), about)
    return { ram, tracker: ram.tracker, reason: `asked for by dirty: '${dirty}'` }
  }
  try {
    const ram = checked(native().createRamState(memory.native, 'userfaultfd'), about)
    return { ram, tracker: ram.tracker, reason: 'the kernel can track writes' }
  } catch (error) {
    if (!(error instanceof MultifdError) || error.code !== 'ERR_MULTIFD_UNSUPPORTED') throw error
    const ram = checked(native().createRamState(memory.native, 'hash'), about)
    return { ram, tracker: ram.tracker, reason: error.message }
  }
}
