// What a stop would cost: bandwidth measured from the rounds, and the downtime that follows from
// it. Pure: times and bytes come in as numbers.

/** How many rounds are remembered. */
const RECENT_MAX = 8
/** Rounds this much smaller than an amount say nothing about it: their time is mostly latency. */
const SMALLER_MAX = 4
/** Of the weight of the round after it. */
const OLDER_WEIGHT = 0.5
/** How far bandwidths may lie apart and still be the same. */
const CHANGE_FACTOR = 2
/** A round may take this much longer without that: a busy event loop, a thread that must wait. */
const HELD_UP_MS = 100
/** Or this much less: what a socket buffer takes at once is not sent yet. */
const BUFFERED_MS = 10

interface Round {
  bytes: number
  elapsedMs: number
}

/**
 * Bandwidth as the latest rounds show it. It depends on the amount that is asked for: a round of
 * a few pages is latency, and must not speak for a hundred megabytes; for a few pages it is right.
 */
export class BandwidthEstimate {
  /** The latest one first. */
  #recent: Round[] = []
  /** The largest one, for as long as no later one contradicts it. */
  #largest: Round | undefined

  /** A round that took `elapsedMs` to send `bytes`: of pages before compression, with headers. */
  addRound(bytes: number, elapsedMs: number): void {
    if (elapsedMs <= 0 || bytes <= 0) return
    const round = { bytes, elapsedMs }
    const stillTrue = this.#recent.filter((earlier) => !contradicts(round, earlier))
    this.#recent = [round, ...stillTrue].slice(0, RECENT_MAX)
    const largest = this.#largest
    if (largest === undefined || bytes >= largest.bytes || contradicts(round, largest)) {
      this.#largest = this.#recent.reduce((a, b) => (b.bytes > a.bytes ? b : a))
    }
  }

  /** For an amount like that of the latest round; undefined until one was sent. */
  get bytesPerSecond(): number | undefined {
    const latest = this.#recent[0]
    return latest === undefined ? undefined : this.bytesPerSecondFor(latest.bytes)
  }

  /** For sending that amount; undefined until a round was sent. */
  bytesPerSecondFor(bytes: number): number | undefined {
    if (this.#largest === undefined) return undefined
    const like = this.#recent.filter((round) => round.bytes * SMALLER_MAX >= bytes)
    const rounds = like.length > 0 ? like : [this.#largest]
    let msPerByte = 0
    let weights = 0
    rounds.forEach((round, age) => {
      const weight = OLDER_WEIGHT ** age
      msPerByte += (weight * round.elapsedMs) / round.bytes
      weights += weight
    })
    return (1000 * weights) / msPerByte
  }
}

/** Whether a round took a time that the bandwidth of an earlier, larger one does not explain. */
function contradicts({ bytes, elapsedMs }: Round, other: Round): boolean {
  if (bytes > other.bytes) return false
  const expectedMs = (bytes / other.bytes) * other.elapsedMs
  if (elapsedMs > expectedMs) return elapsedMs > expectedMs * CHANGE_FACTOR + HELD_UP_MS
  return elapsedMs < expectedMs / CHANGE_FACTOR - BUFFERED_MS
}

/** What a stop would cost now. */
export interface DowntimeFacts {
  /** Bytes of dirty pages, and of device state. */
  remainingBytes: number
  bandwidthBytesPerSecond: number | undefined
  /** From a PING to its PONG. */
  roundTripMs: number
  /** The destination's time to load device state; default 0. */
  loadTimeMs?: number
}

/**
 * Milliseconds the guest would stand still if it stopped now: what remains, its loading, and one
 * round trip for ready and commit. Infinity while the bandwidth is unknown and something remains.
 */
export function predictDowntimeMs(facts: DowntimeFacts): number {
  const { remainingBytes, bandwidthBytesPerSecond, roundTripMs, loadTimeMs = 0 } = facts
  const fixedMs = roundTripMs + loadTimeMs
  if (remainingBytes === 0) return fixedMs
  if (bandwidthBytesPerSecond === undefined) return Number.POSITIVE_INFINITY
  return (remainingBytes / bandwidthBytesPerSecond) * 1000 + fixedMs
}
