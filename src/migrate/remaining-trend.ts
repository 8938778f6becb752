// Whether what remains to be sent still falls from round to round, and the least it has been. Pure.

/** It must fall by a tenth within so many rounds, and within a second, or it stalls. */
const STALL_ROUNDS = 5
const STALL_MS = 1000
const FALL = 0.9

export class RemainingTrend {
  #leastBytes = Number.POSITIVE_INFINITY
  #fallenToBytes = Number.POSITIVE_INFINITY
  #fellMs = 0
  #roundsSinceFall = 0

  /** The least there was. */
  get leastBytes(): number {
    return this.#leastBytes
  }

  /** What remains at the beginning of a round, round 0 excepted. */
  add(remainingBytes: number, nowMs: number): void {
    this.#leastBytes = Math.min(this.#leastBytes, remainingBytes)
    if (remainingBytes < this.#fallenToBytes * FALL) this.restart(remainingBytes, nowMs)
    else this.#roundsSinceFall += 1
  }

  /** From here on it is another guest: slower, or faster. */
  restart(remainingBytes: number, nowMs: number): void {
    this.#fallenToBytes = remainingBytes
    this.#fellMs = nowMs
    this.#roundsSinceFall = 0
  }

  stalled(nowMs: number): boolean {
    return this.#roundsSinceFall >= STALL_ROUNDS && nowMs - this.#fellMs >= STALL_MS
  }
}
