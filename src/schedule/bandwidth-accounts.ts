// Shares one bandwidth limit fairly among those who send at the same time: RAM's extents and each
// device that sends while the guest runs. It says who may start now; it never sends, sleeps or
// reads a clock. Charges come from the scheduler and from the passes over the devices; the limit
// itself is the RateLimiter's.
//
// The rule is start-time fair queueing. Each account has a tag: the bytes it was charged, as if all
// had begun together. The virtual time is the furthest tag at which a charge began. An account that
// asks stands at its tag, or a little behind the virtual time if its tag is further back: one that
// was away has saved up next to nothing. It may start if the limiter allows it and nobody who waits
// stands clearly before it. So those that always want to send get equal shares, and one that is
// alone never waits for anybody.

import { type BandwidthGate, BURST_MS, type Charge, type RateLimiter } from './rate-limiter.ts'

/**
 * An account that was refused keeps its place until it was told to ask again, and for this long
 * after: it may come late, and the bucket saves up so much for it. One that does not come back
 * holds nobody up.
 */
const LATENESS_MS = BURST_MS

/**
 * How far an account may fall behind and still catch up, in milliseconds of the limit: between one
 * send and the next it asks for nothing for a moment, and must not lose its share by that.
 */
const CATCH_UP_MS = BURST_MS

/**
 * How far one may be ahead of another that waits, in milliseconds of the limit. Many small sends
 * then go out in one go, instead of each waiting for the other sender to wake up; the largest ones,
 * of 20 ms, alternate.
 */
const LEAD_MS = BURST_MS / 2

/** The accounts of one migration over its one limiter. */
export class BandwidthAccounts {
  readonly #limiter: RateLimiter
  readonly #accounts: BandwidthAccount[] = []
  #virtualBytes = 0

  constructor(limiter: RateLimiter) {
    this.#limiter = limiter
  }

  /** A new account, equal to the others; it begins where they are. */
  open(): BandwidthAccount {
    const account = new BandwidthAccount(this.#limiter, this)
    this.#accounts.push(account)
    return account
  }

  /** @internal Where an account stands that wants to start now. */
  standing(account: BandwidthAccount): number {
    return Math.max(this.#virtualBytes - this.#bytesIn(CATCH_UP_MS), account.tagBytes)
  }

  /** @internal Whether somebody who waits comes before this account. */
  othersFirst(account: BandwidthAccount, nowMs: number): boolean {
    const ahead = this.standing(account) - this.#bytesIn(LEAD_MS)
    return this.#accounts.some((other) => {
      return other !== account && nowMs <= other.waitsUntilMs && this.standing(other) < ahead
    })
  }

  /** @internal A charge began there. */
  began(standing: number): void {
    this.#virtualBytes = Math.max(this.#virtualBytes, standing)
  }

  #bytesIn(limitMs: number): number {
    return (this.#limiter.bytesPerSecond * limitMs) / 1000
  }
}

/**
 * One sender's share. It answers as the limiter does, so that it stands in its place. Whoever is
 * refused must ask again after `waitMs`, or call `leave`: until then its turn is kept.
 */
export class BandwidthAccount implements BandwidthGate {
  readonly #limiter: RateLimiter
  readonly #accounts: BandwidthAccounts
  #tagBytes = 0
  #waitsUntilMs = Number.NEGATIVE_INFINITY

  /** @internal Made by `BandwidthAccounts.open`. */
  constructor(limiter: RateLimiter, accounts: BandwidthAccounts) {
    this.#limiter = limiter
    this.#accounts = accounts
  }

  /** The limit of all accounts together; 0 means unlimited. */
  get bytesPerSecond(): number {
    return this.#limiter.bytesPerSecond
  }
  /** @internal */
  get tagBytes(): number {
    return this.#tagBytes
  }
  /** @internal Until when it holds its turn. */
  get waitsUntilMs(): number {
    return this.#waitsUntilMs
  }

  /** Whether this account may start something: the limit allows it, and it is its turn. */
  mayStart(nowMs: number): boolean {
    if (this.#limiter.bytesPerSecond === 0) return true
    if (this.#limiter.mayStart(nowMs) && !this.#accounts.othersFirst(this, nowMs)) return true
    this.#waitsUntilMs = nowMs + this.#limiter.waitMs(nowMs) + LATENESS_MS
    return false
  }

  /** Takes `bytes` from the limit and from this account's share; see `RateLimiter.charge`. */
  charge(bytes: number, nowMs: number): Charge {
    const charge = this.#limiter.charge(bytes, nowMs)
    this.leave()
    // Without a limit there are no shares: a later limit finds all accounts equal.
    if (charge.priceMs === 0) return charge
    const standing = this.#accounts.standing(this)
    this.#accounts.began(standing)
    this.#tagBytes = standing + bytes
    return charge
  }

  /** Replaces an estimate by what really went out, in the limit and in the share. */
  settle(charge: Charge, wireBytes: number, nowMs: number): void {
    this.#limiter.settle(charge, wireBytes, nowMs)
    if (charge.priceMs > 0) this.#tagBytes += wireBytes - charge.bytes
  }

  /** Whole milliseconds after which to ask again; 0 if it may start now. */
  waitMs(nowMs: number): number {
    if (this.mayStart(nowMs)) return 0
    // Where only another's turn is in the way, that other is about to come.
    return Math.max(1, this.#limiter.waitMs(nowMs))
  }

  /** It wants nothing any more: its turn is the others'. */
  leave(): void {
    this.#waitsUntilMs = Number.NEGATIVE_INFINITY
  }
}
