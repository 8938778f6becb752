// A relay between two QEMUs: the guest goes through it while it runs, with other numbers of
// channels and another compression on either side, and is never lost and never there twice.
import { beforeEach, describe, expect, it } from 'vitest'
import { type MigrationSetup, QemuGuest } from '../../bench/qemu/guest.ts'
import { sameRam } from '../../bench/qemu/transfer.ts'
import type { MultifdError } from '../../src/kit/errors.ts'
import { type Relay, relay } from '../../src/relay/relay.ts'
import type { RelayOptions } from '../../src/relay/relay-options.ts'
import { expectGuestStays } from '../support/qemu/guest-stays.ts'
import { qemuOrSkip } from '../support/qemu/qemu-or-skip.ts'
import { expectNothingLeft, held } from '../support/resources.ts'

const ANYWHERE = 'tcp:127.0.0.1:0'
/** Emulated guests on a busy machine: the limit is there to end a hang. */
const PEER_TIMEOUT_MS = 60_000

beforeEach(async (context) => {
  await qemuOrSkip(context)
  const before = held()
  return () => expectNothingLeft(before)
})

/** The destination listens, the relay too, and the source was told to go. */
async function begin(parts: {
  source: QemuGuest
  destination: QemuGuest
  from: MigrationSetup
  to: MigrationSetup
  options?: RelayOptions
}): Promise<Relay> {
  const { source, destination, from, to } = parts
  await source.enableMultifd(from)
  await destination.enableMultifd({ ...to, returnPath: true })
  const passing = relay(ANYWHERE, await destination.incoming(), {
    multifdChannels: from.multifd === false ? 0 : (from.channels ?? 2),
    toMultifdChannels: to.multifd === false ? 0 : (to.channels ?? 2),
    compression: from.compression ?? 'none',
    toCompression: to.compression ?? 'none',
    peerTimeoutMs: PEER_TIMEOUT_MS,
    ...parts.options,
  })
  passing.result.catch(() => {})
  await source.migrate(await passing.listening)
  return passing
}

describe('a running guest', () => {
  it.each([
    [{ channels: 2 }, { channels: 2 }],
    [{ channels: 1 }, { channels: 4 }],
    [{ channels: 4 }, { channels: 1 }],
    [{ channels: 2 }, { channels: 2, compression: 'zlib' }],
    [
      { channels: 3, compression: 'zlib' },
      { channels: 2, compression: 'none' },
    ],
    [
      { channels: 2, compression: 'zlib' },
      { channels: 1, compression: 'zstd' },
    ],
    [{ multifd: false }, { multifd: false }],
  ] satisfies [MigrationSetup, MigrationSetup][])(
    'goes on behind a relay: %o to %o',
    async (from, to) => {
      const guest = { windowBytes: 4 << 20 }
      await using source = await QemuGuest.start({ name: 'source', guest })
      await using destination = await QemuGuest.start({
        name: 'destination',
        incoming: true,
        guest,
      })
      await source.waitUntilCounting()
      const limited = { ...from, bandwidthBytesPerSecond: 16 << 20, downtimeLimitMs: 1 }
      const passing = await begin({ source, destination, from: limited, to })
      await source.waitForPasses(3)
      await source.setLimits({ downtimeLimitMs: 10_000 })
      const result = await passing.result
      await source.waitFor('completed')
      await destination.waitFor('completed')
      const atSwitchover = await source.counter()
      expect(await source.wrongInWindow()).toBeUndefined()
      await destination.counterBeyond(atSwitchover + (2 * guest.windowBytes) / 4096)
      await destination.stop()
      expect(await destination.wrongInWindow()).toBeUndefined()
      expect(await destination.errors()).toBe(0)
      expect(result.sourceTold).toBe(true)
      if ('multifd' in from) return expect(result.syncs).toBe(0)
      expect(result.round).toBeGreaterThan(2)
      expect(result.sourceChannels).toHaveLength(from.channels)
      expect(result.destinationChannels).toHaveLength('channels' in to ? to.channels : 0)
      for (const { syncs } of [...result.sourceChannels, ...result.destinationChannels]) {
        expect(syncs).toBe(result.syncs)
      }
    },
  )

  it('stops at the destination where the source stopped, its RAM identical', async () => {
    const guest = { windowBytes: 1 << 20 }
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ incoming: true, paused: true, guest })
    await source.waitUntilCounting()
    const passing = await begin({ source, destination, from: {}, to: { channels: 3 } })
    await passing.result
    await source.waitFor('completed')
    await destination.waitFor('completed')
    expect(await destination.counter()).toBe(await source.counter())
    expect(await sameRam(source, destination)).toBe(true)
  })
})

describe('what goes wrong', () => {
  const guest = { windowBytes: 8 << 20 }
  const slow = { bandwidthBytesPerSecond: 1 << 20 }

  it('resumes the guest at the source when the destination dies', async (context) => {
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ incoming: true, guest })
    await source.waitUntilCounting()
    const passing = await begin({ source, destination, from: slow, to: {} })
    await source.waitFor('active')
    for await (const { syncs } of passing) if (syncs > 1) break
    await destination.kill()
    await expect(passing.result).rejects.toMatchObject({ code: 'ERR_MULTIFD_PEER_CLOSED' })
    await expectGuestStays(context, source)
  })

  it('ends the destination when the source dies', async () => {
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ incoming: true, guest })
    const passing = await begin({ source, destination, from: slow, to: {} })
    for await (const { syncs } of passing) if (syncs > 1) break
    await source.kill()
    await expect(passing.result).rejects.toMatchObject({ code: 'ERR_MULTIFD_PEER_CLOSED' })
    expect((await destination.exited).code).toBe(1)
  })

  it('resumes the guest at the source when the relay is told to end', async () => {
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ incoming: true, guest })
    await source.waitUntilCounting()
    const operator = new AbortController()
    const options = { signal: operator.signal }
    const passing = await begin({ source, destination, from: slow, to: {}, options })
    for await (const { syncs } of passing) if (syncs > 1) break
    operator.abort()
    await expect(passing.result).rejects.toMatchObject({ code: 'ERR_MULTIFD_ABORTED' })
    await source.waitForRunState('running')
    await source.counterBeyond(await source.counter())
    expect((await destination.exited).code).toBe(1)
  })

  it.each([
    ['return path', { returnPath: false }, 'migrate_set_capability return-path on'],
    [
      'post-copy',
      { capabilities: { 'postcopy-ram': true } },
      'migrate_set_capability postcopy-ram off',
    ],
    ['more channels', { channels: 3 }, 'migrate_set_parameter multifd-channels 2'],
  ] as const)('names the command that sets the source right: %s', async (_what, from, command) => {
    await using source = await QemuGuest.start({ name: 'source', guest })
    await using destination = await QemuGuest.start({ incoming: true, guest })
    const options = { multifdChannels: 2 }
    const passing = await begin({ source, destination, from, to: {}, options })
    const error = (await passing.result.catch((reason) => reason)) as MultifdError
    expect(error.message).toContain(command)
    await source.waitForRunState('running')
    // Nothing was sent to the destination: it still waits.
    expect(await destination.runState()).toBe('inmigrate')
  })
})
