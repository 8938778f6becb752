// What the channels of a migration are opened with, as far as a function of the settings says so.

import { availableParallelism } from 'node:os'
import { expect, it } from 'vitest'
import { channelsAtOnce, wantsLargePackets } from '../../src/migrate/channel-setup.ts'

it.each([
  ['copied on loopback', true, 'none', '127.0.0.1', false],
  ['zero-copy on loopback, which copies after all', true, 'none', '127.0.0.1', true],
  ['copied over a network', true, 'none', '192.0.2.1', false],
  ['zero-copy over a network', false, 'none', '192.0.2.1', true],
  ['compressed', false, 'zlib', '127.0.0.1', false],
] as const)('%s: large packets %s', (_name, large, compression, host, zeroCopy) => {
  expect(wantsLargePackets(compression, { host, port: 1 }, { zeroCopy })).toBe(large)
})

it('on this machine as many channels work at a time as it has processors, else all', () => {
  expect(channelsAtOnce({ host: '192.0.2.1', port: 1 })).toBe(255)
  for (const endpoint of [{ host: '127.0.0.1', port: 1 }, { path: '/tmp/somewhere' }]) {
    expect(channelsAtOnce(endpoint)).toBe(availableParallelism())
  }
})
