// Flush control between a policy and a channel: what the channel is told, what is traced, and when
// somebody wants to be asked soon. Policies themselves are tested in test/schedule.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { SendCounters } from '../../src/channel/counters.ts'
import {
  adaptiveFlush,
  type FlushedChannel,
  fixedFlush,
  plainFlush,
} from '../../src/migrate/flush-control.ts'
import type { ChannelMarks } from '../../src/schedule/flush-policy.ts'

const MIB = 1024 * 1024

class FakeChannel implements FlushedChannel {
  readonly channelId: number
  readonly told: ChannelMarks[] = []
  cells: Partial<SendCounters> = {}

  constructor(channelId = 0) {
    this.channelId = channelId
  }
  counter(name: keyof SendCounters): number {
    return this.cells[name] ?? 0
  }
  setWaterMarks(marks: ChannelMarks): void {
    this.told.push(marks)
  }
}

const traced: unknown[] = []
const listener = (payload: unknown): void => void traced.push(payload)
beforeEach(() => {
  traced.length = 0
  subscribe('multifd:flush', listener)
})
afterEach(() => void unsubscribe('multifd:flush', listener))

/** A probe of 1 MiB that the kernel answered. */
function answered(copied: boolean): Partial<SendCounters> {
  const bytes = copied ? { copiedBytes: MIB } : { zeroCopyBytes: MIB }
  return { sentBytes: 16 * MIB, zeroCopyTriedBytes: MIB, ...bytes }
}

describe('adaptive flush control', () => {
  it('opens every channel with a probe, and wants to be asked soon', () => {
    const flush = adaptiveFlush(2, Number.POSITIVE_INFINITY)
    expect(flush.settled).toBe(false)
    expect(flush.marks()).toHaveLength(2)
    for (const marks of flush.marks()) {
      expect(Object.keys(marks).sort()).toEqual([
        'highWaterBytes',
        'lowWaterBytes',
        'zeroCopyUntilBytes',
      ])
      expect(marks.zeroCopyUntilBytes).toBeGreaterThan(0)
      expect(marks.zeroCopyUntilBytes).toBeLessThanOrEqual(MIB)
    }
    expect(flush.report(1)).toMatchObject({ zeroCopyMode: 'probing', flushReason: 'started' })
  })

  it('is off where the budget does not hold the least mark', () => {
    const flush = adaptiveFlush(1, 4096)
    expect(flush.settled).toBe(true)
    expect(flush.marks()).toEqual([{ highWaterBytes: 0, lowWaterBytes: 0, zeroCopyUntilBytes: 0 }])
    expect(flush.report(0)).toMatchObject({ zeroCopyMode: 'off', flushReason: 'locked memory' })
  })

  it('switches a channel off that the kernel copies, tells it and the trace, and is settled', () => {
    const flush = adaptiveFlush(1, Number.POSITIVE_INFINITY)
    const channel = new FakeChannel()
    channel.cells = answered(true)
    flush.extentDone(channel)
    expect(channel.told).toEqual([
      expect.objectContaining({ highWaterBytes: 0, lowWaterBytes: 0, zeroCopyUntilBytes: 0 }),
    ])
    expect(traced).toEqual([
      {
        channelId: 0,
        highWaterBytes: 0,
        lowWaterBytes: 0,
        zeroCopyUntilBytes: 0,
        mode: 'off',
        reason: 'copied by the kernel',
      },
    ])
    expect(flush.report(0).zeroCopyMode).toBe('off')
    expect(flush.settled).toBe(true)
  })

  it('leaves a channel on that is not copied; going on as before is neither told nor traced', () => {
    const flush = adaptiveFlush(1, Number.POSITIVE_INFINITY)
    const channel = new FakeChannel()
    channel.cells = answered(false)
    flush.extentDone(channel)
    expect(flush.report(0)).toMatchObject({ zeroCopyMode: 'on', flushReason: 'probe succeeded' })
    expect(traced).toMatchObject([{ mode: 'on', zeroCopyUntilBytes: Number.POSITIVE_INFINITY }])
    // The outcome of that is not known yet.
    expect(flush.settled).toBe(false)
    channel.cells = { sentBytes: 32 * MIB, zeroCopyTriedBytes: 16 * MIB, zeroCopyBytes: 16 * MIB }
    flush.extentDone(channel)
    expect(channel.told).toHaveLength(1)
    expect(traced).toHaveLength(1)
    expect(flush.settled).toBe(true)
  })

  it('does not wait for the probe of a channel that cannot send without copying', () => {
    const flush = adaptiveFlush(2, Number.POSITIVE_INFINITY)
    flush.channelIsPlain(0)
    expect(flush.settled).toBe(false)
    flush.channelIsPlain(1)
    expect(flush.settled).toBe(true)
  })

  it('decides for each channel by itself', () => {
    const flush = adaptiveFlush(2, Number.POSITIVE_INFINITY)
    const channels = [new FakeChannel(0), new FakeChannel(1)] as const
    channels[0].cells = answered(true)
    channels[1].cells = answered(false)
    for (const channel of channels) flush.extentDone(channel)
    expect([0, 1].map((id) => flush.report(id).zeroCopyMode)).toEqual(['off', 'on'])
  })
})

it('fixed marks stay within the budget and are told once, when the channel is opened', () => {
  const given = [{ highWaterBytes: 4 * MIB, lowWaterBytes: 2 * MIB }]
  const flush = fixedFlush(given, MIB)
  const marks = { highWaterBytes: MIB, lowWaterBytes: MIB / 2 }
  expect(flush.marks()).toEqual([{ ...marks, zeroCopyUntilBytes: Number.POSITIVE_INFINITY }])
  const channel = new FakeChannel()
  channel.cells = answered(true)
  flush.extentDone(channel)
  expect(channel.told).toEqual([])
  expect(traced).toEqual([])
  expect(flush.settled).toBe(true)
  expect(flush.report(0)).toMatchObject({ ...marks, zeroCopyMode: 'fixed' })
})

it('without zero-copy nothing may be unreleased, and the reason is told', () => {
  const flush = plainFlush(1, 'UNIX sockets have no zero-copy')
  flush.extentDone(new FakeChannel())
  expect(flush.settled).toBe(true)
  expect(flush.report(0)).toEqual({
    highWaterBytes: 0,
    lowWaterBytes: 0,
    zeroCopyMode: 'off',
    flushReason: 'UNIX sockets have no zero-copy',
  })
})
