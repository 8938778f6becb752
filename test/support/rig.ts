// Sets up the veth rig of bench/rig.ts for a test, or skips the test with the reason why there can
// be none here.

import type { TestContext } from 'vitest'
import { Rig, type RigOptions } from '../../bench/rig.ts'

/** To be closed by whoever asked: `await using rig = await rigOrSkip(context)`. */
export async function rigOrSkip(context: TestContext, options: RigOptions = {}): Promise<Rig> {
  skipUnless(context, await Rig.unavailable())
  return Rig.create(options)
}

const said = new Set<string>()

/** Skips the test if there is a reason, which is printed once per file. */
export function skipUnless(context: TestContext, reason: string | undefined): void {
  if (reason === undefined) return
  if (!said.has(reason)) console.warn(`SKIPPED: ${context.task.name}: ${reason}`)
  said.add(reason)
  context.skip(reason)
}
