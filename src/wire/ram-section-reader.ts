// Reading the words of RAM sections: block list, zero pages, whole pages, FLUSH, EOS. It keeps the
// block list and the last block named across sections. It never touches guest memory: a word
// becomes an event whose block is known and whose page lies inside it.

import { PAGE_SIZE_BYTES, RAM_BLOCKS_MAX } from '../kit/limits.ts'
import { decodeName, getBe64, hex, quoteBytes, viewOf } from './bytes.ts'
import {
  RAM_SAVE_FLAG_COMPRESS_PAGE,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_HOOK,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_MULTIFD_FLUSH,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_XBZRLE,
  RAM_SAVE_FLAG_ZERO,
} from './constants.ts'
import type { StreamContext } from './main-stream-events.ts'
import type { RamBlockEntry } from './ram-words.ts'

const FLAGS_MASK = PAGE_SIZE_BYTES - 1
const WORD_BYTES = 8

export class RamSectionReader {
  readonly #context: StreamContext
  readonly #blocks = new Map<string, RamBlockEntry>()
  #step: () => boolean = () => this.#readWord()
  #gpaListed = false
  #listLeftBytes = 0
  #listTotalBytes = 0
  #lastBlock: RamBlockEntry | undefined
  #sectionOver = true

  constructor(context: StreamContext) {
    this.#context = context
  }

  /** True once the EOS of the current section was consumed. */
  get sectionOver(): boolean {
    return this.#sectionOver
  }

  /** What is being read, for the error of a truncated stream. */
  get reading(): string {
    return this.#listLeftBytes > 0 ? 'the RAM block list' : 'the words of a RAM section'
  }

  /**
   * Begins the words of a START, PART or END. @param gpaListed the capability `x-ignore-shared` is
   * on
   */
  beginSection(gpaListed: boolean): void {
    this.#gpaListed = gpaListed
    this.#sectionOver = false
  }

  /** Consumes one word or list entry; false if more bytes are needed or the stream failed. */
  step(): boolean {
    return this.#step()
  }

  #readWord(): boolean {
    const { queue } = this.#context
    if (queue.available < WORD_BYTES) return false
    const low = queue.be32At(4)
    const flags = low & FLAGS_MASK
    const address = queue.be32At(0) * 0x1_0000_0000 + (low - flags)
    if (!Number.isSafeInteger(address)) return this.#refuseWord('expected an address below 2^53')
    if (flags === RAM_SAVE_FLAG_MEM_SIZE) return this.#beginList(address)
    if (this.#blocks.size === 0)
      return this.#refuseWord('expected MEM_SIZE and the RAM block list first')
    if (flags === RAM_SAVE_FLAG_EOS || flags === RAM_SAVE_FLAG_MULTIFD_FLUSH) {
      if (address !== 0) return this.#refuseWord('expected no address beside this flag')
      queue.skip(WORD_BYTES)
      this.#sectionOver = flags === RAM_SAVE_FLAG_EOS
      this.#context.emit({ kind: this.#sectionOver ? 'ram-eos' : 'ram-flush' })
      return true
    }
    const kind = flags & ~RAM_SAVE_FLAG_CONTINUE
    if (kind === RAM_SAVE_FLAG_ZERO) return this.#readPage(address, flags, 1)
    if (kind === RAM_SAVE_FLAG_PAGE) return this.#readPage(address, flags, PAGE_SIZE_BYTES)
    return this.#refuseFlags(kind)
  }

  #beginList(totalBytes: number): boolean {
    if (this.#blocks.size > 0)
      return this.#refuseWord('expected only one RAM block list in a stream')
    if (totalBytes === 0) return this.#refuseWord('expected at least one page of RAM')
    this.#context.queue.skip(WORD_BYTES)
    this.#listTotalBytes = totalBytes
    this.#listLeftBytes = totalBytes
    this.#step = () => this.#readListEntry()
    return true
  }

