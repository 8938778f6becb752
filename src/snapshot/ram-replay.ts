// A snapshot's RAM as words of the main channel: the zero pages that packets leave out, or, without
// channels, everything. Reads files and the book of the channels; writes into whatever it is given.

import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { checked, type NativeRamState } from '../kit/native.ts'
import type { Extent } from '../schedule/round-plan.ts'
import { concatBytes } from '../wire/bytes.ts'
import { RamPageWords } from '../wire/ram-words.ts'
import type { SnapshotRamFile } from './manifest.ts'

/** Words are written in parts of about this size: one call into the kernel each. */
const PART_BYTES = 256 * 1024
/** Words of a run of zero pages that are made at once: 9 bytes each. */
const RUN_PAGES_MAX = PART_BYTES / 8
const READ_BYTES = 256 * 1024

const ZERO_PAGE = Buffer.alloc(PAGE_SIZE_BYTES)

/** Takes bytes and resolves when more may come. */
export type Write = (bytes: Uint8Array) => Promise<void>

/** The words of one stream: names are left out where they repeat, across sections, too. */
export class RamReplay {
  readonly #files: readonly SnapshotRamFile[]
  readonly #write: Write
  readonly #words = new RamPageWords()
  #parts: Uint8Array[] = []
  #partBytes = 0
  #zeroPages = 0
  #normalPages = 0

  constructor(files: readonly SnapshotRamFile[], write: Write) {
    this.#files = files
    this.#write = write
  }

  /** Words of zero pages so far. */
  get zeroPages(): number {
    return this.#zeroPages
  }
  /** Words with a page's contents so far. */
  get normalPages(): number {
    return this.#normalPages
  }

  /** Everything the channels have left out so far, absent pages included. */
  async zeroPagesOf(ram: NativeRamState): Promise<void> {
    for (;;) {
      const runs = checked<Float64Array>(await ram.takeZeroRuns(), 'collecting zero pages failed')
      if (runs.length === 0) return await this.#flush()
      for (let at = 0; at < runs.length; at += 3) {
        const [blockIndex = 0, firstPage = 0, pageCount = 0] = runs.subarray(at)
        await this.#zeros(blockIndex, firstPage, pageCount)
      }
    }
  }

  /** Every page of every block; `extents` are ascending, and what is outside them is zero. */
  async allPages(directory: string, extents: readonly Extent[]): Promise<void> {
    for (const [index, { path, sizeBytes }] of this.#files.entries()) {
      await using file = await open(join(directory, path), 'r')
      let page = 0
      for (const { blockIndex, firstPage, pageCount } of extents) {
        if (blockIndex !== index) continue
        await this.#zeros(index, page, firstPage - page)
        page = firstPage + pageCount
        for (let at = firstPage; at < page; at += READ_BYTES / PAGE_SIZE_BYTES) {
          const bytes = Math.min(READ_BYTES, (page - at) * PAGE_SIZE_BYTES)
          const buffer = Buffer.allocUnsafe(bytes)
          await readExactly(file, buffer, at * PAGE_SIZE_BYTES)
          await this.#pages(index, at, buffer)
        }
      }
      await this.#zeros(index, page, sizeBytes / PAGE_SIZE_BYTES - page)
    }
    await this.#flush()
  }

  async #pages(blockIndex: number, firstPage: number, buffer: Buffer): Promise<void> {
    const idstr = this.#idstr(blockIndex)
    for (let at = 0; at < buffer.length; at += PAGE_SIZE_BYTES) {
      const contents = buffer.subarray(at, at + PAGE_SIZE_BYTES)
      const offset = firstPage * PAGE_SIZE_BYTES + at
      if (contents.equals(ZERO_PAGE)) {
        this.#zeroPages += 1
        await this.#add(this.#words.zero(idstr, offset))
      } else {
        this.#normalPages += 1
        await this.#add(this.#words.page(idstr, offset, contents))
      }
    }
  }

  async #zeros(blockIndex: number, firstPage: number, pageCount: number): Promise<void> {
    const idstr = this.#idstr(blockIndex)
    for (let done = 0; done < pageCount; done += RUN_PAGES_MAX) {
      const count = Math.min(RUN_PAGES_MAX, pageCount - done)
      const offset = (firstPage + done) * PAGE_SIZE_BYTES
      this.#zeroPages += count
      await this.#add(this.#words.zeroRun(idstr, offset, count))
    }
  }

  async #add(words: Uint8Array): Promise<void> {
    this.#parts.push(words)
    this.#partBytes += words.length
    if (this.#partBytes >= PART_BYTES) await this.#flush()
  }

  async #flush(): Promise<void> {
    if (this.#partBytes === 0) return
    const bytes = concatBytes(...this.#parts)
    this.#parts = []
    this.#partBytes = 0
    await this.#write(bytes)
  }

  #idstr(blockIndex: number): string {
    const file = this.#files[blockIndex]
    if (file === undefined) throw new RangeError(`there is no RAM block ${blockIndex}`)
    return file.idstr
  }
}

async function readExactly(
  file: Awaited<ReturnType<typeof open>>,
  buffer: Buffer,
  position: number,
): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const { bytesRead } = await file.read(buffer, done, buffer.length - done, position + done)
    if (bytesRead === 0) throw new Error(`it ends at byte ${position + done}, while it is sent`)
    done += bytesRead
  }
}
