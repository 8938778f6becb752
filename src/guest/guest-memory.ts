// GuestMemory: the RAM blocks of one virtual machine, over WebAssembly memory, anonymous memory, a
// memfd or a mapped file. It owns mappings, never pages in flight; the channels work on the native
// side of it.

import { constants } from 'node:buffer'
import { isArrayBuffer } from 'node:util/types'
import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES, RAM_BLOCKS_MAX } from '../kit/limits.ts'
import { checked, type NativeBlock, type NativeGuestMemory, native } from '../kit/native.ts'
import {
  optionalBoolean,
  refuseUnknown,
  requireName,
  requireString,
  wholeNumber,
} from '../kit/options.ts'

/** What this library needs of a WebAssembly.Memory: its buffer, which is replaced when it grows. */
export interface WasmMemory {
  readonly buffer: ArrayBuffer
}

/** One RAM block. `idstr` is its name on the wire, 1..255 bytes; both sides must agree on it. */
export type RamBlockOptions =
  /**
   * Memory inside a WebAssembly.Memory, e.g. an emulator's. Offset and size in bytes, whole pages.
   */
  | { idstr: string; wasmMemory: WasmMemory; offsetBytes: number; sizeBytes: number }
  /** Anonymous memory of our own; transparent huge pages unless `hugePages` is false. */
  | { idstr: string; sizeBytes: number; hugePages?: boolean }
  /** A sparse memfd of our own. */
  | { idstr: string; memfd: true; sizeBytes: number }
  /**
   * A file, mapped shared; created, and extended sparsely, where needed. With `readOnly` it must be
   * there, and nothing can write to it: memory that is only sent.
   */
  | { idstr: string; path: string; sizeBytes: number; readOnly?: boolean }

/** A RAM block as both sides name it. */
export interface RamBlock {
  readonly idstr: string
  /** Bytes, whole pages. */
  readonly usedLength: number
}

/** What each kind of block takes besides its name and size; the first is what tells the kind. */
const BLOCK_KINDS = [
  ['wasmMemory', 'offsetBytes'],
  ['memfd'],
  ['path', 'readOnly'],
  ['hugePages'],
] as const

/**
 * The memory of a guest. Lives until `close()`; a migration that still uses it then is ended first.
 *
 * ```ts
 * await using memory = GuestMemory.allocate('pc.ram', 256 * 1024 * 1024)
 * memory.view('pc.ram').fill(1, 0, 4096)
 * ```
 */
export class GuestMemory implements AsyncDisposable {
  readonly blocks: readonly RamBlock[]
  readonly #native: NativeGuestMemory
  readonly #views = new Map<number, Uint8Array<ArrayBuffer>>()
  readonly #wasm: ReadonlyMap<number, { memory: WasmMemory; offsetBytes: number }>
  #receiving = false
  #closed = false

  private constructor(
    memory: NativeGuestMemory,
    wasm: ReadonlyMap<number, { memory: WasmMemory; offsetBytes: number }> = new Map(),
  ) {
    this.#native = memory
    this.#wasm = wasm
    this.blocks = Object.freeze(memory.blocks().map((block) => Object.freeze(block)))
  }

  /**
   * Memory of several blocks.
   * @throws TypeError or RangeError for options that make no sense, MultifdError
   * ERR_MULTIFD_CHANNEL if the kernel refuses the mapping, ERR_MULTIFD_LIMIT if blocks overlap,
   * share a name or do not fit their memory.
   */
  static of(blocks: readonly RamBlockOptions[]): GuestMemory {
    if (!Array.isArray(blocks)) throw new TypeError('GuestMemory.of needs an array of blocks')
    wholeNumber('the number of RAM blocks', blocks.length, 1, RAM_BLOCKS_MAX)
    const nativeBlocks = blocks.map(toNativeBlock)
    const wasm = new Map<number, { memory: WasmMemory; offsetBytes: number }>()
    for (const [index, block] of blocks.entries()) {
      if ('wasmMemory' in block) {
        wasm.set(index, { memory: block.wasmMemory, offsetBytes: block.offsetBytes })
      }
    }
    const memory = native().createGuestMemory(nativeBlocks)
    return new GuestMemory(checked(memory, 'making guest memory failed'), wasm)
  }

