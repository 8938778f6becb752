// Notices that the peer fell silent: looks at a number that grows with every byte of progress, and
// says when it stood still for too long while the peer was to move.

import { MultifdError } from '../kit/errors.ts'

const TICK_MS = 250

/** A side that has nothing else to say says so often that it is there. */
const SIGN_OF_LIFE_MS = 1000
/** Two ends that were given the same short time hear of each other often enough. */
const SIGNS_PER_TIMEOUT = 4

/** How often a side gives a sign of life to a peer with this time limit, milliseconds. */
export function signOfLifeMs(peerTimeoutMs: number): number {
  return Math.min(SIGN_OF_LIFE_MS, peerTimeoutMs / SIGNS_PER_TIMEOUT)
}

export interface WatchdogOptions {
  /** Silence of this length is a failure, milliseconds. */
  timeoutMs: number
  /** Cheap; called every 250 ms. */
  progress: () => number
  /** May ask the kernel; called only when `progress` stood still. */
  deepProgress: () => number
  expired: (error: MultifdError) => void
}

export class Watchdog {
  readonly #options: WatchdogOptions
  readonly #timer: NodeJS.Timeout
  #pauses = 0
  #seen = Number.NaN
  #seenDeep = Number.NaN
  #lastTickMs = performance.now()
  #movedMs = performance.now()

  constructor(options: WatchdogOptions) {
    this.#options = options
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
    this.#timer.unref()
  }

  /** Our own work, which the peer cannot hurry: the clock stands still. */
  async during<T>(work: Promise<T>): Promise<T> {
    this.#pauses += 1
    try {
      return await work
    } finally {
      this.#pauses -= 1
      this.touch()
    }
  }

  /** Something else showed that the peer is alive, or that we were not waiting for it. */
  touch(): void {
    this.#movedMs = performance.now()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  #tick(): void {
    const nowMs = performance.now()
    // A process that was stopped, or an event loop that was held, says nothing about the peer.
    const wasAway = nowMs - this.#lastTickMs > 4 * TICK_MS
    this.#lastTickMs = nowMs
    const seen = this.#options.progress()
    if (seen !== this.#seen || this.#pauses > 0 || wasAway) {
      this.#seen = seen
      this.#movedMs = nowMs
      return
    }
    const deep = this.#options.deepProgress()
    if (deep !== this.#seenDeep) {
      this.#seenDeep = deep
      this.#movedMs = nowMs
    }
    if (nowMs - this.#movedMs < this.#options.timeoutMs) return
    this.stop()
    this.#options.expired(
      new MultifdError(
        'ERR_MULTIFD_TIMEOUT',
        `the peer was silent for ${this.#options.timeoutMs} ms (peerTimeoutMs): it is stopped, ` +
          'overloaded, or the network lost it',
      ),
    )
  }
}
