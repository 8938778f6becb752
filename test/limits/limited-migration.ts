// One migration whose source is a program under limits and whose destination is the test itself:
// completes, every block is the same on both sides, and its result comes back for assertions. What
// the machine does not let us lower is a skip that says so.

import { expect, type TestContext } from 'vitest'
import { GuestMemory, MigrationDestination, type MigrationResult } from '../../src/index.ts'
import { testSeed } from '../support/pages.ts'
import { type Restrictions, runRestricted } from '../support/restricted.ts'
import { digests, ramBlocks, type SourceOrder, type SourceReport } from './migrating-source.ts'

const SCRIPT = new URL('./migrating-source.ts', import.meta.url)

export const KIB = 2 ** 10
export const MIB = 2 ** 20
export const CHANNELS = 2

/** What differs between the tests; `order.options` go to the source as they are. */
export interface LimitedRun extends Partial<Omit<SourceOrder, 'uri' | 'seed'>> {
  limits: Restrictions
}

export type ChannelResult = MigrationResult['channels'][number]

/** Resolves when the RAM of both sides was found equal. */
export async function migrateUnderLimits(
  context: TestContext,
  { limits, ...given }: LimitedRun,
): Promise<MigrationResult> {
  const ramBytes = given.ramBytes ?? 32 * MIB
  const seed = testSeed()
  await using memory = GuestMemory.of(ramBlocks(ramBytes))
  await using destination = await MigrationDestination.listen('tcp:127.0.0.1:0', { memory })
  const completed = destination.completed
  completed.catch(() => {}) // what the source says comes first
  const order: SourceOrder = {
    ...given,
    uri: destination.uri,
    ramBytes,
    seed,
    options: { multifdChannels: CHANNELS, ...given.options },
  }
  const end = await runRestricted(limits, SCRIPT, [JSON.stringify(order)])
  if ('cannot' in end) return context.skip(end.cannot)
  if (end.code !== 0) throw new Error(`ended with ${end.code ?? end.signal}: ${end.stderr}`)
  const report = JSON.parse(end.stdout) as SourceReport
  if (report.kind === 'failed') throw new Error(`${report.code}: ${report.sentence}`)
  await completed
  expect(report.sha1).toEqual(digests(memory))
  // The limit did bind.
  if (limits.user !== undefined && limits.memlockBytes !== undefined) {
    expect(report.lockedMemoryLimitBytes).toBe(limits.memlockBytes)
  }
  expect(report.result.channels).toHaveLength(CHANNELS)
  for (const channel of report.result.channels) expectSound(channel)
  return report.result
}

/** What holds of any channel, whatever the kernel answered. */
function expectSound(channel: ChannelResult): void {
  expect(channel.sentBytes).toBeGreaterThan(0)
  expect(channel.zeroCopyBytes + channel.copiedBytes).toBeLessThanOrEqual(channel.sentBytes)
  expect(channel).toMatchObject({ unreleasedBytes: 0, strayNotifications: 0 })
}

/** Sum of one counter over the channels. */
export function total(result: MigrationResult, counter: keyof ChannelResult): number {
  return result.channels.reduce((sum, channel) => sum + Number(channel[counter]), 0)
}
