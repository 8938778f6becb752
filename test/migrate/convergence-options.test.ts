// What the options of the convergence are when unset, and what is refused.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
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

describe('docs/convergence.md', () => {
  const root = join(import.meta.dirname, '../..')
  const text = readFileSync(join(root, 'docs/convergence.md'), 'utf8')
  const rows = [...text.matchAll(/^\| `([\w-]+)` \| (?:`([\w-]+)`)?/gm)]

  it('lists the options with their defaults', () => {
    const listed = rows.flatMap(([, name, value]) => (value === undefined ? [] : [[name, value]]))
    const defaults = Object.entries(checkConvergence({}, false))
    expect(listed).toEqual(defaults.map(([name, value]) => [name, String(value)]))
  })

  it('lists the causes of decisions', () => {
    const types = readFileSync(join(root, 'src/migrate/decision.ts'), 'utf8')
    const union = /type DecisionCause =([\s\S]*?)\n\n/.exec(types)?.[1] ?? ''
    const declared = [...union.matchAll(/'([\w-]+)'/g)].map(([, cause]) => cause)
    const listed = rows.flatMap(([, name, value]) => (value === undefined ? [name] : []))
    expect(declared.length).toBeGreaterThan(0)
    expect(listed).toEqual(declared)
  })
})
