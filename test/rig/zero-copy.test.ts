// Whole migrations over the veth rig, the one place on a single machine where zero-copy sends are
// really not copied: every engine, what `auto` makes of the path, and each way in which the path
// takes zero-copy away. RAM is equal on both sides after every one of them (migrateOver).

import { afterEach, beforeEach, describe, expect, type TestContext, test, vi } from 'vitest'
import { Rig } from '../../bench/rig.ts'
import type { MigrationResult } from '../../src/index.ts'
import { type NativeAbility, type NativeIoUringAbilities, native } from '../../src/kit/native.ts'
import { limitOptmem, limitRate, rigOrSkip, skipUnless } from '../support/rig.ts'
import { migrateOver, zeroCopyAccount } from '../support/rig-migration.ts'

vi.setConfig({ testTimeout: 120_000 })

const MIB = 2 ** 20
const CHANNELS = 2
const ENGINES = ['sendmsg', 'io-uring'] as const
type Engine = (typeof ENGINES)[number]

let rig: Rig

beforeEach(async (context) => {
  rig = await rigOrSkip(context)
})
afterEach(async () => {
  await rig?.close()
})

/** Skips where this kernel's io_uring cannot do it. */
async function needs(
  context: TestContext,
  ...picks: ((abilities: NativeIoUringAbilities) => NativeAbility)[]
): Promise<void> {
  const abilities = await native().probeIoUring()
  if ('errno' in abilities) return skipUnless(context, abilities.detail)
  for (const pick of picks) {
    const { there, reason } = pick(abilities)
    skipUnless(context, there ? undefined : reason)
  }
}

/** What zero-copy with this engine needs beside the rig. */
async function needsEngine(context: TestContext, engine: Engine): Promise<void> {
  if (engine === 'sendmsg') return
  await needs(
    context,
    ({ sendmsgZeroCopy }) => sendmsgZeroCopy,
    ({ usageReport }) => usageReport,
  )
}

/** One property of every channel. */
function ofChannels<Name extends keyof MigrationResult['channels'][number]>(
  { channels }: MigrationResult,
  name: Name,
): MigrationResult['channels'][number][Name][] {
  return channels.map((channel) => channel[name])
}

const both = <T>(value: T): T[] => Array.from({ length: CHANNELS }, () => value)

