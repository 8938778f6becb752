// The checks of what callers hand in.

import { describe, expect, it } from 'vitest'
import { oneOf, refuseUnknown, requireFunction, wholeNumber } from '../../src/kit/options.ts'

describe('options', () => {
  it('that nobody knows are refused by name, with those that are known', () => {
    expect(() => refuseUnknown('migrate', { signal: 1, singal: 2 }, ['signal'])).toThrow(
      new TypeError('migrate has no option "singal"; it knows signal'),
    )
    expect(() => refuseUnknown('migrate', { signal: undefined }, ['signal'])).not.toThrow()
  })

  it('that are numbers must be whole and in range', () => {
    expect(wholeNumber('n', 1, 1, 3)).toBe(1)
    expect(wholeNumber('n', 3, 1, 3)).toBe(3)
    for (const bad of [0, 4, 1.5, Number.NaN, Number.POSITIVE_INFINITY, '2', null, undefined, 2n]) {
      expect(() => wholeNumber('n', bad, 1, 3), String(bad)).toThrow(RangeError)
      expect(() => wholeNumber('n', bad, 1, 3)).toThrow(/^n must be a whole number from 1 to 3/)
    }
  })

  it('that are one of a few say which', () => {
    expect(oneOf('zeroCopy', 'on', ['off', 'on'])).toBe('on')
    expect(() => oneOf('zeroCopy', 'yes', ['off', 'on'])).toThrow(/zeroCopy must be one of off, on/)
  })

  it('that are functions must be', () => {
    expect(() => requireFunction('vmm.stop', () => {})).not.toThrow()
    expect(() => requireFunction('vmm.stop', 'stop')).toThrow(/vmm.stop must be a function, got/)
  })
})
