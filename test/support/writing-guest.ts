// A whole migration of a guest that never stops writing, and every look that shows whether a write
// was missed.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { expect } from 'vitest'
import {
  type Device,
  GuestMemory,
  type MigrationSourceOptions,
  type RamBlockOptions,
} from '../../src/index.ts'
import { migrateOnce, type Outcome } from './migration.ts'
import { RamStates } from './native-hooks.ts'
import { expectSamePages, fillPages } from './pages.ts'
import { expectNothingLeft, held } from './resources.ts'
import { WriterGuest } from './writer.ts'

const MIB = 1024 * 1024

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

/** The blocks are named `ram`, and hold at least 1 MiB. */
export async function migrateWritingGuest(run: {
  from: RamBlockOptions
  to: RamBlockOptions
  options: Partial<MigrationSourceOptions>
  seed: number
}): Promise<Outcome> {
  const before = held()
  const from = GuestMemory.of([run.from])
  const to = GuestMemory.of([run.to])
  fillPages(from.view('ram'), run.seed)
  to.view('ram').fill(0xee, 0, MIB) // left by somebody else: must not survive
  const guest = new WriterGuest(from.view('ram'), run.seed)
  const found: number[] = []
  using rams = new RamStates()
  try {
    const devices = lastLook(rams, found)
    const outcome = await confinedAfter(guest, 3, () =>
      migrateOnce({
        from,
        to,
        vmm: guest,
        source: { devices, downtimeLimitMs: 50, ...run.options },
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
