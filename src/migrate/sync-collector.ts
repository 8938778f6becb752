// The destination's half of a sync: every channel parks at its SYNC, the main channel's sync point
// collects them all and lets them read on. Two SYNCs of one channel are never merged, and every one
// has its collector.

import type { ReceiveChannel } from '../channel/receive-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { trace } from '../kit/trace.ts'

export class SyncCollector {
  readonly #channels: readonly ReceiveChannel[]
  readonly #parked: () => void
  /** Per channel, SYNCs that arrived since the start. */
  readonly #arrived: number[]
  #collected = 0
  #pagesAtSync = 0
  #waiting: Deferred<void> | undefined

  /** @param parked called at each sync point, while no channel receives anything. */
  constructor(channels: readonly ReceiveChannel[], parked: () => void = () => {}) {
    this.#channels = channels
    this.#parked = parked
    this.#arrived = channels.map(() => 0)
  }

  /** Sync points passed. */
  get collected(): number {
    return this.#collected
  }

  /** Pages that came behind the last sync point: nothing vouches for them. */
  get pagesBehind(): number {
    return this.#pages() - this.#pagesAtSync
  }

  /** A channel is parked. */
  arrived(channelId: number): void {
    this.#arrived[channelId] = (this.#arrived[channelId] ?? 0) + 1
    if (this.#allArrived()) this.#waiting?.resolve()
  }

  /** Waits until every channel is parked, then releases them all. */
  async collect(): Promise<void> {
    if (!this.#allArrived()) {
      this.#waiting = deferred()
      await this.#waiting.promise
      this.#waiting = undefined
    }
    this.#collected += 1
    this.#pagesAtSync = this.#pages()
    this.#parked()
    for (const channel of this.#channels) channel.releaseSync()
    const sync = this.#collected
    trace('multifd:sync', () => ({ side: 'destination', sync }))
  }

  #pages(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.receivedPages, 0)
  }

  #allArrived(): boolean {
    return this.#arrived.every((count) => count > this.#collected)
  }
}
