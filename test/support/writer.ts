// The native writer thread (test/support/writer.cc) for tests: a guest that never stops writing,
// and a Vmm whose stop and resume mean it.

import { createRequire } from 'node:module'
import type { Vmm } from '../../src/index.ts'

interface WriterAddon {
  start(memory: Uint8Array, seed: number): object
  stop(writer: object): number
  confine(writer: object, pages: number): void
}

const addon = createRequire(import.meta.url)('../../build-test/writer.node') as WriterAddon

/**
 * Writes into `memory` at full speed from `resume()` to `stop()`; both may be called in any order.
 */
export class WriterGuest implements Vmm, Disposable {
  /** Calls in order: 'stop', 'resume'. */
  readonly calls: string[] = []
  /** Writes made, counted at each stop. */
  writes = 0
  readonly #memory: Uint8Array
  #seed: number
  #running: object | undefined
  #confinedPages = 0

  constructor(memory: Uint8Array, seed: number) {
    this.#memory = memory
    this.#seed = seed
    this.#start()
  }

  get running(): boolean {
    return this.#running !== undefined
  }

  /** From now on only the first `pages` are written, still at full speed: a migration converges. */
  confine(pages: number): void {
    this.#confinedPages = pages
    if (this.#running !== undefined) addon.confine(this.#running, pages)
  }

  /** Joins the thread: when it returns, nobody writes. */
  stop(): void {
    this.calls.push('stop')
    this.#join()
  }

  resume(): void {
    this.calls.push('resume')
    if (this.#running === undefined) this.#start()
  }

  /** Memory may be unmapped after this. */
  [Symbol.dispose](): void {
    this.#join()
  }

  #start(): void {
    this.#seed += 1
    this.#running = addon.start(this.#memory, this.#seed)
    addon.confine(this.#running, this.#confinedPages)
  }

  #join(): void {
    if (this.#running === undefined) return
    this.writes += addon.stop(this.#running)
    this.#running = undefined
  }
}
