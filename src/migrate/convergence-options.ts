// The options that decide when the guest is stopped, with QEMU's names in camel case, and their
// check. What they lead to is in convergence.ts.

import { oneOf, optionalBoolean, wholeNumber } from '../kit/options.ts'

export type TimeLimitEnd = 'cancel' | 'switchover'

export interface ConvergenceSettings {
  /** The longest predicted stop that is accepted, milliseconds; 0..2 000 000, default 300. */
  downtimeLimitMs: number
  /** Slows the guest down while it writes faster than it is sent; default false. */
  autoConverge: boolean
  /**
   * What the guest writes in more than a second, in percent of what is sent in that time, above
   * which it is slowed down; 1..100, default 50.
   */
  throttleTriggerThreshold: number
  /** The first step, percent of the guest's CPU time; 1..99, default 20. */
  cpuThrottleInitial: number
  /** Each further step, percentage points; 1..99, default 10. */
  cpuThrottleIncrement: number
  /** The last step, percent; cpuThrottleInitial..99, default 99. */
  maxCpuThrottle: number
  /** From the beginning of round 0, milliseconds; up to 30 days, default 0, which is none. */
  timeLimitMs: number
  /** What happens then; default `cancel`. */
  timeLimitEnd: TimeLimitEnd
}

export type ConvergenceOptions = Partial<ConvergenceSettings>

export const CONVERGENCE_NAMES: readonly (keyof ConvergenceSettings)[] = [
  'downtimeLimitMs',
  'autoConverge',
  'throttleTriggerThreshold',
  'cpuThrottleInitial',
  'cpuThrottleIncrement',
  'maxCpuThrottle',
  'timeLimitMs',
  'timeLimitEnd',
]

/** QEMU's largest downtime-limit. */
const DOWNTIME_LIMIT_MS_MAX = 2_000_000
const TIME_LIMIT_MS_MAX = 30 * 24 * 60 * 60 * 1000
const TIME_LIMIT_ENDS: readonly TimeLimitEnd[] = ['cancel', 'switchover']

/**
 * @param canThrottle The VMM has a `throttle` function.
 * @throws TypeError or RangeError naming the option and what it got.
 */
export function checkConvergence(
  options: ConvergenceOptions,
  canThrottle: boolean,
): ConvergenceSettings {
  const autoConverge = optionalBoolean('autoConverge', options.autoConverge)
  if (autoConverge && !canThrottle) {
    throw new TypeError('autoConverge slows the guest down by vmm.throttle, which is not there')
  }
  const percent = (name: keyof ConvergenceOptions, unset: number, min: number, max: number) =>
    wholeNumber(name, options[name] ?? unset, min, max)
  const cpuThrottleInitial = percent('cpuThrottleInitial', 20, 1, 99)
  return {
    downtimeLimitMs: wholeNumber(
      'downtimeLimitMs',
      options.downtimeLimitMs ?? 300,
      0,
      DOWNTIME_LIMIT_MS_MAX,
    ),
    autoConverge,
    throttleTriggerThreshold: percent('throttleTriggerThreshold', 50, 1, 100),
    cpuThrottleInitial,
    cpuThrottleIncrement: percent('cpuThrottleIncrement', 10, 1, 99),
    maxCpuThrottle: percent('maxCpuThrottle', 99, cpuThrottleInitial, 99),
    timeLimitMs: wholeNumber('timeLimitMs', options.timeLimitMs ?? 0, 0, TIME_LIMIT_MS_MAX),
    timeLimitEnd: oneOf('timeLimitEnd', options.timeLimitEnd ?? 'cancel', TIME_LIMIT_ENDS),
  }
}