  /** One block inside a WebAssembly.Memory, which is kept alive and may grow. */
  static fromWasm(
    idstr: string,
    wasmMemory: WasmMemory,
    range: { offsetBytes: number; sizeBytes: number },
  ): GuestMemory {
    refuseUnknown('GuestMemory.fromWasm', range, ['offsetBytes', 'sizeBytes'])
    return GuestMemory.of([{ idstr, wasmMemory, ...range }])
  }

  /** One block of anonymous memory, with transparent huge pages unless told otherwise. */
  static allocate(
    idstr: string,
    sizeBytes: number,
    options: { hugePages?: boolean } = {},
  ): GuestMemory {
    refuseUnknown('GuestMemory.allocate', options, ['hugePages'])
    return GuestMemory.of([{ idstr, sizeBytes, ...options }])
  }

  /** One block over a sparse memfd. */
  static openMemfd(idstr: string, sizeBytes: number): GuestMemory {
    return GuestMemory.of([{ idstr, memfd: true, sizeBytes }])
  }

  /** One block over a file, which is created or extended where needed and never shortened. */
  static openFile(idstr: string, path: string, sizeBytes: number): GuestMemory {
    return GuestMemory.of([{ idstr, path, sizeBytes }])
  }

  /**
   * The memory that another thread of this process registered: a VMM on the main thread, the
   * migration in a worker. The owner's `close()` or exit ends the migrations on it first.
   * @throws MultifdError ERR_MULTIFD_CLOSED if the token names no live memory.
   */
  static fromToken(token: number): GuestMemory {
    wholeNumber('token', token, 1, Number.MAX_SAFE_INTEGER)
    return new GuestMemory(checked(native().guestMemoryFromToken(token), 'finding guest memory'))
  }

  /** Names this memory in the other threads of the process (`GuestMemory.fromToken`). */
  get token(): number {
    return this.native.token
  }

  /** Sum of all blocks, bytes. */
  get totalBytes(): number {
    return this.blocks.reduce((sum, block) => sum + block.usedLength, 0)
  }

  /**
   * The bytes of one block, over the mapping itself. Detached by `close()`.
   * @throws RangeError for a block this memory does not have, or one larger than a view of this
   * Node can be (4 GiB in Node 20); MultifdError ERR_MULTIFD_UNSUPPORTED for a read-only one.
   */
  view(idstr: string): Uint8Array<ArrayBuffer> {
    const index = this.blockIndex(idstr)
    let view = this.#views.get(index)
    if (view === undefined) {
      const usedLength = this.blocks[index]?.usedLength ?? 0
      if (usedLength > constants.MAX_LENGTH) {
        throw new RangeError(
          `RAM block "${idstr}" has ${usedLength} bytes, and a view of this Node at most ` +
            `${constants.MAX_LENGTH}: make it several blocks, or reach it by its file`,
        )
      }
      const buffer = this.native.view(index)
      if (buffer === null) {
        throw new MultifdError(
          'ERR_MULTIFD_UNSUPPORTED',
          `RAM block "${idstr}" is a read-only file, and every view can be written to: read the file`,
        )
      }
      view = new Uint8Array(buffer)
      this.#views.set(index, view)
    }
    return view
  }

  /**
   * Makes a page-aligned range read as zero and gives its memory back. The only way a VMM may drop
   * pages while migrating (balloon, discard): it also marks them dirty.
   * @throws RangeError outside the block or off a page boundary, MultifdError if the kernel
   * refuses; ERR_MULTIFD_STATE while the memory is registered for a migration, which it is only if
   * the VMM promised not to discard (`Vmm.discards`).
   */
  discard(idstr: string, offsetBytes: number, sizeBytes: number): void {
    const block = this.blockIndex(idstr)
    const usedLength = this.blocks[block]?.usedLength ?? 0
    const firstPage = wholePages('offsetBytes', offsetBytes, usedLength)
    const pageCount = wholePages('sizeBytes', sizeBytes, usedLength - offsetBytes)
    const discarded = this.native.discard(block, firstPage, pageCount)
    checked(discarded, `discarding pages of "${idstr}" failed`)
  }

  /** Bytes of this memory that were ever touched and not given back. Reads no guest memory. */
  async populatedBytes(): Promise<number> {
    return checked(await this.native.populatedBytes(), 'asking for populated memory failed')
  }

