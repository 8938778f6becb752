// Progress as an async iterable: a slow reader sees the latest event of each status, never a backlog.

import { type Deferred, deferred } from '../kit/deferred.ts'
import type { MigrationProgress } from './progress.ts'

/** Rounds of a migration that nobody watches must not pile up. */
const EVENTS_MAX = 256

export class ProgressStream implements AsyncIterable<MigrationProgress> {
  #events: MigrationProgress[] = []
  #arrived: Deferred<void> = deferred()
  #end: Promise<unknown> | undefined
  #watched = false

  /** Somebody iterates: until then nothing needs to be built. */
  get watched(): boolean {
    return this.#watched
  }

  push(event: MigrationProgress): void {
    // Only a change of status or round is worth a place of its own.
    const last = this.#events.at(-1)
    if (last?.status === event.status && last.round === event.round) this.#events.pop()
    if (this.#events.length === EVENTS_MAX) this.#events.shift()
    this.#events.push(event)
    this.#arrived.resolve()
  }

  /** No more events; readers then see how `result` ends. */
  end(result: Promise<unknown>): void {
    this.#end = result
    this.#arrived.resolve()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<MigrationProgress, void, void> {
    this.#watched = true
    for (;;) {
      const event = this.#events.shift()
      if (event !== undefined) {
        yield event
      } else if (this.#end !== undefined) {
        await this.#end
        return
      } else {
        this.#arrived = deferred()
        await this.#arrived.promise
      }
    }
  }
}
