// What becomes of a QEMU source whose migration was broken off, after our side of it has ended.
// QEMU 7.2 has a fault of its own there, which is told apart from ours by the connections.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { expect, type TestContext } from 'vitest'
import { isAtLeast, qemuBinary } from '../../../bench/qemu/binary.ts'
import type { QemuGuest } from '../../../bench/qemu/guest.ts'
import { skipUnless } from '../rig.ts'

/** Usual are milliseconds; below the limit of a test, which would not say what was waited for. */
const END_LIMIT_MS = 20_000

/**
 * The migration ended at the source, not completed, and its guest counts on. Call it last, when
 * our side has ended and has closed what it had.
 *
 * QEMU 7.2.22 may never end such a migration: one multifd channel sees its connection fail and
 * ends the other channels, which then do not post the semaphore that the migration thread waits
 * for in its SYNC. The status stays "cancelling" (or "active", when the other end went first), the
 * guest runs on. Measured with `migrate_cancel`: 2 of 68 into ours, 1 of 60 from QEMU to QEMU. That
 * is a skip, with the guest still checked, but only where no connection of the source is left open
 * at the other end: then there is nothing that it could wait for.
 */
export async function expectGuestStays(context: TestContext, source: QemuGuest): Promise<void> {
  const limits = { timeLimitMs: END_LIMIT_MS }
  const ended = await source.waitFor('completed', limits).then(
    () => 'it completed',
    (error: Error) => error.message,
  )
  await source.waitForRunState('running', limits)
  await source.counterBeyond(await source.counter(), limits)
  const stuck = /did not (reach|answer)/.test(ended)
  const known = stuck && !isAtLeast(await qemuBinary(), 8) && openConnections(source.pid) === 0
  const { status } = known ? await source.status() : { status: '' }
  const reason = `${source.version} hangs in "${status}" though all its connections were closed`
  skipUnless(context, known ? reason : undefined)
  // After migrate_cancel it is either, by who notices first.
  expect(ended).toMatch(/the migration ended "(failed|cancelled)"/)
}

/** TCP connections of that program, in whatever network namespace it is, open at both ends. */
export function openConnections(pid: number): number {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? []
      } catch {
        return [] // closed meanwhile
      }
    }),
  )
  const ESTABLISHED = '01'
  return ['tcp', 'tcp6']
    .flatMap((table) => readFileSync(`/proc/${pid}/net/${table}`, 'latin1').split('\n').slice(1))
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , state, , , , , , inode = '']) => state === ESTABLISHED && inodes.has(inode))
    .length
}
