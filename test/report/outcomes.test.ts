// The figures at the top of a report, from the results of each side.

import { expect, test } from 'vitest'
import type { RelayResult } from '../../src/relay/progress.ts'
import {
  outcomeOfMigration,
  outcomeOfReception,
  outcomeOfRelay,
} from '../../src/report/outcomes.ts'
import type { ReceptionResult } from '../../src/snapshot/reception.ts'

const receiver = { channelId: 0, receivedBytes: 5e8, normalPages: 1, zeroPages: 2, syncs: 3 }
const channels = [receiver, { ...receiver, channelId: 1 }].map((channel) => {
  return { ...channel, packets: 9, cpuNanoseconds: 25e7 }
})

test('a migration: CPU time of both sides where it is known, and what was not copied', () => {
  const sent = { sentBytes: 1e9, zeroCopyBytes: 6e8, copiedBytes: 1e8, cpuNanoseconds: 1e9 }
  const result = { status: 'completed', downtimeMs: 12, jsThreadCpuNanoseconds: 5e6 }
  const migration = { ...result, channels: [sent, { ...sent, zeroCopyBytes: 0 }] }
  const given = migration as unknown as Parameters<typeof outcomeOfMigration>[0]
  expect(outcomeOfMigration(given, 0.5)).toMatchObject({
    downtimeMs: 12,
    cpuSeconds: 2.5,
    cpuOf: 'channel threads, both sides',
    uncopiedShare: 0.3,
    triedAndCopiedShare: 0.1,
  })
  expect(outcomeOfMigration(given)).toMatchObject({
    cpuSeconds: 2,
    cpuOf: 'channel threads of this side',
  })
})

test('a reception counts until all was stored, and names its warnings', () => {
  const manifest = { machine: 'pc-q35-7.2', ram: [{ sizeBytes: 2 ** 30 }] }
  const result = {
    ...{ status: 'completed', directory: 'vm1', manifest, warnings: ['look at it'] },
    ...{ receivedBytes: 1e9, storedMs: 500, totalMs: 900, syncs: 4, channels },
  } as unknown as ReceptionResult
  const outcome = outcomeOfReception(result)
  expect(outcome).toMatchObject({
    totalTimeMs: 500,
    throughputBytesPerSecond: 2e9,
    cpuSeconds: 0.5,
    facts: { machine: 'pc-q35-7.2', 'guest RAM, MiB': 1024, 'warning 1': 'look at it' },
  })
  expect(outcome).not.toHaveProperty('uncopiedShare')
})

test('a relay counts what it sent', () => {
  const result = {
    ...{ status: 'completed', machine: 'pc', dialect: undefined, sourceTold: false },
    ...{ receivedBytes: 1e9, sentBytes: 2e9, totalTimeMs: 1000, sourceChannels: channels },
  } as unknown as RelayResult
  expect(outcomeOfRelay(result)).toMatchObject({
    transferredBytes: 2e9,
    throughputBytesPerSecond: 2e9,
    facts: { dialect: 'multifd is off', 'the source was told': 'no' },
  })
})
