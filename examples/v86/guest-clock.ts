// The time a guest sees. It stands still while the guest does not run, and moves with the guest: a
// destination continues it from the source's value, so timers and the time stamp counter never jump
// back. It knows nothing of v86 beyond the one static function through which v86's JavaScript
// devices ask for the time.

/**
 * A clock in milliseconds that can be held and carried over. Starts held, at the host clock's
 * value.
 */
export class GuestClock {
  readonly #hostNow: () => number
  #offsetMs = 0
  #heldAtMs: number | undefined

  constructor(hostNow: () => number) {
    this.#hostNow = hostNow
    this.#heldAtMs = hostNow()
  }

  now(): number {
    return this.#heldAtMs ?? this.#hostNow() + this.#offsetMs
  }

  /** Stops the clock at its present value, or at `atMs`. */
  hold(atMs = this.now()): void {
    this.#heldAtMs = atMs
  }

  /** Goes on from the value at which it was held. */
  release(): void {
    if (this.#heldAtMs === undefined) return
    this.#offsetMs = this.#heldAtMs - this.#hostNow()
    this.#heldAtMs = undefined
  }
}

let current: GuestClock | undefined

/**
 * Makes `clock` the one v86's JavaScript devices read. They ask a static function shared by all
 * emulators of the JS thread, so each machine calls this before its guest runs or its devices are
 * saved or loaded.
 */
export function useClock(owner: { microtick: () => number }, clock: GuestClock): void {
  current = clock
  owner.microtick = currentTime
}

function currentTime(): number {
  return current === undefined ? performance.now() : current.now()
}
