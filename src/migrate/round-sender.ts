// Carries one round out: what the scheduler decides goes to the channels, what the channels report
// goes back to it, and flush policy and rate limit are asked on the way. It does not know the main
// channel.

import type { SendChannel } from '../channel/send-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { trace } from '../kit/trace.ts'
import type { ChannelSnapshot, FlushPolicy, FlushThresholds } from '../schedule/flush-policy.ts'
import { MultifdScheduler } from '../schedule/multifd-scheduler.ts'
import type { RateLimiter } from '../schedule/rate-limiter.ts'
import { creditsPerChannel, type Extent } from '../schedule/round-plan.ts'

export interface FlushControl {
  policy: FlushPolicy
  /** Per channel. */
  thresholds: FlushThresholds[]
  /** Bytes one channel may pin. */
  budgetBytes: number
}

export class RoundSender {
  readonly #channels: readonly SendChannel[]
  readonly #limiter: RateLimiter
  readonly #scheduler: MultifdScheduler
  /** Undefined without zero-copy: nothing is ever unreleased. */
  readonly #flush: FlushControl | undefined
  #done: Deferred<void> = deferred()
  #timer: NodeJS.Timeout | undefined
  #pumpQueued = false
  #stopped = false

  constructor(options: {
    channels: readonly SendChannel[]
    limiter: RateLimiter
    flush: FlushControl | undefined
  }) {
    this.#channels = options.channels
    this.#limiter = options.limiter
    this.#flush = options.flush
    this.#scheduler = new MultifdScheduler({
      channels: options.channels.length,
      rateLimiter: options.limiter,
    })
  }

  /** Pages of the present round that are not sent. */
  get remainingPages(): number {
    return this.#scheduler.remainingPages
  }

  /** Only the bandwidth limit holds the round back. */
  get waitsForLimiter(): boolean {
    return this.#timer !== undefined
  }

  /** Sends the extents and one SYNC per channel; resolves when all of that left, released. */
  async send(extents: readonly Extent[]): Promise<void> {
    this.#done = deferred()
    this.#scheduler.beginRound(extents, creditsPerChannel(this.#limiter.bytesPerSecond))
    this.#pump()
    await this.#done.promise
  }

  /** A channel reports its oldest extent as sent. */
  extentDone(channelId: number, wireBytes: number): void {
    if (this.#stopped) return
    this.#scheduler.extentDone(channelId, wireBytes, performance.now())
    this.#adjust(channelId)
    this.#pumpSoon()
  }

  syncDone(channelId: number): void {
    if (this.#stopped) return
    this.#scheduler.syncDone(channelId)
    if (this.#scheduler.roundState === 'synced') this.#done.resolve()
  }

  /** The migration is over: nothing is handed out any more. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  /** Events come in batches: one pass of the scheduler serves all of a batch. */
  #pumpSoon(): void {
    if (this.#pumpQueued) return
    this.#pumpQueued = true
    queueMicrotask(() => {
      this.#pumpQueued = false
      if (!this.#stopped) this.#pump()
    })
  }

  #pump(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const nowMs = performance.now()
    for (const action of this.#scheduler.next(nowMs)) {
      const channel = this.#channels[action.channelId]
      if (action.kind === 'extent') channel?.submitExtent(action.extent)
      else channel?.submitSync()
    }
    const waitMs = this.#scheduler.waitMs(nowMs)
    if (waitMs !== undefined) this.#timer = setTimeout(() => this.#pump(), waitMs)
  }

  #adjust(channelId: number): void {
    const flush = this.#flush
    const before = flush?.thresholds[channelId]
    const channel = this.#channels[channelId]
    if (flush === undefined || before === undefined || channel === undefined) return
    const after = flush.policy(snapshot(channel), before, flush.budgetBytes)
    if (after === before) return
    flush.thresholds[channelId] = after
    channel.setWaterMarks(after.highWaterBytes, after.lowWaterBytes)
    trace('multifd:flush', () => ({ channelId, ...after }))
  }
}

function snapshot(channel: SendChannel): ChannelSnapshot {
  const { channelId, counters } = channel
  return {
    channelId,
    sentBytes: counters.sentBytes,
    unreleasedBytes: counters.unreleasedBytes,
    unreleasedHighBytes: counters.unreleasedHighBytes,
    zeroCopyBytes: counters.zeroCopyBytes,
    copiedBytes: counters.copiedBytes,
    waitsAtHighWater: counters.waitsAtHighWater,
    refusals: counters.refusedByMemlock + counters.refusedByOptmem,
  }
}
