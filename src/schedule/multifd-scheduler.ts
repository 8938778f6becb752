// Which extent goes to which channel, and when a round is over. It does no I/O and knows neither
// sockets nor bitmaps: the caller plans a round, carries out the actions that `next` returns, and
// reports what the channels report. Every call in the wrong order is our own mistake: an assertion.
//
//   idle ─ beginRound ─► sending ─ next: nothing is left ─► syncing ─ last syncDone ─► synced
//                           ▲                                                            │
//                           └──────────────────────── beginRound ────────────────────────┘

import assert from 'node:assert/strict'
import { CHANNELS_MAX, PAGE_SIZE_BYTES } from '../kit/limits.ts'
import type { BandwidthGate, Charge } from './rate-limiter.ts'
import type { Extent } from './round-plan.ts'

/**
 * Near the end of a round a channel queues no more than its even share of what is left, but 2: one
 * that it sends and one that it finds waiting; and a fast one an eighth of its credits. Extents
 * queued on a slow channel cannot be taken back, and a round of `4 * channels` extents would
 * otherwise be dealt out evenly at its start, however slow a channel is; the last round, when the
 * guest stands still, is such a round.
 */
export const TAIL_CREDITS = 2
const TAIL_PART = 8

/** What the caller must do now, in the order of the array. */
export type ScheduleAction =
  | { readonly kind: 'extent'; readonly channelId: number; readonly extent: Extent }
  /** Behind its extents: flush the channel to zero and send one SYNC packet on it. */
  | { readonly kind: 'sync'; readonly channelId: number }

export type RoundState = 'idle' | 'sending' | 'syncing' | 'synced'

/** The same for all channels, or those of each. */
export type Credits = number | readonly number[] | Uint32Array

/** An extent that a channel holds. */
interface Placed {
  readonly extent: Extent
  readonly charge: Charge
}

interface ChannelState {
  /** Oldest first, at most the credits: the channel thread works them off in this order. */
  readonly placed: Placed[]
  synced: boolean
}

/**
 * Schedules the rounds of one migration over its channels. Extents go out in the order given
 * (ascending address), each to the channel with the most free credit; among equals to the next one
 * after the channel that was served last. A slow channel keeps its credits longer and so gets less.
 * No credit is the backpressure: no channel holds more extents than that, near the end of a round
 * fewer (TAIL_CREDITS). Where no more than `atOnce` channels shall work at a time, an idle one gets
 * an extent when another has none left.
 *
 * A failed migration ends with its scheduler; there is nothing to undo.
 */
export class MultifdScheduler {
  readonly #limiter: BandwidthGate
  readonly #channels: ChannelState[]
  readonly #atOnce: number
  /** Per channel, the length of its `placed`. */
  readonly #heldCounts: Uint32Array
  /** Per channel, the most it may hold. */
  readonly #credits: Uint32Array
  #state: RoundState = 'idle'
  #extents: readonly Extent[] = []
  /** Index of the next extent to place: the array is never shifted, it may hold 100,000 entries. */
  #cursor = 0
  #remainingPages = 0
  #unsyncedCount = 0
  /** Channels that hold extents. */
  #workingCount = 0
  #lastServed: number

  /** @param options.channels 1..255. `atOnce`: at least 1; default all channels. */
  constructor(options: { channels: number; atOnce?: number; rateLimiter: BandwidthGate }) {
    const { channels, atOnce = channels, rateLimiter } = options
    assert(
      Number.isInteger(channels) && channels >= 1 && channels <= CHANNELS_MAX,
      `channels must be 1..${CHANNELS_MAX}, got ${channels}`,
    )
    assert(Number.isInteger(atOnce) && atOnce >= 1, `atOnce must be at least 1, got ${atOnce}`)
    this.#limiter = rateLimiter
    this.#atOnce = Math.min(atOnce, channels)
    this.#channels = Array.from({ length: channels }, () => ({ placed: [], synced: false }))
    this.#heldCounts = new Uint32Array(channels)
    this.#credits = new Uint32Array(channels)
    // So that the first extent goes to channel 0.
    this.#lastServed = channels - 1
  }

  /** Where the round stands; the picture at the top of this file shows what moves it on. */
  get roundState(): RoundState {
    return this.#state
  }

  /** Dirty pages of this round in extents that are not done: placed ones count in full. */
  get remainingPages(): number {
    return this.#remainingPages
  }

  /**
   * Starts a round; call `next` afterwards. An empty one is valid: it still syncs every channel.
   * The array is read until the last extent is placed and must not change meanwhile.
   */
  beginRound(extents: readonly Extent[], credits: Credits): void {
    assert(
      this.#state === 'idle' || this.#state === 'synced',
      `a round must not begin while the last one is ${this.#state}`,
    )
    this.setCredits(credits)
    this.#extents = extents
    this.#cursor = 0
    this.#remainingPages = extents.reduce((sum, extent) => sum + extent.dirtyPages, 0)
    this.#state = 'sending'
  }