describe.each(ENGINES)('%s over a path that does not copy', (engine) => {
  test("with zeroCopy 'on' copies nothing", async (context) => {
    await needsEngine(context, engine)
    const source = { engine, zeroCopy: 'on' } as const
    const result = await migrateOver(rig, { memoryBytes: 256 * MIB, source })
    expect(ofChannels(result, 'engine')).toEqual(both(engine))
    expect(ofChannels(result, 'sendMode')).toEqual(both('zero-copy'))
    expect(ofChannels(result, 'zeroCopyMode')).toEqual(both('fixed'))
    const account = zeroCopyAccount(result)
    expect(account).toMatchObject({ copiedBytes: 0, refusedByOptmem: 0, refusedByMemlock: 0 })
    expect(account.zeroCopyBytes).toBe(account.zeroCopyTriedBytes)
    expect(account.zeroCopyBytes / account.sentBytes).toBeGreaterThan(0.99)
    expect(Math.min(...ofChannels(result, 'notifications'))).toBeGreaterThan(0)
  })

  test("with zeroCopy 'auto' finds out that zero-copy is worth it", async (context) => {
    await needsEngine(context, engine)
    const source = { engine, zeroCopy: 'auto', multifdChannels: 1 } as const
    const result = await migrateOver(rig, { memoryBytes: 512 * MIB, source })
    expect(ofChannels(result, 'engine')).toEqual([engine])
    expect(ofChannels(result, 'zeroCopyMode')).toEqual(['on'])
    const account = zeroCopyAccount(result)
    expect(account.copiedBytes).toBe(0)
    // A probe of 256 KiB, and plain sends to the end of its extent, 16 MiB at most.
    expect(account.zeroCopyBytes / account.sentBytes).toBeGreaterThan(0.95)
    expect(account.notifications).toBeGreaterThan(0)
  })

  test('pins no more than it may, over a slow link', async (context) => {
    await needsEngine(context, engine)
    await limitRate(context, rig, { bitsPerSecond: 1e9 })
    const flushThresholds = { highWaterBytes: MIB, lowWaterBytes: MIB / 2 }
    const source = { engine, zeroCopy: 'on', flushThresholds } as const
    const result = await migrateOver(rig, { memoryBytes: 64 * MIB, source })
    for (const pinned of ofChannels(result, 'unreleasedHighBytes')) {
      expect(pinned).toBeGreaterThan(MIB / 2)
      expect(pinned).toBeLessThanOrEqual(MIB)
    }
    expect(Math.min(...ofChannels(result, 'waitsAtHighWater'))).toBeGreaterThan(0)
    expect(zeroCopyAccount(result).copiedBytes).toBe(0)
  })

  test('is told that everything is copied while somebody listens in', async (context) => {
    await needsEngine(context, engine)
    await using _ = await rig.openPacketSocket()
    const source = { engine, zeroCopy: 'on' } as const
    const account = zeroCopyAccount(await migrateOver(rig, { memoryBytes: 64 * MIB, source }))
    expect(account.zeroCopyBytes).toBe(0)
    expect(account.copiedBytes).toBe(account.zeroCopyTriedBytes)
    expect(account.copiedBytes / account.sentBytes).toBeGreaterThan(0.99)
  })

  test("with zeroCopy 'auto' stops where somebody listens in", async (context) => {
    await needsEngine(context, engine)
    await using _ = await rig.openPacketSocket()
    const source = { engine, zeroCopy: 'auto' } as const
    const result = await migrateOver(rig, { memoryBytes: 256 * MIB, source })
    expect(ofChannels(result, 'zeroCopyMode')).toEqual(both('off'))
    expect(ofChannels(result, 'flushReason')).toEqual(both('copied by the kernel'))
    const account = zeroCopyAccount(result)
    expect(account.zeroCopyBytes).toBe(0)
    expect(account.copiedBytes).toBeGreaterThan(0)
    expect(account.copiedBytes / account.sentBytes).toBeLessThan(0.02)
  })

  test('completes without option memory', async (context) => {
    await needsEngine(context, engine)
    await limitOptmem(context, rig, 0)
    const source = { engine, zeroCopy: 'on' } as const
    const account = zeroCopyAccount(await migrateOver(rig, { memoryBytes: 64 * MIB, source }))
    // No limit on locked memory binds root.
    expect(account).toMatchObject({ copiedBytes: 0, refusedByMemlock: 0 })
    // The notifications of an io_uring take none.
    if (engine === 'io-uring') expect(account.zeroCopyBytes).toBe(account.zeroCopyTriedBytes)
    else expect(account.refusedByOptmem).toBeGreaterThan(0)
  })

  test("with zeroCopy 'auto' does what option memory allows", async (context) => {
    await needsEngine(context, engine)
    await limitOptmem(context, rig, 0)
    const result = await migrateOver(rig, { memoryBytes: 256 * MIB, source: { engine } })
    const account = zeroCopyAccount(result)
    expect(account).toMatchObject({ copiedBytes: 0, refusedByMemlock: 0 })
    if (engine === 'io-uring') {
      expect(ofChannels(result, 'zeroCopyMode')).toEqual(both('on'))
      expect(account.refusedByOptmem).toBe(0)
    } else {
      expect(ofChannels(result, 'zeroCopyMode')).toEqual(both('off'))
      expect(ofChannels(result, 'flushReason')).toEqual(both('option memory'))
      expect(account.refusedByOptmem).toBeGreaterThan(0)
    }
  })

  test('needs option memory for a few notifications only', async (context) => {
    await needsEngine(context, engine)
    await limitOptmem(context, rig, 2000)
    const source = { engine, zeroCopy: 'on' } as const
    const account = zeroCopyAccount(await migrateOver(rig, { memoryBytes: 64 * MIB, source }))
    expect(account).toMatchObject({ copiedBytes: 0, refusedByMemlock: 0 })
    expect(account.zeroCopyBytes / account.sentBytes).toBeGreaterThan(0.95)
  })
})

