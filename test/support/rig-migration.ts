// One migration over the rig, between two processes inside its namespaces, which ends with equal
// RAM on both sides or rejects.

import { fileURLToPath } from 'node:url'
import { Child } from '../../bench/child.ts'
import type { Rig, RigSide } from '../../bench/rig.ts'
import type { MigrationResult } from '../../src/index.ts'
import { TYPESCRIPT_ARGUMENTS } from './child.ts'
import type { RigSideDone, RigSideOrder, RigSideReached, RigSideReady } from './rig-side.ts'

const LIMIT_MS = 100_000

export interface RigMigration extends Omit<RigSideOrder, 'listen'> {
  /** Called when all channels have reached `awaitedMode`, while the migration runs on. */
  readonly whenReached?: () => Promise<void>
}

/** Rejects with what both sides said when one fails, or when RAM differs afterwards. */
export async function migrateOver(rig: Rig, run: RigMigration): Promise<MigrationResult> {
  const { whenReached, ...order } = run
  const signal = AbortSignal.timeout(LIMIT_MS)
  const listen = `tcp:${rig.destination.address}:0`
  await using destination = await start(rig.destination, { ...order, listen }, signal)
  const { uri } = await destination.expect<RigSideReady>('ready', { signal })
  await using source = await start(rig.source, order, signal)
  await source.expect<RigSideReady>('ready', { signal })
  source.say(uri)
  const sending = async (): Promise<RigSideDone> => {
    if (whenReached !== undefined) {
      await source.expect<RigSideReached>('reached', { signal })
      await whenReached()
    }
    return source.expect<RigSideDone>('done', { signal })
  }
  const receiving = destination.expect<RigSideDone>('done', { signal })
  const [sent, received] = await Promise.allSettled([sending(), receiving])
  if (sent.status === 'rejected' || received.status === 'rejected') {
    const errors = [sent, received].flatMap((side) => ('reason' in side ? [side.reason] : []))
    throw new AggregateError(errors, errors.map(String).join('\n'))
  }
  const { result, sha1 } = sent.value
  if (result === undefined) throw new Error('the source reported no result')
  if (received.value.sha1 !== sha1) throw new Error('RAM of the two sides differs')
  return result
}

const COUNTERS = [
  'sentBytes',
  'zeroCopyTriedBytes',
  'zeroCopyBytes',
  'copiedBytes',
  'notifications',
  'refusedByMemlock',
  'refusedByOptmem',
] as const

/** Sums over the channels. */
export type ZeroCopyAccount = Readonly<Record<(typeof COUNTERS)[number], number>>

export function zeroCopyAccount({ channels }: MigrationResult): ZeroCopyAccount {
  const sums = COUNTERS.map((name) => [name, channels.reduce((sum, one) => sum + one[name], 0)])
  return Object.fromEntries(sums)
}

function start(side: RigSide, order: RigSideOrder, signal: AbortSignal): Promise<Child> {
  const script = fileURLToPath(new URL('./rig-side.ts', import.meta.url))
  const node = [process.execPath, ...TYPESCRIPT_ARGUMENTS, script, JSON.stringify(order)]
  const [file = '', ...args] = side.command(node)
  return Child.start(`the side on ${side.device}`, file, args, { signal })
}