  #readListEntry(): boolean {
    const { queue } = this.#context
    if (queue.available < 1) return false
    const nameEnd = 1 + queue.byteAt(0)
    const entryBytes = nameEnd + (this.#gpaListed ? 16 : 8)
    if (queue.available < entryBytes) return false
    const bytes = queue.peek(entryBytes)
    const name = bytes.subarray(1, nameEnd)
    const idstr = decodeName(name)
    if (idstr === undefined)
      return this.#refuse(`a RAM block is named ${quoteBytes(name)}, expected UTF-8`)
    if (this.#blocks.has(idstr)) return this.#refuse(`RAM block ${quoted(idstr)} is listed twice`)
    const view = viewOf(bytes)
    const usedLength = getBe64(view, nameEnd)
    const gpa = this.#gpaListed ? getBe64(view, nameEnd + 8) : undefined
    if (usedLength === undefined || usedLength % PAGE_SIZE_BYTES !== 0) {
      const came = quoteBytes(bytes.subarray(nameEnd, nameEnd + 8))
      return this.#refuse(`RAM block ${quoted(idstr)} has length ${came}, expected whole pages`)
    }
    if (usedLength > this.#listLeftBytes) {
      return this.#refuse(
        `the RAM block list exceeds its total of ${hex(this.#listTotalBytes)} bytes: block ` +
          `${quoted(idstr)} has ${hex(usedLength)}, expected at most ${hex(this.#listLeftBytes)}`,
      )
    }
    if (this.#gpaListed && gpa === undefined) {
      return this.#refuse(`the address of RAM block ${quoted(idstr)} is above 2^53`)
    }
    return this.#addBlock(
      gpa === undefined ? { idstr, usedLength } : { idstr, usedLength, gpa },
      entryBytes,
    )
  }

  #addBlock(entry: RamBlockEntry, entryBytes: number): boolean {
    if (this.#blocks.size === RAM_BLOCKS_MAX) {
      return this.#context.fail(
        'ERR_MULTIFD_LIMIT',
        `the RAM block list has more than ${RAM_BLOCKS_MAX} blocks and still ${hex(this.#listLeftBytes)} ` +
          'bytes to come',
      )
    }
    this.#context.queue.skip(entryBytes)
    this.#blocks.set(entry.idstr, entry)
    this.#listLeftBytes -= entry.usedLength
    if (this.#listLeftBytes > 0) return true
    const blocks = [...this.#blocks.values()]
    this.#context.emit({ kind: 'ram-mem-size', totalBytes: this.#listTotalBytes, blocks })
    this.#step = () => this.#readWord()
    return true
  }

  /** A ZERO or PAGE word with its block name, if any, and the 1 or 4096 bytes behind it. */
  #readPage(offset: number, flags: number, dataBytes: number): boolean {
    const { queue } = this.#context
    const named = (flags & RAM_SAVE_FLAG_CONTINUE) === 0
    if (queue.available < WORD_BYTES + 1) return false
    const dataAt = named ? WORD_BYTES + 1 + queue.byteAt(WORD_BYTES) : WORD_BYTES
    if (queue.available < dataAt + dataBytes) return false
    let block = this.#lastBlock
    if (named) {
      const name = queue.peek(dataAt).subarray(WORD_BYTES + 1)
      block = this.#blocks.get(decodeName(name) ?? '')
      if (block === undefined)
        return this.#refuse(`there is no RAM block named ${quoteBytes(name)}`)
    }
    if (block === undefined) return this.#refuseWord('expected a RAM block name before CONTINUE')
    if (offset > block.usedLength - PAGE_SIZE_BYTES) {
      return this.#refuse(
        `the page at ${hex(offset)} is outside RAM block ${quoted(block.idstr)}, expected an offset ` +
          `below ${hex(block.usedLength)}`,
      )
    }
    if (dataBytes === 1 && queue.byteAt(dataAt) !== 0) {
      const came = hex(queue.byteAt(dataAt), 2)
      return this.#refuse(`a zero page is to be filled with ${came}, expected 0x00`)
    }
    queue.skip(dataAt)
    this.#lastBlock = block
    const run = { idstr: block.idstr, offset }
    if (dataBytes === 1)
      this.#context.emit({ kind: 'ram-zero', ...run, pages: this.#takeZeros(run) })
    else this.#context.emit({ kind: 'ram-page', ...run, contents: this.#takePages(run) })
    return true
  }

  /** The fill byte of one page and what goes on behind it; returns the number of pages. */
  #takeZeros({ offset }: { offset: number }): number {
    const { queue } = this.#context
    queue.skip(1)
    let pages = 1
    const entryBytes = WORD_BYTES + 1
    while (this.#continues(0, offset + pages * PAGE_SIZE_BYTES, RAM_SAVE_FLAG_ZERO, entryBytes)) {
      if (queue.byteAt(WORD_BYTES) !== 0) break
      queue.skip(entryBytes)
      pages += 1
    }
    return pages
  }

  /** The bytes of one page and of those that go on behind it. */
  #takePages({ offset }: { offset: number }): Uint8Array {
    const { queue } = this.#context
    const entryBytes = WORD_BYTES + PAGE_SIZE_BYTES
    let pages = 1
    for (let at = PAGE_SIZE_BYTES; ; at += entryBytes, pages += 1) {
      const next = offset + pages * PAGE_SIZE_BYTES
      if (!this.#continues(at, next, RAM_SAVE_FLAG_PAGE, entryBytes)) break
    }
    const contents = new Uint8Array(pages * PAGE_SIZE_BYTES)
    for (let page = 0; page < pages; page += 1) {
      if (page > 0) queue.skip(WORD_BYTES)
      contents.set(queue.peek(PAGE_SIZE_BYTES), page * PAGE_SIZE_BYTES)
      queue.skip(PAGE_SIZE_BYTES)
    }
    return contents
  }

  /** Whether a word `at` bytes ahead is there whole and goes on, in the last block, at `offset`. */
  #continues(at: number, offset: number, kind: number, entryBytes: number): boolean {
    const { queue } = this.#context
    if (queue.available < at + entryBytes) return false
    if (offset >= (this.#lastBlock?.usedLength ?? 0)) return false
    const low = (offset % 0x1_0000_0000) + kind + RAM_SAVE_FLAG_CONTINUE
    const high = Math.floor(offset / 0x1_0000_0000)
    return queue.be32At(at + 4) === low && queue.be32At(at) === high
  }

  #refuseFlags(kind: number): false {
    const encodings: [number, string][] = [
      [RAM_SAVE_FLAG_XBZRLE, 'XBZRLE'],
      [RAM_SAVE_FLAG_COMPRESS_PAGE, 'compress'],
      [RAM_SAVE_FLAG_HOOK, 'RDMA'],
    ]
    const encoding = encodings.find(([flag]) => kind === flag)
    if (encoding === undefined) return this.#refuseWord('expected ZERO, PAGE, MULTIFD_FLUSH or EOS')
    return this.#context.fail(
      'ERR_MULTIFD_UNSUPPORTED',
      `a RAM page is encoded with ${encoding[1]}, which does not go with multifd; turn it off at the source`,
    )
  }

  #refuseWord(expectation: string): false {
    return this.#refuse(
      `got the RAM word ${quoteBytes(this.#context.queue.peek(WORD_BYTES))}, ${expectation}`,
    )
  }

  #refuse(problem: string): false {
    return this.#context.fail('ERR_MULTIFD_PROTOCOL', problem)
  }
}

function quoted(idstr: string): string {
  return JSON.stringify(idstr)
}
