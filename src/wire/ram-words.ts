// Writing the words of a RAM section: the block list of START, zero pages, whole pages, FLUSH and
// EOS. It remembers the last RAM block named, as the format does, across sections. Reading them is
// in ram-section-reader.ts; which pages travel here and when is decided elsewhere.

import { PAGE_SIZE_BYTES, RAM_BLOCKS_MAX } from '../kit/limits.ts'
import { be64, concatBytes, encodeCounted, setBe64, viewOf } from './bytes.ts'
import {
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_MULTIFD_FLUSH,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
} from './constants.ts'

/** The word of a page of the last block named, and its fill byte. */
const ZERO_WORD_BYTES = 8 + 1

/** One named region of guest RAM, as START's block list announces it. */
export interface RamBlockEntry {
  idstr: string
  /** Bytes in use, a multiple of the page size. */
  usedLength: number
  /** Guest-physical address; on the wire only with the capability `x-ignore-shared`. */
  gpa?: number
}

/** Ends the payload of every RAM section; in the per-section dialect also a sync point. */
export function encodeEosWord(): Uint8Array {
  return be64(RAM_SAVE_FLAG_EOS)
}

/** The sync point of the per-round dialect. Never for a QEMU machine type of 8.0 or older. */
export function encodeFlushWord(): Uint8Array {
  return be64(RAM_SAVE_FLAG_MULTIFD_FLUSH)
}

/**
 * MEM_SIZE and the block list, the first word of START.
 * @throws RangeError if a length is not a positive multiple of the page size, a name does not fit,
 * or there are none or too many blocks
 */
export function encodeMemSizeWord(blocks: readonly RamBlockEntry[]): Uint8Array {
  if (blocks.length === 0 || blocks.length > RAM_BLOCKS_MAX) {
    throw new RangeError(`expected 1 .. ${RAM_BLOCKS_MAX} RAM blocks, got ${blocks.length}`)
  }
  let totalBytes = 0
  const list: Uint8Array[] = []
  for (const { idstr, usedLength, gpa } of blocks) {
    if (usedLength <= 0 || usedLength % PAGE_SIZE_BYTES !== 0) {
      throw new RangeError(
        `expected the length of RAM block ${idstr} to be a positive multiple of ${PAGE_SIZE_BYTES}, ` +
          `got ${usedLength}`,
      )
    }
    totalBytes += usedLength
    list.push(encodeCounted('RAM block', idstr), be64(usedLength))
    if (gpa !== undefined) list.push(be64(gpa))
  }
  return concatBytes(be64(totalBytes + RAM_SAVE_FLAG_MEM_SIZE), ...list)
}

/**
 * Encodes pages on the main channel; one object per stream, because names are only sent on change.
 */
export class RamPageWords {
  #lastBlock: string | undefined

  /** A page that is zero now. @throws RangeError if the offset is not a page's */
  zero(idstr: string, offset: number): Uint8Array {
    return concatBytes(this.#word(idstr, offset, RAM_SAVE_FLAG_ZERO), Uint8Array.of(0))
  }

  /** A run of pages that are zero now. @throws RangeError if the offset is not a page's */
  zeroRun(idstr: string, offset: number, pageCount: number): Uint8Array {
    const first = this.zero(idstr, offset)
    const words = new Uint8Array(first.length + (pageCount - 1) * ZERO_WORD_BYTES)
    words.set(first)
    const view = viewOf(words)
    const flags = RAM_SAVE_FLAG_ZERO + RAM_SAVE_FLAG_CONTINUE
    let at = first.length
    for (let page = 1; page < pageCount; page++, at += ZERO_WORD_BYTES) {
      setBe64(view, at, offset + page * PAGE_SIZE_BYTES + flags)
    }
    return words
  }

  /** A page with its contents. @throws RangeError if the offset or the length is not a page's */
  page(idstr: string, offset: number, contents: Uint8Array): Uint8Array {
    if (contents.length !== PAGE_SIZE_BYTES) {
      throw new RangeError(`expected a page of ${PAGE_SIZE_BYTES} bytes, got ${contents.length}`)
    }
    return concatBytes(this.#word(idstr, offset, RAM_SAVE_FLAG_PAGE), contents)
  }

  #word(idstr: string, offset: number, flag: number): Uint8Array {
    if (offset % PAGE_SIZE_BYTES !== 0) {
      throw new RangeError(
        `expected a page offset that is a multiple of ${PAGE_SIZE_BYTES}, got ${offset}`,
      )
    }
    if (idstr === this.#lastBlock) return be64(offset + flag + RAM_SAVE_FLAG_CONTINUE)
    const word = concatBytes(be64(offset + flag), encodeCounted('RAM block', idstr))
    this.#lastBlock = idstr
    return word
  }
}
