// The source of a migration as a program of its own, to be run under limits: fills its memory, lets
// a guest write while it migrates, and prints one JSON line, what became of it.

import { createHash } from 'node:crypto'
import { lockedMemoryLimitBytes } from '../../src/channel/locked-memory.ts'
import {
  GuestMemory,
  type MigrationResult,
  MigrationSource,
  type MigrationSourceOptions,
  MultifdError,
  type RamBlockOptions,
} from '../../src/index.ts'
import { PAGE_SIZE_BYTES } from '../../src/kit/limits.ts'
import { fillPages } from '../support/pages.ts'
import { WriterGuest } from '../support/writer.ts'

/** What the program is told, as JSON in its one argument. */
export interface SourceOrder {
  uri: string
  ramBytes: number
  seed: number
  /** Default true; false: the VMM promises to discard none of its memory, and all is populated. */
  discards?: boolean
  options: Partial<Omit<MigrationSourceOptions, 'memory' | 'vmm' | 'devices'>>
}

/** What it prints. */
export type SourceReport =
  | {
      kind: 'completed'
      result: MigrationResult
      /** Hex, in the order of the blocks, when the guest had stopped. */
      sha1: string[]
      /** What the program itself takes for the limit; null where none binds. */
      lockedMemoryLimitBytes: number | null
    }
  | { kind: 'failed'; code: string; sentence: string }

/** Both sides have these: memory of our own, and a memfd. */
export const ramBlocks = (ramBytes: number): RamBlockOptions[] => [
  // Memory in huge pages is never registered with the kernel, whatever the limits.
  { idstr: 'ram', sizeBytes: ramBytes, hugePages: false },
  { idstr: 'vga', memfd: true, sizeBytes: 2 ** 20 },
]

/** Of each block. */
export const digests = (memory: GuestMemory): string[] =>
  memory.blocks.map(({ idstr }) => createHash('sha1').update(memory.view(idstr)).digest('hex'))

/** No page is left to the kernel to fill in, neither of a hole nor of a page of zeroes. */
function populate(memory: Uint8Array): void {
  for (let at = 0; at < memory.length; at += PAGE_SIZE_BYTES) memory[at] = memory[at] ?? 0
}

/** The guest stays within so many pages: a second round is needed, and a third is small. */
const WRITTEN_PAGES = 256

async function migrate(order: SourceOrder): Promise<SourceReport> {
  await using memory = GuestMemory.of(ramBlocks(order.ramBytes))
  for (const { idstr } of memory.blocks) {
    fillPages(memory.view(idstr), order.seed)
    if (order.discards === false) populate(memory.view(idstr))
  }
  using guest = new WriterGuest(memory.view('ram'), order.seed)
  guest.confine(WRITTEN_PAGES)
  const vmm = {
    stop: () => guest.stop(),
    resume: () => guest.resume(),
    ...(order.discards === undefined ? {} : { discards: order.discards }),
  }
  try {
    const result = await new MigrationSource({ memory, vmm, ...order.options }).migrate(order.uri)
      .result
    const limit = lockedMemoryLimitBytes()
    return {
      kind: 'completed',
      result,
      sha1: digests(memory),
      lockedMemoryLimitBytes: Number.isFinite(limit) ? limit : null,
    }
  } catch (error) {
    const code = error instanceof MultifdError ? error.code : 'none'
    return { kind: 'failed', code, sentence: String(error) }
  }
}

const order = process.argv[2]
// The tests import the types and the blocks from here as well.
if (process.argv[1] === import.meta.filename && order !== undefined) {
  console.log(JSON.stringify(await migrate(JSON.parse(order) as SourceOrder)))
}
