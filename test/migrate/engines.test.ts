// Both engines with every way of zero-copy over loopback, where the kernel always copies: all pages
// arrive, the counters tell what happened, and whatever was not to be had is a sentence.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { GuestMemory, MigrationDestination, MigrationSource } from '../../src/index.ts'
import { type NativeSendGroup, native } from '../../src/kit/native.ts'
import { filled } from '../support/idle-guest.ts'
import { needsIoUring } from '../support/io-uring.ts'
import { failure, idleVmm, migrateOnce } from '../support/migration.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, type Held, held } from '../support/resources.ts'

const MIB = 1024 * 1024
const seed = testSeed()
const keepsPages = { ...idleVmm, discards: false }
let before: Held
beforeEach(() => {
  before = held()
})
afterEach(() => expectNothingLeft(before))

const ways = [
  { engine: 'sendmsg', zeroCopy: 'auto' },
  { engine: 'io-uring', zeroCopy: 'auto' },
  ...(['sendmsg', 'io-uring', 'auto'] as const).flatMap((engine) =>
    (['off', 'on'] as const).map((zeroCopy) => ({ engine, zeroCopy })),
  ),
] as const
describe('all arrives', () => {
  it.for(ways)('engine $engine, zeroCopy $zeroCopy', async ({ engine, zeroCopy }, context) => {
    const ran = engine === 'auto' ? 'sendmsg' : engine // on loopback
    if (engine === 'io-uring') needsIoUring(context, 'sendmsgZeroCopy')
    await using from = filled(64 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    const traced: { reason: string; channelId: number }[] = []
    const onFlush = (payload: unknown): void => void traced.push(payload as (typeof traced)[number])
    subscribe('multifd:flush', onFlush)
    const { result, progress } = await migrateOnce({ from, to, source: { engine, zeroCopy } })
    unsubscribe('multifd:flush', onFlush)
    expectSamePages(to.view('ram'), from.view('ram'))
    expect(result).toMatchObject({ engine: ran, zeroCopy })
    expect(result.engineReason).toMatch(/\w/)
    expect(result.channels).toHaveLength(2)
    for (const channel of [...result.channels, ...(progress.at(-1)?.channels ?? [])]) {
      expect(channel).toMatchObject({ engine: ran, strayNotifications: 0, zeroCopyBytes: 0 })
      expect(channel).toMatchObject({ unreleasedBytes: 0, engineReason: result.engineReason })
      if (zeroCopy === 'off') {
        expect(channel).toMatchObject({ sendMode: 'plain', zeroCopyMode: 'off' })
        expect(channel).toMatchObject({ zeroCopyTriedBytes: 0, copiedBytes: 0, notifications: 0 })
        expect(channel.flushReason).toBe('zeroCopy is off')
      }
      if (zeroCopy === 'on') {
        expect(channel).toMatchObject({ sendMode: 'zero-copy', zeroCopyMode: 'fixed' })
        expect(channel).toMatchObject({ highWaterBytes: 16 * MIB, lowWaterBytes: 8 * MIB })
        expect(channel.zeroCopyTriedBytes).toBeGreaterThan(0.9 * channel.sentBytes)
      }
      if (zeroCopy === 'auto') {
        // One probe; the kernel copies, and nothing is lost by asking once.
        expect(channel).toMatchObject({ zeroCopyMode: 'off', highWaterBytes: 0, lowWaterBytes: 0 })
        expect(channel.flushReason).toBe('copied by the kernel')
        expect(channel.zeroCopyTriedBytes).toBeLessThan(2.5 * MIB)
      }
      if (zeroCopy !== 'off') expect(channel.copiedBytes).toBeGreaterThan(0)
    }
    const decided = traced.map(({ reason }) => reason)
    const verdicts = decided.filter((reason) => reason === 'copied by the kernel')
    expect(verdicts).toHaveLength(zeroCopy === 'auto' ? 2 : 0)
    expect(decided).not.toContain('steady')
  })
})

const unixUri = () => `unix:${join(tmpdir(), `multifd-test-${process.pid}-engines.sock`)}`

describe('to this machine pages are spliced', () => {
  it.each([
    ['engine auto, over TCP', 'tcp:127.0.0.1:0', 'auto'],
    ['engine auto, over a UNIX socket', unixUri(), 'auto'],
    ['engine splice', 'tcp:127.0.0.1:0', 'splice'],
  ] as const)('%s', async (_name, uri, engine) => {
    await using from = filled(64 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 64 * MIB)
    const { result } = await migrateOnce({ from, to, uri, source: { engine } })
    expectSamePages(to.view('ram'), from.view('ram'))
    expect(result).toMatchObject({ engine: 'splice', zeroCopy: 'auto' })
    for (const channel of result.channels) {
      expect(channel).toMatchObject({ engine: 'splice', sendMode: 'splice', zeroCopyMode: 'fixed' })
      expect(channel).toMatchObject({ copiedBytes: 0, notifications: 0, unreleasedHighBytes: 0 })
      expect(channel).toMatchObject({ highWaterBytes: 0, lowWaterBytes: 0 })
      // All but the headers.
      expect(channel.zeroCopyBytes).toBeGreaterThan(0.99 * channel.sentBytes)
      expect(channel.flushReason).toBe('spliced pages pin no locked memory')
      expect(channel.engineReason).toBe(result.engineReason)
    }
  })

  it('unless they are private copies of the hash tracker', async () => {
    await using from = filled(4 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 4 * MIB)
    const source = { engine: 'splice', dirty: 'hash' } as const
    const { result } = await migrateOnce({ from, to, source })
    expectSamePages(to.view('ram'), from.view('ram'))
    expect(result.engine).toBe('sendmsg')
    expect(result.engineReason).toMatch(/^engine: 'splice' was asked for, but the hash tracker/)
  })
})

describe('where zero-copy can never be', () => {
  it('sendmsg is plain over a UNIX socket, and says why', async () => {
    await using from = filled(4 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 4 * MIB)
    const source = { engine: 'sendmsg' } as const
    const { result } = await migrateOnce({ from, to, uri: unixUri(), source })
    expectSamePages(to.view('ram'), from.view('ram'))
    expect(result.engine).toBe('sendmsg')
    for (const channel of result.channels) {
      expect(channel).toMatchObject({ sendMode: 'plain', zeroCopyMode: 'off' })
      expect(channel.flushReason).toBe('UNIX sockets have no zero-copy')
    }
  })

  it('auto is plain with the hash tracker; on is refused before anybody is connected to', async () => {
    await using from = filled(4 * MIB, seed)
    await using to = GuestMemory.allocate('ram', 4 * MIB)
    const { result } = await migrateOnce({ from, to, source: { dirty: 'hash' } })
    expectSamePages(to.view('ram'), from.view('ram'))
    for (const channel of result.channels) {
      expect(channel).toMatchObject({ sendMode: 'plain', zeroCopyMode: 'off' })
      expect(channel.flushReason).toContain('hash tracker')
    }
    const source = new MigrationSource({
      memory: from,
      vmm: idleVmm,
      dirty: 'hash',
      zeroCopy: 'on',
    })
    const error = await failure(source.migrate('tcp:127.0.0.1:1').result)
    expect(error.code).toBe('ERR_MULTIFD_UNSUPPORTED')
    expect(error.message).toContain("zeroCopy: 'off'")
  })
})

/** What this program has pinned. */
function pinnedBytes(): number {
  const [, kib = '0'] = /^VmPin:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return Number(kib) * 1024
}

/** Has native groups answer as told, until it is disposed of. */
class Groups implements Disposable {
  readonly #original = native().createSendGroup
  readonly asked: string[] = []

  constructor(replaced: Partial<NativeSendGroup> = {}) {
    native().createSendGroup = (...given) => {
      const group = this.#original(...given)
      for (const name of ['probeIoUring', 'registerMemory'] as const) {
        if ('detail' in group) continue
        const call = (replaced[name] ?? group[name]).bind(group)
        const value = () => {
          this.asked.push(name)
          return call()
        }
        Object.defineProperty(group, name, { value })
      }
      return group
    }
  }
  [Symbol.dispose](): void {
    native().createSendGroup = this.#original
  }
}
const refused = async () =>
  ({ code: 'ERR_MULTIFD_UNSUPPORTED', detail: 'it was refused', errno: 0 }) as const

describe('registered memory', () => {
  const sizeBytes = 2 * MIB
  const options = { engine: 'io-uring', zeroCopy: 'on', multifdChannels: 1 } as const

  it('is sent from, and may not be discarded until the migration is over', async (context) => {
    needsIoUring(context, 'fixedSend')
    // Memory in huge pages is not registered: see native/channel/send_group.h.
    await using from = GuestMemory.allocate('ram', sizeBytes, { hugePages: false })
    from.view('ram').fill(1)
    fillPages(from.view('ram'), seed)
    await using to = GuestMemory.allocate('ram', sizeBytes)
    const discards: string[] = []
    const discard = (): void => {
      try {
        from.discard('ram', 0, 4096)
        discards.push('done')
      } catch (error) {
        discards.push((error as { code: string }).code)
      }
    }
    const vmm = { stop: discard, resume: () => {}, discards: false }
    const { result } = await migrateOnce({ from, to, vmm, source: options })
    expectSamePages(to.view('ram'), from.view('ram'))
    expect(result.channels[0]).toMatchObject({ engine: 'io-uring', sendMode: 'zero-copy-fixed' })
    expect(result.channels[0]?.copiedBytes).toBeGreaterThan(0)
    discard()
    expect(discards).toEqual(['ERR_MULTIFD_STATE', 'done'])
  })

  it('is pinned no longer when the migration is over', async (context) => {
    needsIoUring(context, 'fixedSend')
    await using from = GuestMemory.allocate('ram', sizeBytes, { hugePages: false })
    from.view('ram').fill(1)
    await using to = GuestMemory.allocate('ram', sizeBytes)
    const before = pinnedBytes()
    const { result } = await migrateOnce({ from, to, vmm: keepsPages, source: options })
    expect(result.channels[0]?.sendMode).toBe('zero-copy-fixed')
    expect(pinnedBytes()).toBeLessThan(before + sizeBytes)
  })

  it('is not to be had of a VMM that may discard, nor of memory with holes', async (context) => {
    needsIoUring(context, 'sendmsgZeroCopy')
    using groups = new Groups()
    await using from = filled(sizeBytes, seed)
    await using to = GuestMemory.allocate('ram', sizeBytes)
    const first = await migrateOnce({ from, to, source: options })
    expect(first.result.engineReason).toContain('memory is not registered: the VMM may discard')
    from.discard('ram', 0, 4096)
    const second = await migrateOnce({ from, to, vmm: keepsPages, source: options })
    expect(second.result.engineReason).toContain('not all guest memory is populated')
    expect(second.result.channels[0]?.sendMode).toBe('zero-copy')
    expect(groups.asked).toEqual(['probeIoUring', 'probeIoUring'])
    expect(await from.populatedBytes()).toBe(sizeBytes - 4096)
    expectSamePages(to.view('ram'), from.view('ram'))
  })

  it('that the kernel refuses is done without', async (context) => {
    needsIoUring(context, 'fixedSend')
    using _groups = new Groups({ registerMemory: refused })
    await using from = filled(sizeBytes, seed)
    await using to = GuestMemory.allocate('ram', sizeBytes)
    const { result } = await migrateOnce({ from, to, vmm: keepsPages, source: options })
    expect(result.channels[0]).toMatchObject({ engine: 'io-uring', sendMode: 'zero-copy' })
    expect(result.engineReason).toMatch(/not registered: .*it was refused/)
    expectSamePages(to.view('ram'), from.view('ram'))
  })

  /** Slow to register, on a kernel that can everything. */
  function slowGroups(during: () => void): Groups {
    const there = { there: true, reason: '' }
    const probeIoUring = async () => ({
      ...{ ioUring: there, sendZeroCopy: there, sendmsgZeroCopy: there, usageReport: there },
      ...{ fixedSend: there, fixedSendmsg: there, cloneBuffers: there, setupFlags: 0 },
    })
    const registerMemory = async () => {
      for (let turn = 0; turn < 100; turn += 1) await nextTurn()
      during()
      for (let turn = 0; turn < 100; turn += 1) await nextTurn()
      during()
      return refused()
    }
    return new Groups({ registerMemory, probeIoUring })
  }

  it('is registered before anybody is connected to: a destination does not wait long', async () => {
    await using from = filled(sizeBytes, seed)
    await using to = GuestMemory.allocate('ram', sizeBytes)
    await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory: to })
    const statuses = new Set([destination.status])
    using _groups = slowGroups(() => void statuses.add(destination.status))
    const source = new MigrationSource({ memory: from, vmm: keepsPages, ...options })
    await source.migrate(destination.uri).result
    await destination.completed
    expect(statuses.size).toBe(1)
    expect(statuses).not.toContain(destination.status)
  })

  it('being registered when the migration is cancelled is waited for', async () => {
    const aborting = new AbortController()
    const log: string[] = []
    using _groups = slowGroups(() => {
      log.push('registering')
      aborting.abort()
    })
    await using from = filled(sizeBytes, seed)
    const source = new MigrationSource({ memory: from, vmm: keepsPages, ...options })
    const { result } = source.migrate('tcp:127.0.0.1:1', { signal: aborting.signal })
    const error = await failure(result)
    log.push('ended')
    expect(error.code).toBe('ERR_MULTIFD_ABORTED')
    expect(log).toEqual(['registering', 'registering', 'ended'])
  })
})

describe('io_uring', () => {
  it('is not probed for sendmsg, nor for auto on loopback', async () => {
    using groups = new Groups()
    await using from = filled(MIB, seed)
    await using to = GuestMemory.allocate('ram', MIB)
    for (const engine of ['sendmsg', 'auto'] as const) {
      await migrateOnce({ from, to, vmm: keepsPages, source: { engine, zeroCopy: 'on' } })
    }
    expect(groups.asked).toEqual([])
  })

  it('that cannot be probed is done without, and the migration says so', async () => {
    using _groups = new Groups({ probeIoUring: refused })
    await using from = filled(MIB, seed)
    await using to = GuestMemory.allocate('ram', MIB)
    const { result } = await migrateOnce({ from, to, source: { engine: 'io-uring' } })
    expect(result.engine).toBe('sendmsg')
    expect(result.engineReason).toMatch(/'io-uring' was asked for, but .*it was refused/)
    expectSamePages(to.view('ram'), from.view('ram'))
  })
})