  /**
   * Changes the credits within a round. Channels that hold more than that keep what they have and
   * get nothing until they are below it.
   */
  setCredits(credits: Credits): void {
    // Before they are stored: the cells would take -1 for a large number, and 1.5 for 1.
    const each = typeof credits === 'number' ? [credits] : [...credits]
    const wrong = each.find((count) => !(Number.isInteger(count) && count >= 1))
    assert(wrong === undefined, `the credits of a channel must be at least 1, got ${wrong}`)
    if (typeof credits === 'number') this.#credits.fill(credits)
    else this.#credits.set(credits)
  }

  /**
   * Everything that may start now; empty when there is nothing to do but wait. Call it after
   * `beginRound`, after every `extentDone` (or once for many), and after `waitMs`.
   */
  next(nowMs: number): ScheduleAction[] {
    const actions: ScheduleAction[] = []
    if (this.#state !== 'sending') return actions
    while (this.#cursor < this.#extents.length && this.#limiter.mayStart(nowMs)) {
      const channelId = this.#freestChannel()
      if (channelId === undefined) break
      actions.push(this.#place(channelId, nowMs))
    }
    if (this.#cursor < this.#extents.length) return actions

    // Nothing comes behind what the channels hold, so each may know already how it ends.
    this.#state = 'syncing'
    this.#extents = []
    this.#cursor = 0
    this.#unsyncedCount = this.#channels.length
    for (const [channelId, channel] of this.#channels.entries()) {
      channel.synced = false
      actions.push({ kind: 'sync', channelId })
    }
    return actions
  }

  /**
   * The channel has sent its oldest extent. Returns that extent.
   * @param wireBytes what really went out for it, packet headers included.
   */
  extentDone(channelId: number, wireBytes: number, nowMs: number): Extent {
    const { placed } = this.#channel(channelId)
    const done = placed.shift()
    assert(done !== undefined, `channel ${channelId} reports an extent but holds none`)
    this.#heldCounts[channelId] = placed.length
    if (placed.length === 0) this.#workingCount -= 1
    this.#remainingPages -= done.extent.dirtyPages
    this.#limiter.settle(done.charge, wireBytes, nowMs)
    return done.extent
  }

  /** The channel is flushed to zero and its SYNC packet is sent. */
  syncDone(channelId: number): void {
    const channel = this.#channel(channelId)
    assert(
      this.#state === 'syncing',
      `channel ${channelId} reports a sync while the round is ${this.#state}`,
    )
    assert(!channel.synced, `channel ${channelId} reports a second sync in one round`)
    assert(channel.placed.length === 0, `channel ${channelId} reports a sync before its extents`)
    channel.synced = true
    this.#unsyncedCount -= 1
    if (this.#unsyncedCount === 0) this.#state = 'synced'
  }

  /**
   * Whole milliseconds after which `next` must be called again although nothing was reported:
   * only the limiter holds the next extent back. Undefined if anything else does, or nothing.
   */
  waitMs(nowMs: number): number | undefined {
    if (this.#state !== 'sending' || this.#cursor === this.#extents.length) return undefined
    if (this.#limiter.mayStart(nowMs) || this.#freestChannel() === undefined) return undefined
    return this.#limiter.waitMs(nowMs)
  }

  #place(channelId: number, nowMs: number): ScheduleAction {
    const extent = this.#extents[this.#cursor]
    assert(extent !== undefined, `no extent at ${this.#cursor} of ${this.#extents.length}`)
    // Packet headers (0.2 or 0.3 % of a full one) are left out here and charged when it is settled.
    const charge = this.#limiter.charge(extent.dirtyPages * PAGE_SIZE_BYTES, nowMs)
    const { placed } = this.#channel(channelId)
    if (placed.length === 0) this.#workingCount += 1
    placed.push({ extent, charge })
    this.#heldCounts[channelId] = placed.length
    this.#cursor += 1
    this.#lastServed = channelId
    return { kind: 'extent', channelId, extent }
  }

  /**
   * The channel with the most free credit, searched from the one after the last served. Nothing
   * but numbers is read here: it runs twice per extent, over up to 255 channels.
   */
  #freestChannel(): number | undefined {
    const channels = this.#channels.length
    const evenShare = Math.ceil((this.#extents.length - this.#cursor) / this.#atOnce)
    const mayBegin = this.#workingCount < this.#atOnce
    let fewest = Number.POSITIVE_INFINITY
    let freest: number | undefined
    for (let step = 1; step <= channels && fewest > 0; step += 1) {
      const channelId = (this.#lastServed + step) % channels
      const held = this.#heldCounts[channelId] ?? 0
      const credits = this.#credits[channelId] ?? 0
      const most = Math.min(credits, Math.max(TAIL_CREDITS, credits / TAIL_PART, evenShare))
      if (held < fewest && held < most && (held > 0 || mayBegin)) {
        freest = channelId
        fewest = held
      }
    }
    return freest
  }

  #channel(channelId: number): ChannelState {
    const channel = this.#channels[channelId]
    if (channel !== undefined) return channel
    assert.fail(`no channel ${channelId} of ${this.#channels.length}`)
  }
}
