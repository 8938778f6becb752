// Sets up the veth rig of bench/rig.ts for a test, or skips the test with the reason why there can
// be none here.

import type { TestContext } from 'vitest'
import { run } from '../../bench/namespaces.ts'
import { type RateLimit, Rig, type RigOptions } from '../../bench/rig.ts'

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

/** Skips where this kernel has one optmem_max for all namespaces. */
export async function limitOptmem(context: TestContext, rig: Rig, bytes: number): Promise<void> {
  const look = ['sh', '-c', 'test -e /proc/sys/net/core/optmem_max && echo there || true']
  const [file = '', ...args] = rig.source.command(look)
  const there = (await run(file, args)) !== ''
  skipUnless(context, there ? undefined : 'this kernel has no optmem_max per namespace')
  await rig.setOptmemMax(bytes)
}

/** Skips where this kernel has no token bucket. */
export async function limitRate(context: TestContext, rig: Rig, limit: RateLimit): Promise<void> {
  try {
    await rig.limitRate(limit)
  } catch (error) {
    if (!/qdisc kind is unknown/.test(String(error))) throw error
    skipUnless(context, 'this kernel has no token bucket (tc tbf)')
  }
}
