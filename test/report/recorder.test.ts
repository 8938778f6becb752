// What a recorder keeps of a migration: samples that lose no bytes, rounds, decisions.

import { expect, test } from 'vitest'
import { trace } from '../../src/kit/trace.ts'
import { MigrationRecorder } from '../../src/report/recorder.ts'
import { SampleList, thinned } from '../../src/report/sample-list.ts'
import { RateSampler } from '../../src/report/samples.ts'
import { aSample } from './a-record.ts'

const about = { title: 'T', lead: 'L', over: 'loopback' }
const completed = { status: 'completed' }

test('however many samples come, the kept ones carry the same bytes', () => {
  const list = new SampleList()
  let bytes = 0
  let elapsedMs = 0
  for (let i = 0; i < 5000; i++) {
    const spanMs = 50 + ((i * 7) % 100)
    elapsedMs += spanMs
    const rate = 1e6 * (1 + (i % 13))
    bytes += (rate * spanMs) / 1000
    list.add(aSample(elapsedMs, 2, rate))
  }
  for (const samples of [list.samples, thinned(list.samples, 40)]) {
    let [carried, channel, beforeMs] = [0, 0, 0]
    for (const sample of samples) {
      const seconds = (sample.elapsedMs - beforeMs) / 1000
      carried += sample.bytesPerSecond * seconds
      channel += (sample.series['channel 1'] ?? 0) * seconds
      beforeMs = sample.elapsedMs
    }
    expect(carried / bytes).toBeCloseTo(1, 9)
    expect(channel / bytes).toBeCloseTo(0.5, 9)
    expect(beforeMs).toBe(elapsedMs)
  }
  expect(list.samples.length).toBeLessThanOrEqual(121)
  expect(thinned(list.samples, 40).length).toBeLessThanOrEqual(40)
})

test('rounds, the stop and decisions come from tracing, those of the other side left alone', () => {
  using recorder = new MigrationRecorder(about)
  trace('multifd:state', () => ({ side: 'source', from: 'none', to: 'setup' }))
  trace('multifd:state', () => ({ side: 'destination', from: 'setup', to: 'active' }))
  trace('multifd:round', () => ({ round: 0, dirtyPages: 1000, extents: 1, final: false }))
  trace('multifd:sync', () => ({ side: 'destination', sync: 1 }))
  const begun = recorder.record(completed).rounds
  expect(begun).toMatchObject([{ round: 0, dirtyBytes: 4_096_000, final: false }])
  expect(begun[0]).not.toHaveProperty('tookMs')
  trace('multifd:sync', () => ({ side: 'source', sync: 1 }))
  trace('multifd:round', () => ({ round: 1, dirtyPages: 10, extents: 1, final: false }))
  trace('multifd:sync', () => ({ side: 'source', sync: 2 }))
  trace('multifd:state', () => ({ side: 'source', from: 'active', to: 'device' }))
  trace('multifd:round', () => ({ round: 2, dirtyPages: 1, extents: 1, final: true }))
  trace('multifd:sync', () => ({ side: 'source', sync: 3 }))
  const { rounds, decisions, stoppedMs } = recorder.record(completed)
  expect(rounds.map(({ tookMs }) => typeof tookMs)).toEqual(['number', 'number', 'number'])
  expect(rounds[1]?.dirtyBytesPerSecond).toBeGreaterThan(0)
  expect(rounds[2]).not.toHaveProperty('dirtyBytesPerSecond')
  expect(stoppedMs).toBeGreaterThanOrEqual(rounds[1]?.beganMs ?? Number.NaN)
  expect(decisions.map(({ text }) => text)).toEqual(['status: setup', 'status: device'])
})

test('nothing is recorded once it is disposed of', () => {
  const recorder = new MigrationRecorder(about)
  recorder[Symbol.dispose]()
  trace('multifd:round', () => ({ round: 0, dirtyPages: 1, extents: 1, final: false }))
  expect(recorder.record(completed).rounds).toEqual([])
})

test('of many rounds and decisions the first and the last are kept', () => {
  using recorder = new MigrationRecorder(about)
  const marks = { highWaterBytes: 1, lowWaterBytes: 0, zeroCopyUntilBytes: 0 }
  const off = { ...marks, mode: 'off', reason: 'copied by the kernel' }
  for (let round = 0; round < 1000; round++) {
    trace('multifd:round', () => ({ round, dirtyPages: 1, extents: 1, final: round === 999 }))
    trace('multifd:sync', () => ({ side: 'source', sync: round + 1 }))
    trace('multifd:flush', () => ({ channelId: round, ...off }))
  }
  const { rounds, roundsLeftOut, decisions } = recorder.record(completed)
  expect(rounds.length + roundsLeftOut).toBe(1000)
  expect(rounds.length).toBeLessThan(100)
  expect([rounds[0]?.round, rounds.at(-1)?.round]).toEqual([0, 999])
  expect(rounds.every(({ tookMs }) => tookMs !== undefined)).toBe(true)
  expect(decisions.length).toBeLessThanOrEqual(120)
  expect(decisions.at(-1)?.text).toBe('channel 999: zero-copy off (copied by the kernel)')
})

test('what ends badly keeps what came before, and why', () => {
  using recorder = new MigrationRecorder(about)
  const counts = { receivedBytes: 5e6, ramBytes: 1e9, normalPages: 10, zeroPages: 1 }
  recorder.receiving({
    status: 'receiving',
    round: 1,
    ...counts,
    bytesPerSecond: 1e6,
    elapsedMs: 100,
  })
  const { samples, outcome } = recorder.failed(new Error('the disk is full'), 'failed')
  expect(samples).toMatchObject([{ status: 'receiving', series: { 'all channels': 1e6 } }])
  expect(outcome).toMatchObject({
    status: 'failed',
    reason: 'the disk is full',
    transferredBytes: 5e6,
  })
})

test('a side that counts but gives no rates is sampled by its counters', () => {
  const sampler = new RateSampler()
  const counts = { packets: 0, normalPages: 0, zeroPages: 0, syncs: 0, round: 0 }
  const event = { ...counts, status: 'active', reason: '' } as const
  sampler.relaying({ ...event, elapsedMs: 100, receivedBytes: 1e6, sentBytes: 1e6 })
  const second = sampler.relaying({ ...event, elapsedMs: 200, receivedBytes: 4e6, sentBytes: 3e6 })
  expect(second.series).toEqual({ 'to the destination': 20e6 })
})
