// Guest memory in which a page is one number, its version (0: all zero), and the book that a source
// keeps of it. The same calls as native/guest/ram_state.h, whose header says what each promises.

import { PAGE_SIZE_BYTES } from '../../src/kit/limits.ts'
import type { NativeError, NativeGuestMemory, NativeRamState } from '../../src/kit/native.ts'
import type { World } from './world.ts'

/** A page whose bytes came in part. */
export const TORN = 0xffff_ffff

/** Pages of a block, as an extent names them. */
export interface Extent {
  block: number
  firstPage: number
  pageCount: number
}

export class SimulatedMemory implements NativeGuestMemory {
  readonly token = 1
  readonly world: World
  readonly pages: Uint32Array[]
  readonly #names: string[]
  /** Pages written, by block, while a tracker is armed. */
  written: Set<number>[] | undefined

  constructor(world: World, blocks: readonly { idstr: string; pageCount: number }[]) {
    this.world = world
    this.#names = blocks.map(({ idstr }) => idstr)
    this.pages = blocks.map(({ pageCount }) => new Uint32Array(pageCount))
  }

  /** The guest, or its VMM, writes. */
  write(block: number, page: number, version: number): void {
    const pages = this.pages[block]
    if (pages === undefined) return
    pages[page] = version
    this.written?.[block]?.add(page)
  }

  blocks(): { idstr: string; usedLength: number }[] {
    return this.pages.map((pages, index) => {
      return { idstr: this.#names[index] ?? '', usedLength: pages.length * PAGE_SIZE_BYTES }
    })
  }
  async empty(): Promise<undefined | NativeError> {
    return await this.world.work('empty', () => {
      for (const pages of this.pages) pages.fill(0)
      return undefined
    })
  }
  discard(): undefined | NativeError {
    return undefined
  }
  view(): ArrayBuffer | null {
    return null
  }
  async populatedBytes(): Promise<number> {
    return 0
  }
  isAt(): boolean {
    return true
  }
  close(): void {}
}

type Pages = Set<number>[]

export class SimulatedRam implements NativeRamState {
  readonly tracker = 'userfaultfd'
  readonly memory: SimulatedMemory
  /** Extents that a channel holds. */
  extentsInWork = 0
  #next: Pages
  #round: Pages
  #previous: Pages
  readonly #world: World
  #closed = false

  constructor(memory: SimulatedMemory) {
    this.memory = memory
    this.#world = memory.world
    const none = (): Pages => memory.pages.map(() => new Set())
    this.#next = none()
    this.#round = none()
    this.#previous = none()
    this.#world.count('RAM state', 1)
  }

  /** The first collect finds every page that is not zero. */
  start(): Promise<undefined | NativeError> {
    return this.#work('start', () => {
      this.memory.written = this.memory.pages.map((pages) => {
        return new Set([...pages.keys()].filter((page) => pages[page] !== 0))
      })
      return undefined
    })
  }

  beginRound(): Promise<number | NativeError> {
    return this.#work('beginRound', () => {
      this.#quiet('beginRound')
      this.#collect(this.#next)
      const freed = this.#previous
      for (const pages of freed) pages.clear()
      this.#previous = this.#round
      this.#round = this.#next
      this.#next = freed
      return size(this.#round)
    })
  }

  extendRound(): Promise<number | NativeError> {
    return this.#work('extendRound', () => {
      this.#quiet('extendRound')
      for (const [block, pages] of this.#next.entries()) {
        for (const page of pages) this.#round[block]?.add(page)
        pages.clear()
      }
      this.#collect(this.#round)
      return size(this.#round)
    })
  }

  giveBack(
    which: 'current' | 'previous',
    received: (Uint8Array | null)[],
  ): Promise<number | NativeError> {
    return this.#work('giveBack', () => {
      this.#quiet('giveBack')
      let given = 0
      for (const [block, pages] of (which === 'current' ? this.#round : this.#previous).entries()) {
        const bitmap = received[block]
        for (const page of pages) {
          if (bitmap && ((bitmap[page >> 3] ?? 0) & (1 << (page & 7))) !== 0) continue
          given += 1
          if (this.#world.sabotage === 'forget-given-back' && given % 4 === 0) continue
          this.#next[block]?.add(page)
        }
        pages.clear()
      }
      return given
    })
  }

  plan(): Promise<Float64Array | NativeError> {
    return this.#work('plan', () => {
      const pagesMax = this.#world.lots.whole(1, 32)
      const numbers: number[] = []
      for (const [block, pages] of this.#round.entries()) {
        const sorted = [...pages].sort((left, right) => left - right)
        for (let at = 0; at < sorted.length; at += pagesMax) {
          const dirty = sorted.slice(at, at + pagesMax)
          const [first = 0, last = 0] = [dirty[0], dirty.at(-1)]
          numbers.push(block, first, last - first + 1, dirty.length)
        }
      }
      return Float64Array.from(numbers)
    })
  }

  /** What a channel thread does before it reads the first page of an extent. */
  lateCollect({ block, firstPage, pageCount }: Extent): void {
    const written = this.memory.written?.[block]
    for (let page = firstPage; page < firstPage + pageCount; page += 1) {
      if (!written?.delete(page) || this.#round[block]?.has(page)) continue
      if (this.#world.sabotage !== 'lose-late-page') this.#next[block]?.add(page)
    }
  }

  /** Pages of the extent that travel. */
  pagesOf({ block, firstPage, pageCount }: Extent): number[] {
    const pages = [...(this.#round[block] ?? [])]
    return pages
      .filter((page) => page >= firstPage && page < firstPage + pageCount)
      .sort((left, right) => left - right)
  }

  async takeZeroRuns(): Promise<Float64Array> {
    return new Float64Array(0)
  }
  async collectIntoNext(): Promise<number> {
    this.#collect(this.#next)
    return size(this.#next)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.memory.written = undefined
    this.#world.count('RAM state', -1)
  }

  #collect(into: Pages): void {
    for (const [block, written] of this.memory.written?.entries() ?? []) {
      for (const page of written) into[block]?.add(page)
      written.clear()
    }
  }

  #quiet(call: string): void {
    if (this.extentsInWork === 0) return
    this.#world.violated(`${call} while ${this.extentsInWork} extents are in work`)
  }

  #work<T>(
    call: 'start' | 'beginRound' | 'extendRound' | 'giveBack' | 'plan',
    effect: () => T,
  ): Promise<T | NativeError> {
    return this.#world.work<T>(call, () => {
      if (this.#closed) return { code: 'ERR_MULTIFD_CLOSED', detail: 'closed', errno: 0 }
      return effect()
    })
  }
}

function size(pages: Pages): number {
  return pages.reduce((sum, { size }) => sum + size, 0)
}
