// The machine's video memory as a device of its own: in pieces, straight out of where it lies, over
// the multifd channels and beside everything else; at the other side straight into its place.
import { createHash } from 'node:crypto'
import type { SaveStateHandler } from '../../src/index.ts'
import type { V86Machine } from './machine.ts'

export const VIDEO_MEMORY_NAME = 'v86.vga'

/** The library takes pieces of 1 MiB; smaller ones keep more channels at work. */
const PIECE_BYTES = 256 * 1024

/** The same on both sides. */
export function videoMemoryHandler(machine: V86Machine): SaveStateHandler {
  let loadedBytes = 0
  return {
    idstr: VIDEO_MEMORY_NAME,
    pendingExact: () => machine.videoMemoryBytes,
    *completePieces() {
      for (const memory of machine.videoMemory()) {
        for (let at = 0; at < memory.length; at += PIECE_BYTES) {
          yield memory.subarray(at, at + PIECE_BYTES)
        }
      }
    },
    complete: () => new Uint8Array(0),
    load(state, part) {
      if (part === 'setup') loadedBytes = 0
      put(machine.videoMemory(), loadedBytes, state)
      loadedBytes += state.length
      if (part !== 'complete' || loadedBytes === machine.videoMemoryBytes) return
      throw new Error(`${loadedBytes} bytes came, expected ${machine.videoMemoryBytes}`)
    },
  }
}

/** No two lines of it are alike, so that a piece in the wrong place shows. */
export function paint(machine: V86Machine): void {
  for (const memory of machine.videoMemory()) {
    for (let at = 0; at < memory.length; at += 1) memory[at] = (at * 7) ^ (at >>> 8) ^ (at >>> 16)
  }
}

/** SHA-256 of all of it. The guest must be stopped. */
export function hashVideoMemory(machine: V86Machine): { hash: string; tookMs: number } {
  const beganMs = performance.now()
  const hash = createHash('sha256')
  for (const memory of machine.videoMemory()) hash.update(memory)
  return { hash: hash.digest('hex'), tookMs: performance.now() - beganMs }
}

/** Writes bytes at an offset of all of it, across its parts. */
function put(memories: readonly Uint8Array[], offsetBytes: number, bytes: Uint8Array): void {
  let [at, left] = [offsetBytes, bytes]
  for (const memory of memories) {
    const here = left.subarray(0, Math.max(0, memory.length - at))
    memory.set(here, Math.min(at, memory.length))
    left = left.subarray(here.length)
    at = Math.max(0, at - memory.length)
  }
  if (left.length > 0) throw new Error(`${left.length} bytes more than there is video memory`)
}