describe("zeroCopy 'auto' follows a path that changes", () => {
  test('and stops when somebody begins to listen in', async (context) => {
    await limitRate(context, rig, { bitsPerSecond: 1e9 }) // 2 s, of which the probe takes little
    const result = await migrateOver(rig, {
      memoryBytes: 256 * MIB,
      awaitedMode: 'on',
      whenReached: async () => void (await rig.openPacketSocket()),
    })
    expect(ofChannels(result, 'zeroCopyMode')).toEqual(both('off'))
    const account = zeroCopyAccount(result)
    expect(account.zeroCopyBytes).toBeGreaterThan(0)
    expect(account.copiedBytes).toBeGreaterThan(0)
    expect(account.zeroCopyTriedBytes).toBeLessThan(account.sentBytes)
  })

  test('and begins again when nobody listens in any more', async (context) => {
    const listener = await rig.openPacketSocket()
    await limitRate(context, rig, { bitsPerSecond: 3e9 }) // the next probe comes after 1 GiB, 2.9 s
    const result = await migrateOver(rig, {
      memoryBytes: 1280 * MIB,
      source: { multifdChannels: 1 },
      awaitedMode: 'off',
      whenReached: () => Promise.resolve(listener[Symbol.asyncDispose]()),
    })
    expect(ofChannels(result, 'zeroCopyMode')).toEqual(['on'])
    const account = zeroCopyAccount(result)
    expect(account.copiedBytes).toBeGreaterThan(0)
    expect(account.copiedBytes).toBeLessThan(8 * MIB)
    expect(account.zeroCopyBytes).toBeGreaterThan(100 * MIB)
  })
})

describe('guest memory that is never discarded', () => {
  const pieces = ({ fixedSend }: NativeIoUringAbilities) => fixedSend

  test('is registered, and nothing is copied', async (context) => {
    await needs(context, pieces)
    const source = { engine: 'io-uring', zeroCopy: 'on' } as const
    const run = { memoryBytes: 256 * MIB, neverDiscards: true, source }
    const result = await migrateOver(rig, run)
    expect(ofChannels(result, 'sendMode')).toEqual(both('zero-copy-fixed'))
    const account = zeroCopyAccount(result)
    expect(account.copiedBytes).toBe(0)
    expect(account.zeroCopyBytes / account.sentBytes).toBeGreaterThan(0.95)
  })

  test('is registered by default, and sent without a copy', async (context) => {
    await needs(
      context,
      pieces,
      ({ fixedSendmsg }) => fixedSendmsg,
      ({ usageReport }) => usageReport,
    )
    const source = { multifdChannels: 1 }
    const run = { memoryBytes: 512 * MIB, neverDiscards: true, source }
    const result = await migrateOver(rig, run)
    expect(ofChannels(result, 'engine')).toEqual(['io-uring'])
    expect(ofChannels(result, 'sendMode')).toEqual(['zero-copy-fixed'])
    expect(ofChannels(result, 'zeroCopyMode')).toEqual(['on'])
    const account = zeroCopyAccount(result)
    expect(account.copiedBytes).toBe(0)
    expect(account.zeroCopyBytes / account.sentBytes).toBeGreaterThan(0.95)
  })
})

test('guest memory in huge pages is not registered: the default sends by sendmsg', async () => {
  const source = { multifdChannels: 1 }
  const run = { memoryBytes: 256 * MIB, neverDiscards: true, hugePages: true, source }
  const result = await migrateOver(rig, run)
  expect(ofChannels(result, 'engine')).toEqual(['sendmsg'])
  expect(result.engineReason).toMatch(/huge pages|io_uring/)
  expect(zeroCopyAccount(result).copiedBytes).toBe(0)
})

describe('a veth without XDP', () => {
  test('copies, and zeroCopy auto stops', async () => {
    await using plain = await Rig.create({ xdp: false })
    const result = await migrateOver(plain, { memoryBytes: 256 * MIB })
    expect(ofChannels(result, 'zeroCopyMode')).toEqual(both('off'))
    const account = zeroCopyAccount(result)
    expect(account.zeroCopyBytes).toBe(0)
    expect(account.copiedBytes).toBeGreaterThan(0)
    expect(account.copiedBytes / account.sentBytes).toBeLessThan(0.02)
  })
})
