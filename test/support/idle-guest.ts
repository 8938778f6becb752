// A guest that nobody runs: filled memory, a device without state, a VMM that records its calls.

import { type Device, GuestMemory, type Vmm } from '../../src/index.ts'
import { fillPages } from './pages.ts'

export const emptyState: Device = { idstr: 'cpu', save: () => new Uint8Array(0), load: () => {} }

/** One block named `ram`, full of pages that differ. */
export function filled(sizeBytes: number, seed: number): GuestMemory {
  const memory = GuestMemory.allocate('ram', sizeBytes)
  fillPages(memory.view('ram'), seed)
  return memory
}

export function recordingVmm(): Vmm & { calls: string[] } {
  const calls: string[] = []
  return { calls, stop: () => void calls.push('stop'), resume: () => void calls.push('resume') }
}
