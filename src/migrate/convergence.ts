// When to stop the guest: bandwidth measured from the rounds, the downtime that would follow, and
// the decision. Pure: times and bytes come in as numbers.

/** Below this a round's time is mostly latency and says nothing about bandwidth. */
const SAMPLE_BYTES_MIN = 4 * 1024 * 1024

/** Bandwidth of the latest round that was large enough to measure. */
export class BandwidthEstimate {
  #bytesPerSecond: number | undefined
  #largestBytes = 0

  /** A round that took `elapsedMs` to send `bytes`: of pages before compression, with headers. */
  addRound(bytes: number, elapsedMs: number): void {
    if (elapsedMs <= 0) return
    // Small rounds count only for as long as nothing better is known.
    if (bytes < SAMPLE_BYTES_MIN && bytes < this.#largestBytes) return
    this.#largestBytes = Math.max(this.#largestBytes, bytes)
    this.#bytesPerSecond = (bytes / elapsedMs) * 1000
  }

  /** Undefined until a round was sent. */
  get bytesPerSecond(): number | undefined {
    return this.#bytesPerSecond
  }
}

/** What a stop would cost now. */
export interface DowntimeFacts {
  /** Bytes of dirty pages. */
  remainingBytes: number
  bandwidthBytesPerSecond: number | undefined
  /** From a PING to its PONG. */
  roundTripMs: number
}

/**
 * Milliseconds the guest would stand still if it stopped now: the remaining RAM, and one round trip
 * for ready and commit. Infinity while the bandwidth is unknown and something remains.
 */
export function predictDowntimeMs(facts: DowntimeFacts): number {
  const { remainingBytes, bandwidthBytesPerSecond, roundTripMs } = facts
  if (remainingBytes === 0) return roundTripMs
  if (bandwidthBytesPerSecond === undefined) return Number.POSITIVE_INFINITY
  return (remainingBytes / bandwidthBytesPerSecond) * 1000 + roundTripMs
}
