// Sets up the veth rig of bench/rig.ts for a test, or skips the test with the reason why there can
// be none here.

import type { TestContext } from 'vitest'
import { Rig, type RigOptions } from '../../bench/rig.ts'

/** To be closed by the test: `await using rig = await rigOrSkip(context)`. */
export async function rigOrSkip(context: TestContext, options: RigOptions = {}): Promise<Rig> {
  skipUnless(context, await Rig.unavailable())
  return Rig.create(options)
}

/** Skips the test, and says why where everybody sees it, if there is a reason. */
export function skipUnless(context: TestContext, reason: string | undefined): void {
  if (reason === undefined) return
  console.warn(`SKIPPED: ${context.task.name}: ${reason}`)
  context.skip(reason)
}
