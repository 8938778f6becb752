// The QEMU of the tests (bench/qemu), or a visible skip where there is none. In CI, which installs
// one, its absence is a failure.
import type { TestContext } from 'vitest'
import { isAtLeast, type QemuBinary, qemuBinary } from '../../../bench/qemu/binary.ts'
import { skipUnless } from '../rig.ts'

/** The binary; skips the test, or in CI throws, with the command that installs one. */
export async function qemuOrSkip(context: TestContext): Promise<QemuBinary> {
  try {
    return await qemuBinary()
  } catch (error) {
    if (process.env.CI === 'true') throw error
    skipUnless(context, (error as Error).message)
    throw error // not reached
  }
}

/** Skips where the QEMU is older than that. */
export async function qemuFromOrSkip(
  context: TestContext,
  major: number,
  minor = 0,
): Promise<QemuBinary> {
  const qemu = await qemuOrSkip(context)
  const enough = isAtLeast(qemu, major, minor)
  skipUnless(context, enough ? undefined : `needs QEMU ${major}.${minor}, this is ${qemu.version}`)
  return qemu
}
