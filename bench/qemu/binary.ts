// Which QEMU tests and comparisons start, and which version it is, asked from the binary itself.
// It starts nothing but `--version`.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/** The name on PATH, where the environment variable QEMU_BINARY names nothing else. */
const DEFAULT_BINARY = 'qemu-system-x86_64'
const INSTALL = 'apt-get install qemu-system-x86'
const VERSION_LIMIT_MS = 30_000

export interface QemuBinary {
  /** What to execute: a path, or a name on PATH. */
  readonly file: string
  readonly major: number
  readonly minor: number
  readonly micro: number
  /** The first line of `--version`. */
  readonly version: string
}

const asked = new Map<string, Promise<QemuBinary>>()

/** Asked once per binary. Rejects with a sentence that says how to get one. */
export function qemuBinary(): Promise<QemuBinary> {
  const file = process.env.QEMU_BINARY || DEFAULT_BINARY
  let answer = asked.get(file)
  if (answer === undefined) {
    answer = askVersion(file)
    asked.set(file, answer)
  }
  return answer
}

/** Whether its version is at least this one; for tests that depend on it. */
export function isAtLeast(qemu: QemuBinary, major: number, minor = 0): boolean {
  return qemu.major > major || (qemu.major === major && qemu.minor >= minor)
}

async function askVersion(file: string): Promise<QemuBinary> {
  let stdout: string
  try {
    ;({ stdout } = await promisify(execFile)(file, ['--version'], { timeout: VERSION_LIMIT_MS }))
  } catch (cause) {
    const { code, stderr } = cause as { code?: string | number; stderr?: string }
    const why = code === 'ENOENT' ? 'there is no such program' : stderr?.trim() || `${code}`
    throw new Error(
      `${file} --version failed: ${why}; install QEMU ("${INSTALL}"), or name the binary in ` +
        'the environment variable QEMU_BINARY',
      { cause },
    )
  }
  const [line = ''] = stdout.split('\n')
  const found = /^QEMU emulator version (\d+)\.(\d+)\.(\d+)/.exec(line)
  if (!found) {
    throw new Error(`${file} --version said "${line}", expected "QEMU emulator version x.y.z"`)
  }
  const [major = 0, minor = 0, micro = 0] = found.slice(1).map(Number)
  return { file, major, minor, micro, version: line }
}
