// A token bucket over bytes on the wire: says whether another extent may start now. It never sends,
// sleeps or reads a clock; the time comes in with every call. Charges come from the scheduler (RAM
// extents) and from whoever writes the main channel; the limit comes from the operator.
//
// The bucket is counted in milliseconds of the limit, not in bytes: it fills by one per millisecond
// whatever the limit is, so changing the limit needs no arithmetic on what is already in it.

import assert from 'node:assert/strict'

/**
 * The bucket's size: 20 ms of the limit may be saved up, no more. It must be at least as long as
 * the JS thread may be late (a VMM keeps the event loop for 10 ms at a time), or lateness would
 * lower the rate; and with one extent of 20 ms that may overdraw it, a window of one second carries
 * at most 1000 + 20 + 20 ms worth of bytes: 4 % above the limit.
 */
export const BURST_MS = 20

/** What was charged when an extent started; `settle` corrects it when its real size is known. */
export interface Charge {
  /** The expected bytes. */
  readonly bytes: number
  /** Their price at that time, in milliseconds of the limit; 0 while there was none. */
  readonly priceMs: number
}

/** What a sender asks before it starts something: the limiter, or its account of a shared one. */
export type BandwidthGate = Pick<
  RateLimiter,
  'bytesPerSecond' | 'mayStart' | 'charge' | 'settle' | 'waitMs'
>

/**
 * Bandwidth limit of a whole migration: all channels and the main channel together. May be changed
 * at any time. `nowMs` is a monotonic clock in milliseconds, the same one in every call
 * (`performance.now()` is one); a sample older than the last one counts as the last one.
 *
 * An extent is charged when it starts, at what it holds at most, because only that keeps N channels
 * from starting N extents on one positive balance. When it is done `settle` gives back what did not
 * go out: a zero page costs its share of a packet header, a compressed page its compressed size.
 *
 * The bound of 4 % per second holds for extents of at most 20 ms of the limit. An extent cannot be
 * smaller than 256 KiB, so below 13 MB/s a window may hold one whole extent (and 20 ms) too much;
 * the mean over longer times is exact at every limit.
 */
export class RateLimiter {
  #bytesPerSecond: number
  #balanceMs = BURST_MS
  #lastMs: number

  /**
   * @param options.bytesPerSecond 0 means unlimited.
   * @throws RangeError if `bytesPerSecond` is negative or not a safe integer.
   */
  constructor(options: { bytesPerSecond: number; nowMs: number }) {
    this.#bytesPerSecond = validLimit(options.bytesPerSecond)
    this.#lastMs = options.nowMs
  }

  /** The present limit; 0 means unlimited. */
  get bytesPerSecond(): number {
    return this.#bytesPerSecond
  }

  /**
   * Changes the limit, effective at once. A debt never grows by it: after a lower limit the old
   * bytes keep their old price, after a higher one they get the new, lower price.
   * @throws RangeError if `bytesPerSecond` is negative or not a safe integer.
   */
  setLimit(bytesPerSecond: number, nowMs: number): void {
    const limit = validLimit(bytesPerSecond)
    this.#fill(nowMs)
    const before = this.#bytesPerSecond
    if (limit === 0) this.#balanceMs = Math.max(0, this.#balanceMs)
    else if (this.#balanceMs < 0 && limit > before) this.#balanceMs *= before / limit
    this.#bytesPerSecond = limit
  }

  /** Whether something may start: there is no limit, or the bucket is above zero. */
  mayStart(nowMs: number): boolean {
    if (this.#bytesPerSecond === 0) return true
    this.#fill(nowMs)
    return this.#balanceMs > 0
  }

  /**
   * Takes `bytes` out of the bucket, which may go below zero; nothing starts until it is filled
   * again. Keep the result for `settle` if the number was an estimate.
   */
  charge(bytes: number, nowMs: number): Charge {
    assert(bytes >= 0, `a charge must not be negative, got ${bytes}`)
    if (this.#bytesPerSecond === 0) return { bytes, priceMs: 0 }
    this.#fill(nowMs)
    const priceMs = (bytes * 1000) / this.#bytesPerSecond
    this.#balanceMs -= priceMs
    return { bytes, priceMs }
  }

  /**
   * Replaces an estimate by the bytes that really went out, at the price the estimate had, whatever
   * the limit is now: an extent that started before there was a limit is neither charged nor
   * repaid.
   */
  settle(charge: Charge, wireBytes: number, nowMs: number): void {
    assert(wireBytes >= 0, `wireBytes must not be negative, got ${wireBytes}`)
    if (charge.bytes === 0) {
      this.charge(wireBytes, nowMs)
      return
    }
    this.#fill(nowMs)
    const backMs = charge.priceMs * (1 - wireBytes / charge.bytes)
    this.#balanceMs = Math.min(BURST_MS, this.#balanceMs + backMs)
  }

  /** Whole milliseconds until `mayStart` is true if nothing else is charged; 0 if it is now. */
  waitMs(nowMs: number): number {
    if (this.mayStart(nowMs)) return 0
    return Math.floor(-this.#balanceMs) + 1
  }

  #fill(nowMs: number): void {
    // Two callers may have read the clock in another order than they call: that is not an error.
    if (nowMs <= this.#lastMs) return
    this.#balanceMs = Math.min(BURST_MS, this.#balanceMs + nowMs - this.#lastMs)
    this.#lastMs = nowMs
  }
}

function validLimit(bytesPerSecond: number): number {
  if (Number.isSafeInteger(bytesPerSecond) && bytesPerSecond >= 0) return bytesPerSecond
  throw new RangeError(
    `The bandwidth limit bytesPerSecond is ${bytesPerSecond}; ` +
      'expected a whole number of bytes, or 0 for no limit',
  )
}
