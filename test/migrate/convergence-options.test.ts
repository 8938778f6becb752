// What the options of the convergence are when unset, and what is refused.

import { describe, expect, it } from 'vitest'
import { checkConvergence } from '../../src/migrate/convergence-options.ts'

describe('the options', () => {
  it('have QEMU’s defaults', () => {
    expect(checkConvergence({}, false)).toEqual({
      downtimeLimitMs: 300,
      autoConverge: false,
      throttleTriggerThreshold: 50,
      cpuThrottleInitial: 20,
      cpuThrottleIncrement: 10,
      maxCpuThrottle: 99,
      timeLimitMs: 0,
      timeLimitEnd: 'cancel',
    })
  })

  it.each([
    [{ downtimeLimitMs: 3_600_000 }, RangeError, /downtimeLimitMs.* 2000000, got 3600000/],
    [{ throttleTriggerThreshold: 0 }, RangeError, /throttleTriggerThreshold.* from 1 to 100/],
    [{ cpuThrottleInitial: 100 }, RangeError, /cpuThrottleInitial.* from 1 to 99/],
    [{ cpuThrottleIncrement: 0.5 }, RangeError, /cpuThrottleIncrement/],
    [{ maxCpuThrottle: 19 }, RangeError, /maxCpuThrottle.* from 20 to 99, got 19/],
    [{ timeLimitMs: -1 }, RangeError, /timeLimitMs/],
    [{ timeLimitEnd: 'abort' as 'cancel' }, TypeError, /timeLimitEnd.* cancel, switchover/],
    [{ autoConverge: 1 as unknown as boolean }, TypeError, /autoConverge must be true or false/],
    [{ autoConverge: true }, TypeError, /autoConverge .* vmm\.throttle, which is not there/],
  ])('%o is refused by name', (options, kind, sentence) => {
    expect(() => checkConvergence(options, false)).toThrow(kind)
    expect(() => checkConvergence(options, false)).toThrow(sentence)
  })
})
