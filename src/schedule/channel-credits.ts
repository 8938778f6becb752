// How many extents each channel may hold: as many as it works off in a while, told by what it has
// done in this round. In: which channel finished an extent, how much of it travelled, and when
// somebody asks. It knows no sockets.

/**
 * What a channel holds cannot be taken back: it still goes out after `pause()` or a lower limit,
 * so it is bounded in time. 100 ms are enough to wake the JavaScript thread rarely
 * (native/channel/send_channel.h says when): a wake-up costs it 0.3 ms, most of it at cold caches.
 */
export const HELD_MS = 100

/** One that it sends, one that it finds next, and one that is on its way here as done. */
export const CREDITS_MIN = 3

/**
 * Until a channel has finished something in this round, and where that went fast because there was
 * little to send: zero pages say nothing about how long the path takes for others.
 */
export const CREDITS_AT_FIRST = 8

/** What the queue of a channel has room for (native/channel/command_queue.h). */
export const CREDITS_MAX = 32

/** The credits of one migration's channels. */
export class ChannelCredits {
  readonly #doneCounts: Uint32Array
  /** The parts of them that travelled, added up. */
  readonly #sentExtents: Float64Array
  readonly #credits: Uint32Array
  #begunMs = 0

  constructor(channels: number) {
    this.#doneCounts = new Uint32Array(channels)
    this.#sentExtents = new Float64Array(channels)
    this.#credits = new Uint32Array(channels)
  }

  /** A round begins: what an extent is, and how fast, may be different from now on. */
  begin(nowMs: number): void {
    this.#begunMs = nowMs
    this.#doneCounts.fill(0)
    this.#sentExtents.fill(0)
  }

  /** The channel is done with one, of whose `dirtyBytes` so many went out. */
  extentDone(channelId: number, wireBytes: number, dirtyBytes: number): void {
    this.#doneCounts[channelId] = (this.#doneCounts[channelId] ?? 0) + 1
    const sent = Math.min(1, wireBytes / dirtyBytes)
    this.#sentExtents[channelId] = (this.#sentExtents[channelId] ?? 0) + sent
  }

  /** Per channel; valid until the next call. */
  at(nowMs: number): Uint32Array {
    const spans = Math.max(nowMs - this.#begunMs, 1) / HELD_MS
    for (let channelId = 0; channelId < this.#credits.length; channelId += 1) {
      const done = this.#doneCounts[channelId] ?? 0
      const sent = this.#sentExtents[channelId] ?? 0
      const most = Math.max(CREDITS_AT_FIRST, Math.ceil(sent / spans))
      const held = done === 0 ? CREDITS_AT_FIRST : Math.min(most, Math.ceil(done / spans))
      this.#credits[channelId] = Math.min(CREDITS_MAX, Math.max(CREDITS_MIN, held))
    }
    return this.#credits
  }
}
