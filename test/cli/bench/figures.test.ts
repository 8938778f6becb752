// What `multifd bench` makes of its migrations.

import { describe, expect, it } from 'vitest'
import {
  bestChannels,
  estimates,
  type Passage,
  resultText,
  speedText,
  trialOf,
} from '../../../src/cli/bench/figures.ts'
import { benchUri } from '../../../src/cli/bench/terms.ts'
import { readEnvironment } from '../../../src/report/environment.ts'

const channel = {
  sentBytes: 1e9,
  zeroCopyBytes: 0.5e9,
  copiedBytes: 0.25e9,
  engine: 'sendmsg',
  engineReason: 'the kernel copies on loopback',
}
const passage = (seconds: number): Passage => ({
  bytes: 2e9,
  seconds,
  sentBytes: 2e9,
  sourceCpuSeconds: 0.2,
  destinationCpuSeconds: 0.4,
  channels: [channel, channel] as unknown as Passage['channels'],
})
const trial = (channels: number, throughputBytesPerSecond: number) => ({
  ...trialOf(channels, [passage(1)]),
  throughputBytesPerSecond,
})

describe('figures', () => {
  it('add up over migrations', () => {
    expect(trialOf(2, [passage(1), passage(3)])).toEqual({
      channels: 2,
      migrations: 2,
      throughputBytesPerSecond: 1e9,
      sourceCpuSecondsPerGb: 0.1,
      destinationCpuSecondsPerGb: 0.2,
      zeroCopyShare: 0.5,
      copiedShare: 0.25,
      engine: 'sendmsg',
      engineReason: 'the kernel copies on loopback',
    })
  })

  it('take more channels only if they gain something', () => {
    expect(bestChannels([trial(1, 100), trial(2, 101), trial(4, 102), trial(8, 90)])).toBe(1)
    expect(bestChannels([trial(1, 50), trial(2, 99), trial(4, 100), trial(8, 100)])).toBe(2)
    expect(bestChannels([trial(1, 10), trial(2, 20), trial(4, 40), trial(8, 80)])).toBe(8)
  })

  it('say how long guests take', () => {
    expect(estimates(2 ** 30)[1]).toEqual({ guestBytes: 16 * 2 ** 30, seconds: 16 })
    const text = resultText({
      ...trial(2, 1.25e9),
      status: 'completed',
      uri: 'tcp:127.0.0.1:1',
      guestBytes: 4096,
      trials: [],
      estimates: estimates(1e7),
      dirtyBytesPerSecondMax: 1.25e9,
      environment: readEnvironment('nothing'),
    })
    expect(text).toContain('1.25 GB/s with 2 channels')
    expect(text).toContain('0.100 s per GB here, 0.200 s per GB there')
    expect(text).toContain('50.0 % not copied, 25.0 % copied after all')
    expect(text).toContain('4 GiB in 7 min, 16 GiB in 29 min, 64 GiB in 1.9 h, 256 GiB in 7.6 h')
    expect(speedText(12_300_000)).toBe('12.3 MB/s')
  })
})

it.each([
  ['host', 'tcp:host:4460'],
  ['10.0.0.2', 'tcp:10.0.0.2:4460'],
  ['host:5000', 'tcp:host:5000'],
  ['fe80::1', 'tcp:[fe80::1]:4460'],
  ['tcp:[::1]:5000', 'tcp:[::1]:5000'],
  ['unix:/tmp/a', 'unix:/tmp/a'],
])('%s is %s', (where, uri) => {
  expect(benchUri(where)).toBe(uri)
})
