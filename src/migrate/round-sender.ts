// Carries one round out: what the scheduler decides goes to the channels, what the channels report
// goes back to it, and flush policy and rate limit are asked on the way. It does not know the main
// channel.

import type { SendChannel } from '../channel/send-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { ChannelCredits } from '../schedule/channel-credits.ts'
import { type Credits, MultifdScheduler } from '../schedule/multifd-scheduler.ts'
import type { BandwidthGate } from '../schedule/rate-limiter.ts'
import { type Extent, LIMITED_CREDITS } from '../schedule/round-plan.ts'
import type { FlushControl } from './flush-control.ts'

/**
 * While a channel finds out what its path can do: with one extent in work and one waiting it
 * reports each one as soon as it is done, and hears what was decided before the next but one.
 */
const UNSETTLED_CREDITS = 2

export class RoundSender {
  readonly #channels: readonly SendChannel[]
  readonly #limiter: BandwidthGate
  readonly #scheduler: MultifdScheduler
  readonly #flush: FlushControl
  readonly #credits: ChannelCredits
  #done: Deferred<void> = deferred()
  #timer: NodeJS.Timeout | undefined
  #pumpQueued = false
  #paused = false
  #stopped = false

  constructor(options: {
    channels: readonly SendChannel[]
    /** How many of them may work at a time; default all. */
    atOnce?: number
    limiter: BandwidthGate
    flush: FlushControl
  }) {
    const { channels, atOnce = channels.length } = options
    this.#channels = channels
    this.#limiter = options.limiter
    this.#flush = options.flush
    this.#credits = new ChannelCredits(channels.length)
    this.#scheduler = new MultifdScheduler({
      channels: channels.length,
      atOnce,
      rateLimiter: options.limiter,
    })
  }

  /** Pages of the present round that are not sent. */
  get remainingPages(): number {
    return this.#scheduler.remainingPages
  }

  /** A round is on its way. */
  get sending(): boolean {
    return ['sending', 'syncing'].includes(this.#scheduler.roundState)
  }

  /** Only the bandwidth limit, or a pause, holds the round back. */
  get waitsForLimiter(): boolean {
    return this.#timer !== undefined || this.#paused
  }

  /** Nothing new is handed out, but what the channels hold goes out. */
  pause(): void {
    this.#paused = true
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  /** After a pause, or a change of the limit: looks what may go out now. */
  continue(): void {
    this.#paused = false
    if (!this.#stopped) this.#pump()
  }

  /** Sends the extents and one SYNC per channel; resolves when all of that left, released. */
  async send(extents: readonly Extent[]): Promise<void> {
    this.#done = deferred()
    const nowMs = performance.now()
    this.#credits.begin(nowMs)
    this.#scheduler.beginRound(extents, this.#creditsAt(nowMs))
    this.#pump()
    await this.#done.promise
  }

  /** A channel reports its oldest extent as sent. */
  extentDone(channelId: number, wireBytes: number): void {
    if (this.#stopped) return
    const { dirtyPages } = this.#scheduler.extentDone(channelId, wireBytes, performance.now())
    this.#credits.extentDone(channelId, wireBytes, dirtyPages * PAGE_SIZE_BYTES)
    const channel = this.#channels[channelId]
    if (channel !== undefined) this.#flush.extentDone(channel)
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
    // A SYNC goes out all the same: without it the destination waits in the middle of a section,
    // where it does not hear that we are still there.
    if (this.#paused && this.#scheduler.remainingPages > 0) return
    clearTimeout(this.#timer)
    this.#timer = undefined
    const nowMs = performance.now()
    this.#scheduler.setCredits(this.#creditsAt(nowMs))
    for (const action of this.#scheduler.next(nowMs)) {
      const channel = this.#channels[action.channelId]
      if (action.kind === 'extent') channel?.submitExtent(action.extent)
      else channel?.submitSync()
    }
    const waitMs = this.#scheduler.waitMs(nowMs)
    if (waitMs !== undefined) this.#timer = setTimeout(() => this.#pump(), waitMs)
  }

  #creditsAt(nowMs: number): Credits {
    if (this.#limiter.bytesPerSecond > 0) return LIMITED_CREDITS
    return this.#flush.settled ? this.#credits.at(nowMs) : UNSETTLED_CREDITS
  }
}
