// Progress as an async iterable: each reader sees the latest event of each status and round, never
// a backlog, whoever else reads and however slowly.

import { type Deferred, deferred } from '../kit/deferred.ts'
import type { MigrationProgress } from './progress.ts'

/** Rounds that a slow reader has not looked at must not pile up. */
const EVENTS_MAX = 256

/** What a reader never sees merged: a status, or a round. */
interface Stage {
  status: string
  round?: number
}

interface Reader<Event> {
  events: Event[]
  /** Resolved by the next event, and by the end. */
  arrived: Deferred<void>
}

export class ProgressStream<Event extends Stage = MigrationProgress>
  implements AsyncIterable<Event>
{
  readonly #readers = new Set<Reader<Event>>()
  #last: Event | undefined
  #end: Promise<unknown> | undefined

  /** Somebody iterates: otherwise nothing needs to be built. */
  get watched(): boolean {
    return this.#readers.size > 0
  }

  push(event: Event): void {
    this.#last = event
    for (const { events, arrived } of this.#readers) {
      // Only a change of status or round is worth a place of its own.
      const last = events.at(-1)
      if (last?.status === event.status && last.round === event.round) events.pop()
      if (events.length === EVENTS_MAX) events.shift()
      events.push(event)
      arrived.resolve()
    }
  }

  /** No more events; readers then see how `result` ends. */
  end(result: Promise<unknown>): void {
    this.#end = result
    for (const { arrived } of this.#readers) arrived.resolve()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void, void> {
    const reader: Reader<Event> = {
      events: this.#last === undefined ? [] : [this.#last],
      arrived: deferred(),
    }
    this.#readers.add(reader)
    try {
      for (;;) {
        const event = reader.events.shift()
        if (event !== undefined) {
          yield event
        } else if (this.#end !== undefined) {
          await this.#end
          return
        } else {
          reader.arrived = deferred()
          await reader.arrived.promise
        }
      }
    } finally {
      this.#readers.delete(reader)
    }
  }
}
