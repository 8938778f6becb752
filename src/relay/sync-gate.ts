// Where a relay's incoming channels meet at a sync point. A channel that ended is missed only if a
// later sync point needs it: sources close channels behind their last SYNC.

import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { trace } from '../kit/trace.ts'

export class SyncGate {
  /** Per channel, SYNCs that arrived since the start. */
  readonly #arrived: number[]
  readonly #ended = new Set<number>()
  #passed = 0
  #waiting: Deferred<void> | undefined

  constructor(channels: number) {
    this.#arrived = Array.from({ length: channels }, () => 0)
  }

  /** Sync points passed. */
  get passed(): number {
    return this.#passed
  }

  /** Waits for channels now. */
  get waiting(): boolean {
    return this.#waiting !== undefined
  }

  /** A channel is parked. */
  arrived(channelId: number): void {
    this.#arrived[channelId] = (this.#arrived[channelId] ?? 0) + 1
    this.#look()
  }

  /** The source closed a channel between two packets. */
  ended(channelId: number): void {
    this.#ended.add(channelId)
    this.#look()
  }

  /** Resolves when every channel is parked; rejects when one of them never will be. */
  async gather(): Promise<void> {
    this.#waiting = deferred()
    const { promise } = this.#waiting
    this.#look()
    await promise
  }

  /** The sync point is behind us. */
  pass(): void {
    this.#passed += 1
    const sync = this.#passed
    trace('multifd:sync', () => ({ side: 'relay', sync }))
  }

  #look(): void {
    const missing = this.#arrived.findIndex((count) => count <= this.#passed)
    if (missing === -1) {
      this.#settle()
      return
    }
    const lost = this.#arrived.findIndex(
      (count, id) => count <= this.#passed && this.#ended.has(id),
    )
    if (lost !== -1) this.#settle(closedEarly(lost))
  }

  #settle(error?: MultifdError): void {
    if (error === undefined) this.#waiting?.resolve()
    else this.#waiting?.reject(error)
    this.#waiting = undefined
  }
}

function closedEarly(channelId: number): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_PEER_CLOSED',
    `the source closed multifd channel ${channelId} before the end of RAM: look for the reason there`,
    { channelId },
  )
}
