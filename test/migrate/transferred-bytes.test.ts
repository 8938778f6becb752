// What the library says it transferred is what the sockets say: the kernel's tcpi_bytes_acked per
// multifd channel while it is open, and the bytes that the destination read.

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'
import { native } from '../../src/kit/native.ts'
import { idleVmm } from '../support/migration.ts'
import { SendChannels } from '../support/native-hooks.ts'
import { fillPages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'

const MIB = 1024 * 1024
const seed = testSeed()
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

describe('transferredBytes', () => {
  for (const multifdChannels of [1, 4]) {
    for (const zeroCopy of ['off', 'on', 'auto'] as const) {
      // Where io_uring is not to be had this is sendmsg once more.
      const engine = zeroCopy === 'auto' ? 'io-uring' : 'sendmsg'
      it(`is what was acknowledged: ${multifdChannels} channels, zeroCopy ${zeroCopy}`, async () => {
        await using from = GuestMemory.allocate('ram', 16 * MIB)
        await using to = GuestMemory.allocate('ram', 16 * MIB)
        fillPages(from.view('ram'), seed)
        using sending = new SendChannels()
        const acked: number[] = []
        const device = {
          idstr: 'cpu',
          save: () => new Uint8Array(100_000),
          // All RAM is in place: everything was sent, received, and so acknowledged or about to be.
          load: async () => {
            for (const [channelId, { counters }] of sending.made.entries()) {
              // A delayed acknowledgement is at most 40 ms away; data itself is there already.
              acked[channelId] = await sending.ackedBytes(channelId, (counters[0] as number) + 1)
            }
          },
        }
        await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', {
          memory: to,
          devices: [device],
        })
        const source = new MigrationSource({
          memory: from,
          vmm: idleVmm,
          devices: [device],
          multifdChannels,
          engine,
          zeroCopy,
        })
        const migration = source.migrate(destination.uri)
        const result = await migration.result
        const incoming = await destination.completed
        // tcpi_bytes_acked counts the SYN as one byte.
        expect(result.channels.map(({ sentBytes }) => sentBytes + 1)).toEqual(acked)
        expect(incoming.channels.map(({ receivedBytes }) => receivedBytes)).toEqual(
          result.channels.map(({ sentBytes }) => sentBytes),
        )
        const sum = result.channels.reduce((total, { sentBytes }) => total + sentBytes, 0)
        expect(result.multifdBytes).toBe(sum)
        expect(incoming.receivedBytes).toBe(result.transferredBytes)
        expect(destination.receivedBytes).toBe(result.transferredBytes)
        expect(result.transferredBytes).toBeGreaterThan(sum + 100_000)
        // Headers and pages are all there is on a channel.
        for (const { sentBytes, packets, normalPages } of result.channels) {
          expect(sentBytes).toBe(64 + packets * 4096 + normalPages * 4096)
        }
      })
    }
  }

  it('counts the names of counters once: what is read is what native code writes', () => {
    expect(native().sendCounterNames[0]).toBe('sentBytes')
    expect(native().receiveCounterNames[0]).toBe('receivedBytes')
  })
})
