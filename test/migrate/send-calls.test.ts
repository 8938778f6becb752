// A packet's header costs no system call of its own, with zero-copy or without: it travels in one
// sendmsg with the pages behind it. The channels' own counters tell.

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { GuestMemory } from '../../src/index.ts'
import { migrateOnce } from '../support/migration.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

describe('system calls of a channel', () => {
  for (const multifdChannels of [1, 2]) {
    for (const zeroCopy of ['off', 'on'] as const) {
      it(`are no more than its packets: ${multifdChannels} channels, zeroCopy ${zeroCopy}`, async () => {
        await using from = GuestMemory.allocate('ram', 64 * MIB)
        await using to = GuestMemory.allocate('ram', 64 * MIB)
        fillPages(from.view('ram'), seed)
        const { result } = await migrateOnce({ from, to, source: { multifdChannels, zeroCopy } })
        expectSamePages(to.view('ram'), from.view('ram'))
        for (const { packets, sendCalls, sentBytes, normalPages } of result.channels) {
          // Every 16th page is zero: the pages of a packet are several runs of memory beside its
          // header.
          expect(sentBytes).toBe(64 + packets * 4096 + normalPages * 4096)
          expect(packets).toBeGreaterThan(10)
          expect(sendCalls).toBeGreaterThan(0)
          expect(sendCalls).toBeLessThanOrEqual(packets)
        }
      })
    }
  }
})
