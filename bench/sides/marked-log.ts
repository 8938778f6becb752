// The dirty log of a VMM whose guest writes a fixed share of its pages per round: it marks pages
// without touching them, and times how long the library takes from the end of one round to the
// extents of the next, by what the library publishes.
import { subscribe } from 'node:diagnostics_channel'
import { DirtyLog, type GuestMemory } from '../../src/index.ts'
import { BLOCK_NAME } from './guest.ts'
import type { MarkedLog } from './side-options.ts'

const PAGE_BYTES = 4096

export class MarkedDirtyLog {
  readonly log: DirtyLog
  readonly #pages: number
  readonly #plan: MarkedLog
  readonly #planMs: number[] = []
  #syncedMs: number | undefined

  constructor(memory: GuestMemory, plan: MarkedLog) {
    this.log = new DirtyLog(memory)
    this.#pages = memory.totalBytes / PAGE_BYTES
    this.#plan = plan
    subscribe('multifd:sync', () => {
      this.#syncedMs = performance.now()
    })
    subscribe('multifd:round', (payload) => this.#began(payload as { round: number }))
  }

  /** One per round that had pages to plan, but round 0; milliseconds. */
  get planMs(): readonly number[] {
    return this.#planMs
  }

  // The round is planned and not yet sent. What is marked now is no page of it, so it is the next
  // round's.
  #began({ round }: { round: number }): void {
    const { rounds, everyPages } = this.#plan
    // Round 1 also waits until the destination, which empties its memory, has answered.
    if (round > 1 && round <= rounds && this.#syncedMs !== undefined) {
      this.#planMs.push(performance.now() - this.#syncedMs)
    }
    if (round >= rounds) return
    for (let page = round % everyPages; page < this.#pages; page += everyPages) {
      this.log.mark(BLOCK_NAME, page * PAGE_BYTES, PAGE_BYTES)
    }
  }
}
