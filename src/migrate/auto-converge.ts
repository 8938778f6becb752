// Slowing the guest down while it writes faster than it is sent: QEMU's rule and QEMU's steps. Pure
// and only the percentage: calling the VMM is the caller's.

import type { ConvergenceSettings } from './convergence-options.ts'

/** QEMU compares what was written and what was sent over periods longer than this. */
const PERIOD_MS = 1000
/** So many periods in a row make a step. */
const PERIODS_PER_STEP = 2

export class AutoConverge {
  #percent = 0
  #periodBeganMs: number | undefined
  #writtenBytes = 0
  #sentBytes = 0
  #highPeriods = 0

  /** Percent of its CPU time that the guest is to lose; never falls. */
  get percent(): number {
    return this.#percent
  }

  roundSent(bytes: number): void {
    this.#sentBytes += bytes
  }

  /** A collect found what the guest wrote since the one before. Whether there is a step to take. */
  collected(writtenBytes: number, nowMs: number, settings: ConvergenceSettings): boolean {
    this.#periodBeganMs ??= nowMs
    this.#writtenBytes += writtenBytes
    if (nowMs - this.#periodBeganMs <= PERIOD_MS) return false
    const limitBytes = (this.#sentBytes * settings.throttleTriggerThreshold) / 100
    this.#highPeriods = this.#writtenBytes > limitBytes ? this.#highPeriods + 1 : 0
    this.#periodBeganMs = nowMs
    this.#writtenBytes = 0
    this.#sentBytes = 0
    if (this.#highPeriods < PERIODS_PER_STEP) return false
    this.#highPeriods = 0
    return this.canRise(settings)
  }

  canRise({ autoConverge, maxCpuThrottle }: ConvergenceSettings): boolean {
    return autoConverge && this.#percent < maxCpuThrottle
  }

  /** Takes the step; the new percentage. */
  rise({ cpuThrottleInitial, cpuThrottleIncrement, maxCpuThrottle }: ConvergenceSettings): number {
    const next = this.#percent === 0 ? cpuThrottleInitial : this.#percent + cpuThrottleIncrement
    this.#percent = Math.max(this.#percent, Math.min(next, maxCpuThrottle))
    return this.#percent
  }
}
