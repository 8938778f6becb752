// The comparisons of what the control plane promises, from outside, at sizes that take seconds.
// These are no measurements: what is asserted holds however busy the machine is.
import { describe, expect, test, vi } from 'vitest'
import { passesWithoutTurn } from '../../bench/comparisons/fairness.ts'
import { ratesOf } from '../../bench/comparisons/limit.ts'
import { expectRatio, MIB, report, TIMEOUT_MS } from './run-bench.ts'

vi.setConfig({ testTimeout: TIMEOUT_MS })

describe('control plane', () => {
  test('fairness: RAM and devices that are never done', async () => {
    const { results, ratios } = await report('fairness', '--smoke')
    expectRatio(ratios.worstShareOne, 1)
    expectRatio(ratios.worstShareTwo, 1)
    expect(ratios.passesWithoutTurn.median).toBeLessThanOrEqual(2)
    expect(Object.keys(results.one.shares)).toEqual(['ram', 'device0'])
    expect(Object.keys(results.two.shares)).toEqual(['ram', 'device0', 'device1'])
    const shares = Object.values<number>(results.two.shares)
    expect(shares.reduce((sum, share) => sum + share)).toBeCloseTo(1)
    expect(Math.min(...shares)).toBeGreaterThan(0)
  })

  test('limit: changed while it runs', async () => {
    const { results, ratios } = await report('limit', '--smoke')
    expectRatio(ratios.deviationPercent, 1)
    expect(results.limits).toEqual([32e6, 200e6, 32e6])
    expect(results.deviationPercent).toBe(ratios.deviationPercent.median)
    expect(results.runs[0]).toHaveLength(3)
    for (const { meanPercent } of results.runs[0]) expect(meanPercent).toBeGreaterThan(0)
  })

  test('resume: cut at half of round 0, with two and with four channels', async () => {
    const { results, ratios } = await report('resume', '--smoke')
    for (const [channels, ratio] of [
      ['channels2', ratios.bytesVsUndisturbed2],
      ['channels4', ratios.bytesVsUndisturbed4],
    ]) {
      expectRatio(ratio, 1)
      expect(results[channels].bytesVsUndisturbed).toBe(ratio.median)
      const [undisturbed] = results[channels].undisturbed
      const [cut] = results[channels].cut
      expect(undisturbed).toMatchObject({ flowsAgainMs: null, ramIdentical: true })
      expect(cut).toMatchObject({ flowsAgainMs: expect.any(Number), ramIdentical: true })
      // Nothing that had arrived is sent again: half of it had.
      expect(cut.transferredBytes).toBeGreaterThan(64 * MIB)
      expect(cut.transferredBytes).toBeLessThan(undisturbed.transferredBytes + 32 * MIB)
    }
  })
})

test.each([
  ['in turn', [0, 1, 0, 1, 0], 0],
  ['one was left out once, and twice', [0, 1, 1, 0, 1, 1, 1, 0], 2],
  ['one never came', [0, 0, 0, 0], 3],
])('passes without a turn: %s', (_, turns, passes) => {
  expect(passesWithoutTurn(turns, 2)).toBe(passes)
})

test('rates over every span of at least so long', () => {
  const samples = [0, 5, 10, 15, 25].map((atMs) => [atMs, atMs * atMs] as const)
  expect(ratesOf(samples, 10)).toEqual([10_000, 20_000, 35_000, 40_000])
  expect(ratesOf(samples, 30)).toEqual([])
})
