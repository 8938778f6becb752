// Whole migrations inside this process, of a guest that never stops writing: every page must
// arrive, by every tracker, over every kind of memory, with and without zero-copy.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  type Device,
  GuestMemory,
  type MigrationSourceOptions,
  type RamBlockOptions,
} from '../../src/index.ts'
import { migrateOnce, type Outcome } from '../support/migration.ts'
import { RamStates } from '../support/native-hooks.ts'
import { expectSamePages, fillPages, testSeed } from '../support/pages.ts'
import { expectNothingLeft, held } from '../support/resources.ts'
import { wasmMemory } from '../support/wasm-memory.ts'
import { WriterGuest } from '../support/writer.ts'

const MIB = 1024 * 1024
const seed = testSeed()

/** A device whose load looks, with the guest stopped and all sent, whether a write was missed. */
function lastLook(rams: RamStates, found: number[]): Device[] {
  const load = async (): Promise<void> => void found.push(await rams.unsentPages())
  return [{ idstr: 'last-look', save: () => new Uint8Array(0), load }]
}

/** Full speed over all memory for `rounds`, then over a corner of it, so that every run ends. */
async function confinedAfter<T>(
  guest: WriterGuest,
  rounds: number,
  run: () => Promise<T>,
): Promise<T> {
  const onRound = (payload: unknown): void => {
    if ((payload as { round: number }).round >= rounds) guest.confine(256)
  }
  subscribe('multifd:round', onRound)
  try {
    return await run()
  } finally {
    unsubscribe('multifd:round', onRound)
  }
}

async function migrateWritingGuest(
  block: RamBlockOptions,
  into: RamBlockOptions,
  options: Partial<MigrationSourceOptions>,
): Promise<Outcome> {
  const before = held()
  const from = GuestMemory.of([block])
  const to = GuestMemory.of([into])
  fillPages(from.view('ram'), seed)
  to.view('ram').fill(0xee, 0, MIB) // left by somebody else: must not survive
  const guest = new WriterGuest(from.view('ram'), seed)
  const found: number[] = []
  using rams = new RamStates()
  try {
    const devices = lastLook(rams, found)
    const outcome = await confinedAfter(guest, 3, () =>
      migrateOnce({
        from,
        to,
        vmm: guest,
        source: { devices, downtimeLimitMs: 50, ...options },
        destination: { devices },
      }),
    )
    expect(guest.calls).toEqual(['stop'])
    expect(guest.writes).toBeGreaterThan(0)
    expect(found).toEqual([0])
    expect(outcome.result.rounds).toBeGreaterThanOrEqual(2)
    expect(outcome.incoming.receivedBytes).toBe(outcome.result.transferredBytes)
    expectSamePages(to.view('ram'), from.view('ram'))
    return outcome
  } finally {
    guest[Symbol.dispose]()
    await from.close()
    await to.close()
    expectNothingLeft(before)
  }
}

function wasmBlock(sizeBytes: number): RamBlockOptions {
  const memory = wasmMemory(sizeBytes + 65536)
  return { idstr: 'ram', wasmMemory: memory, offsetBytes: 65536, sizeBytes }
}

describe('a guest under a full-speed writer', () => {
  it('arrives whole: 1 GiB of anonymous memory', async () => {
    const block = { idstr: 'ram', sizeBytes: 1024 * MIB }
    const { result } = await migrateWritingGuest(block, block, { multifdChannels: 2 })
    expect(result.normalPages).toBeGreaterThan((1024 * MIB) / 4096 / 2)
  })

  const sizeBytes = 32 * MIB
  const kinds: Record<string, () => RamBlockOptions> = {
    'anonymous memory': () => ({ idstr: 'ram', sizeBytes }),
    'small pages': () => ({ idstr: 'ram', sizeBytes, hugePages: false }),
    memfd: () => ({ idstr: 'ram', memfd: true, sizeBytes }),
    file: () => ({
      idstr: 'ram',
      path: join(tmpdir(), `multifd-test-${process.pid}-${fileNumber++}`),
      sizeBytes,
    }),
    'WebAssembly memory': () => wasmBlock(sizeBytes),
  }
  let fileNumber = 0
  const ways: Partial<MigrationSourceOptions>[] = [
    { dirty: 'userfaultfd', zeroCopy: 'off', multifdChannels: 1 },
    { dirty: 'userfaultfd', zeroCopy: 'on', multifdChannels: 4 },
    { dirty: 'userfaultfd', zeroCopy: 'on', engine: 'io-uring', multifdChannels: 2 },
    { dirty: 'userfaultfd', zeroCopy: 'auto', engine: 'io-uring', multifdChannels: 4 },
    { dirty: 'hash', zeroCopy: 'off', multifdChannels: 4 },
  ]
  for (const [kind, block] of Object.entries(kinds)) {
    for (const way of ways) {
      it(`arrives whole: ${kind}, ${Object.values(way).join(', ')} channels`, async () => {
        const from = block()
        const to = block()
        try {
          const { result } = await migrateWritingGuest(from, to, way)
          expect(result.dirtyTracker).toBe(way.dirty)
          expect(result.zeroCopy).toBe(way.zeroCopy)
          expect(result.channels).toHaveLength(way.multifdChannels as number)
        } finally {
          for (const side of [from, to]) if ('path' in side) rmSync(side.path, { force: true })
        }
      })
    }
  }
})