  /**
   * Ends every migration that uses the memory, unmaps what is ours. Memory that came by its token
   * is only let go. Idempotent.
   */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#native.close([...this.#views.values()].map((view) => view.buffer))
    this.#views.clear()
    // Node tells native code that a view is gone in a later turn; only then is the memory unmapped.
    await new Promise((resolve) => setImmediate(resolve))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** @internal */
  get native(): NativeGuestMemory {
    if (this.#closed) throw closed()
    return this.#native
  }

  /** @internal WebAssembly memory may grow, but must not move: asked when a guest has stopped. */
  assertNotMoved(): void {
    for (const [index, { memory, offsetBytes }] of this.#wasm) {
      if (this.native.isAt(index, memory.buffer, offsetBytes)) continue
      throw new MultifdError(
        'ERR_MULTIFD_STATE',
        `the WebAssembly memory of RAM block "${this.blocks[index]?.idstr}" moved while it migrated: ` +
          'what was sent is not the guest any more; cancel and report this engine',
      )
    }
  }

  /** @internal Two destinations would write over each other. @throws ERR_MULTIFD_STATE */
  beginReceiving(): void {
    if (this.#receiving) {
      throw new MultifdError(
        'ERR_MULTIFD_STATE',
        'another destination listens into this memory already: close it first',
      )
    }
    this.#receiving = true
  }

  /** @internal */
  endReceiving(): void {
    this.#receiving = false
  }

  /** @internal @throws RangeError for a block this memory does not have. */
  blockIndex(idstr: string): number {
    const index = this.blocks.findIndex((block) => block.idstr === idstr)
    if (index >= 0) return index
    const names = this.blocks.map((block) => `"${block.idstr}"`).join(', ')
    throw new RangeError(`there is no RAM block "${idstr}"; this memory has ${names}`)
  }
}

/** @returns the number of pages in `bytes`. @throws RangeError unless a page multiple in 0..max. */
export function wholePages(name: string, bytes: number, maxBytes: number): number {
  wholeNumber(name, bytes, 0, maxBytes)
  if (bytes % PAGE_SIZE_BYTES === 0) return bytes / PAGE_SIZE_BYTES
  throw new RangeError(`${name} must be a multiple of ${PAGE_SIZE_BYTES}, got ${bytes}`)
}

function toNativeBlock(block: RamBlockOptions): NativeBlock {
  refuseUnknown('a RAM block', block, ['idstr', 'sizeBytes', ...BLOCK_KINDS.flat()])
  const kind = BLOCK_KINDS.find(([name]) => name in block) ?? ['hugePages']
  refuseUnknown(`a RAM block with ${kind[0]}`, block, ['idstr', 'sizeBytes', ...kind])
  const idstr = requireName('idstr', block.idstr)
  const { sizeBytes } = block
  const maxBytes = Number.MAX_SAFE_INTEGER
  wholeNumber('sizeBytes', wholePages('sizeBytes', sizeBytes, maxBytes), 1, maxBytes)
  if ('wasmMemory' in block) {
    const { wasmMemory, offsetBytes } = block
    wholePages('offsetBytes', offsetBytes, maxBytes)
    const buffer: unknown = wasmMemory?.buffer
    if (!isArrayBuffer(buffer)) {
      throw new TypeError('wasmMemory must be a WebAssembly.Memory that is not shared')
    }
    return { idstr, kind: 'external', sizeBytes, buffer, offsetBytes, keep: wasmMemory }
  }
  if ('path' in block) {
    const path = requireString('path', block.path)
    if (path === '' || path.includes('\0')) throw new TypeError('path must name a file')
    const readOnly = optionalBoolean('readOnly', block.readOnly)
    return { idstr, kind: 'file', sizeBytes, path, readOnly }
  }
  if ('memfd' in block) {
    if (block.memfd !== true) throw new TypeError('memfd must be true where it is given')
    return { idstr, kind: 'memfd', sizeBytes }
  }
  const hugePages = optionalBoolean('hugePages', block.hugePages ?? true)
  return { idstr, kind: 'anonymous', sizeBytes, hugePages }
}

function closed(): MultifdError {
  return new MultifdError('ERR_MULTIFD_CLOSED', 'the guest memory was closed')
}
