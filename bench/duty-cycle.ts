// A slow receiver: a child that is stopped and let go on, by SIGSTOP and SIGCONT, in a fixed short
// period. It is what a kernel's CPU limit does to a container, without the privileges that one
// needs, and unlike a competing load or a small socket buffer it slows all threads of the child
// alike, whatever else the machine does. The child knows nothing of it.
import type { Child } from './child.ts'

export interface DutyCycle {
  /** Milliseconds of each period in which the child runs. */
  readonly runMs: number
  readonly periodMs: number
}

export class SlowDown implements Disposable {
  readonly #child: Child
  readonly #cycle: DutyCycle
  readonly #startedMs = performance.now()
  #timer: NodeJS.Timeout | undefined
  #stoppedAtMs: number | undefined
  #stoppedMs = 0

  /** Begins with a stop. */
  constructor(child: Child, cycle: DutyCycle) {
    this.#child = child
    this.#cycle = cycle
    this.#stop()
  }

  /** The share of the time so far in which the child could run: timers are late at times. */
  get runningShare(): number {
    const now = performance.now()
    const stoppedMs = this.#stoppedMs + (now - (this.#stoppedAtMs ?? now))
    return 1 - stoppedMs / (now - this.#startedMs)
  }

  /** The child runs on, unhindered. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer)
    this.#goOn()
  }

  #stop(): void {
    this.#child.signal('SIGSTOP')
    this.#stoppedAtMs = performance.now()
    this.#timer = setTimeout(() => this.#run(), this.#cycle.periodMs - this.#cycle.runMs)
  }

  #run(): void {
    this.#goOn()
    this.#timer = setTimeout(() => this.#stop(), this.#cycle.runMs)
  }

  #goOn(): void {
    if (this.#stoppedAtMs === undefined) return
    this.#child.signal('SIGCONT')
    this.#stoppedMs += performance.now() - this.#stoppedAtMs
    this.#stoppedAtMs = undefined
  }
}
