// What this kernel's io_uring can do, asked once per test file; a test of what is not there is
// skipped with the kernel's reason.

import type { TestContext } from 'vitest'
import { type NativeIoUringAbilities, native } from '../../src/kit/native.ts'

type Ability = Exclude<keyof NativeIoUringAbilities, 'setupFlags'>

const probed = await native().probeIoUring()

/** Skips the test unless the ability is there. */
export function needsIoUring(context: TestContext, ability: Ability): void {
  if ('errno' in probed) context.skip(probed.detail)
  const { there, reason } = probed[ability]
  if (!there) context.skip(reason)
}
