// A clock of the simulation's own, in place of the timers of Node and of performance.now: what is
// due next happens next, in a turn of the event loop of its own, so that every promise has moved on
// before. Time passes only from one thing to the next. Knows nothing of what is simulated.

const REAL = {
  setTimeout: globalThis.setTimeout,
  setInterval: globalThis.setInterval,
  setImmediate: globalThis.setImmediate,
  clearTimeout: globalThis.clearTimeout,
  clearInterval: globalThis.clearInterval,
  clearImmediate: globalThis.clearImmediate,
  now: performance.now,
}

/** A turn of the event loop: code that only ever waits for the next one must not stop the clock. */
const TURN_MS = 0.02

/** What was asked for and has not happened yet. As much of a Node timer as anybody looks at. */
export class Pending {
  dueMs: number
  readonly order: number
  /** Undefined once it happened or was called off. */
  action: (() => void) | undefined
  readonly everyMs: number | undefined

  constructor(dueMs: number, order: number, action: () => void, everyMs?: number) {
    this.dueMs = dueMs
    this.order = order
    this.action = action
    this.everyMs = everyMs
  }

  ref(): this {
    return this
  }
  unref(): this {
    return this
  }
}

export class SimulatedClock {
  nowMs = 1000
  #order = 0
  /** A heap: the earliest is the first, and among equals the one that was asked for first. */
  readonly #heap: Pending[] = []
  /** Timers of the code under test. */
  readonly #timers = new Set<Pending>()

  /** Of the code under test, and still to come. */
  get timers(): number {
    return this.#timers.size
  }

  /** Something that the world does. */
  after(delayMs: number, action: () => void): Pending {
    return this.#add(new Pending(this.nowMs + delayMs, this.#order++, action))
  }

  callOff(pending: Pending | undefined): void {
    if (pending === undefined) return
    pending.action = undefined
    this.#timers.delete(pending)
  }

  /** Lets things happen until `over` says so, or nothing is left to happen. */
  async run(over: () => boolean): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const turn = (): void => {
        try {
          if (over() || !this.#next()) resolve()
          else REAL.setImmediate(turn)
        } catch (error) {
          reject(error)
        }
      }
      REAL.setImmediate(turn)
    })
  }

  install(): void {
    const clear = (timer: Pending | undefined): void => this.callOff(timer)
    Object.assign(globalThis, {
      setTimeout: (action: () => void, delayMs = 0) => this.#timer(action, Math.max(1, delayMs)),
      setInterval: (action: () => void, everyMs: number) => this.#timer(action, everyMs, everyMs),
      setImmediate: (action: () => void) => this.#timer(action, TURN_MS),
      clearTimeout: clear,
      clearInterval: clear,
      clearImmediate: clear,
    })
    performance.now = () => this.nowMs
  }

  uninstall(): void {
    const { now, ...timers } = REAL
    Object.assign(globalThis, timers)
    performance.now = now
  }

  #timer(action: () => void, delayMs: number, everyMs?: number): Pending {
    const timer = new Pending(this.nowMs + delayMs, this.#order++, action, everyMs)
    this.#timers.add(timer)
    return this.#add(timer)
  }

  /** Whether something happened. */
  #next(): boolean {
    const pending = this.#take()
    if (pending === undefined) return false
    this.nowMs = Math.max(this.nowMs, pending.dueMs)
    const { action, everyMs } = pending
    if (everyMs === undefined) this.callOff(pending)
    else {
      pending.dueMs = this.nowMs + everyMs
      this.#add(pending)
    }
    action?.()
    return true
  }

  /** The earliest that was not called off. */
  #take(): Pending | undefined {
    const heap = this.#heap
    for (;;) {
      const [first, last] = [heap[0], heap.pop()]
      if (first === undefined || last === undefined) return undefined
      if (first !== last) this.#sink(last)
      if (first.action !== undefined) return first
    }
  }

  #add(pending: Pending): Pending {
    const heap = this.#heap
    let at = heap.length
    while (at > 0) {
      const parent = heap[(at - 1) >> 1] as Pending
      if (!before(pending, parent)) break
      heap[at] = parent
      at = (at - 1) >> 1
    }
    heap[at] = pending
    return pending
  }

  /** Puts it in the place of the first. */
  #sink(pending: Pending): void {
    const heap = this.#heap
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      const right = heap[child + 1]
      if (right !== undefined && before(right, heap[child] as Pending)) child += 1
      if (!before(heap[child] as Pending, pending)) break
      heap[at] = heap[child] as Pending
      at = child
    }
    heap[at] = pending
  }
}

function before(left: Pending, right: Pending): boolean {
  return left.dueMs < right.dueMs || (left.dueMs === right.dueMs && left.order < right.order)
}
