// A WebAssembly.Memory for tests; the project's type libraries (no DOM) do not declare it.

import type { WasmMemory } from '../../src/index.ts'

interface GrowableMemory extends WasmMemory {
  grow(pages: number): number
}

const { WebAssembly } = globalThis as unknown as {
  WebAssembly: {
    Memory: new (limits: { initial: number; maximum: number }) => GrowableMemory
  }
}

/** Whole WebAssembly pages of 64 KiB. */
export function wasmMemory(sizeBytes: number, maximumBytes = sizeBytes): GrowableMemory {
  return new WebAssembly.Memory({ initial: sizeBytes / 65536, maximum: maximumBytes / 65536 })
}
