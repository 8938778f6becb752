// The comparisons that vary one knob each, from outside, at sizes that take seconds. These are no
// measurements: they only show that each runs to its end, turns its knob, and keeps its names.
import { describe, expect, test, vi } from 'vitest'
import { bench, expectRatio, MIB, report, TIMEOUT_MS } from './run-bench.ts'

vi.setConfig({ testTimeout: TIMEOUT_MS })

describe('knobs', () => {
  test('channels: one to sixteen', async () => {
    const { results, ratios } = await report('channels', '--smoke')
    for (const name of ['channels2Vs1', 'channels8Vs2', 'channels16Vs2']) {
      expectRatio(ratios[name], 1)
    }
    for (const [name, count] of Object.entries({ one: 1, two: 2, eight: 8, sixteen: 16 })) {
      expect(results[name][0].source.migration.channels).toHaveLength(count)
    }
  })

  test('zero-pages: none, half, all', async () => {
    const { results, ratios } = await report('zero-pages', '--smoke')
    expectRatio(ratios.zeroScanVsReadBandwidth, 1)
    const pages = (64 * MIB) / 4096
    const zero = (name: string) => results[name][0].source.migration.zeroPages
    expect(zero('none')).toBe(0)
    expect(zero('half') / pages).toBeCloseTo(0.5, 2)
    expect(zero('all')).toBe(pages)
    expect(results.readBytesPerSecond[0]).toBeGreaterThan(0)
  })

  test('dirty-rate: a guest that writes takes another round', async () => {
    const { results, ratios } = await report('dirty-rate', '--smoke', '--downtime-limit', '1')
    expectRatio(ratios.time800VsIdle, 1)
    const [idle] = results.idle
    const [busy] = results.rate800
    expect(idle.source.written).toBe(null)
    expect(busy.source.written.bytesPerSecond).toBeGreaterThan(0)
    const { normalPages } = busy.source.migration
    expect(normalPages).toBeGreaterThan(idle.source.migration.normalPages)
    expect(results.medians.rate800.downtimeMs).toBe(busy.source.migration.downtimeMs)
  })

  test('scaling: planning a round up to 1 TiB, and the fixed cost', async () => {
    const { results, ratios } = await report('scaling', '--smoke')
    expectRatio(ratios.planMs, 1)
    expectRatio(ratios.idleMs, 1)
    expect(results.planMs).toBe(ratios.planMs.median)
    const [{ source }] = results.size1TiB
    expect(source.planMs).toHaveLength(7)
    // One page of a thousand, in each of eight rounds; none is there, so all are zero pages.
    expect(source.migration.zeroPages).toBeGreaterThan(8 * 268_000)
    // 1 MiB of content, and what was marked of it.
    expect(source.migration.normalPages).toBeGreaterThanOrEqual(256)
    expect(source.migration.normalPages).toBeLessThan(256 + 16)
  })

  test('compression: less on the wire, the same guest', async () => {
    const { results, ratios, skipped } = await report('compression', '--smoke')
    expectRatio(ratios.zlibVsNoneMixed, 1)
    expect(ratios.zlibWireShareMixed.median).toBeLessThan(0.8)
    const left = skipped.map(({ what }: { what: string }) => what)
    if (!left.includes('zstd')) expect(ratios.zstdWireShareMixed.median).toBeLessThan(0.8)
    expect(results.mixed.none[0].source.migration.compression).toBe('none')
  })

  test('single-vs-multi: a guest that rewrites all, with QEMU beside it', async () => {
    const { results, ratios, skipped } = await report('single-vs-multi', '--smoke')
    expectRatio(ratios.multiVsSingle, 1)
    if (skipped.length > 0) return expect(skipped[0].what).toBe('QEMU')
    expectRatio(ratios.multiVsQemuSingle, 1)
    expectRatio(ratios.qemuMultiVsSingle, 1)
    for (const { guestBytesPerSecond } of [...results.qemuSingle, ...results.qemuMulti]) {
      expect(guestBytesPerSecond).toBeGreaterThan(0)
    }
  })

  test('downtime: the v86 guest and a native one', async () => {
    const { results, ratios } = await report('downtime', '--smoke')
    expectRatio(ratios.v86DowntimeMs, 1)
    expectRatio(ratios.nativeDowntimeMs, 1)
    expect(results.v86.downtimeMs).toBe(ratios.v86DowntimeMs.median)
    expect(results.v86.runs[0].ramIdentical).toBe(true)
    const { stopMs, ...afterStop } = results.native.downtimeParts
    expect(stopMs).toBeGreaterThan(0)
    expect(Object.keys(afterStop)).toEqual(['saveMs', 'collectMs', 'roundMs', 'loadMs', 'resumeMs'])
    const sumMs = Object.values<number>(afterStop).reduce((sum, ms) => sum + ms, 0)
    expect(sumMs).toBeLessThanOrEqual(results.native.downtimeMs)
    expect(results.v86.downtimeParts.loadMs).toBeGreaterThan(0)
    expect(results.native.runs[0].source.written.bytesPerSecond).toBeGreaterThan(0)
  })
})

test('without a name, the comparisons are listed with what they ask and how long they take', async () => {
  const { code, stdout } = await bench()
  expect(code).toBe(0)
  expect(stdout).toMatch(/ceiling +\d+ min {2}how close .*\?/)
  expect(stdout).toMatch(/all +\d+ min/)
})
