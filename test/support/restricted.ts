// Runs a TypeScript program of the tests under limits that are really lowered (restricted.cc): as
// an ordinary user, with little locked memory, without io_uring. The launcher is built on demand.

import { execFile } from 'node:child_process'
import { mkdir, rename, stat } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { TYPESCRIPT_ARGUMENTS } from './child.ts'

const SOURCE = fileURLToPath(new URL('./restricted.cc', import.meta.url))
const PROGRAM = fileURLToPath(new URL('../../build-test/restricted', import.meta.url))
const COMPILER = process.env.CXX ?? 'g++'
/** How the launcher says that this machine does not let it. */
const EXIT_CANNOT = 77

/** What to take from a program; nothing that is not named changes. */
export interface Restrictions {
  /** RLIMIT_MEMLOCK, soft and hard, bytes. Binds only with `user`. */
  memlockBytes?: number
  /** The ordinary user it runs as; from root only. */
  user?: number
  /** So much of that user's locked memory is taken already, bytes. */
  heldBytes?: number
  /** That user's pipes hold as many pages as they may. */
  pipesAreFull?: boolean
  /** What a seccomp filter answers to these system calls. */
  deny?: readonly {
    calls: 'io_uring' | 'userfaultfd' | 'vmsplice' | 'splice'
    error: 'EPERM' | 'ENOSYS'
  }[]
}

/** How a program ended: a sentence why this machine cannot restrict it, or what it printed. */
export type RestrictedEnd =
  | { cannot: string }
  | { code: number | null; signal: string | null; stdout: string; stderr: string }

let users = 0

/** A user that nobody else runs as: locked memory is counted per user, not per program. */
export function freshUser(): number {
  users += 1
  return 1_000_000 + process.pid * 1000 + users
}

/**
 * Runs `script` with these arguments to its end. Without arguments it must do nothing. Rejects if
 * the launcher cannot be built, or the script not be loaded.
 */
export async function runRestricted(
  restrictions: Restrictions,
  script: URL,
  args: readonly string[],
): Promise<RestrictedEnd> {
  const program = [...TYPESCRIPT_ARGUMENTS, fileURLToPath(script)]
  await Promise.all([buildLauncher(), compileOnce(program)])
  const given = [...launcherOptions(restrictions), '--', process.execPath, ...program, ...args]
  return new Promise((resolve) => {
    const limits = { timeout: 50_000, killSignal: 'SIGKILL', maxBuffer: 2 ** 24 } as const
    const child = execFile(PROGRAM, given, limits, (_error, stdout, stderr) => {
      const { exitCode: code, signalCode: signal } = child
      resolve(code === EXIT_CANNOT ? { cannot: stderr.trim() } : { code, signal, stdout, stderr })
    })
  })
}

function launcherOptions(restrictions: Restrictions): string[] {
  const { memlockBytes, user, heldBytes, pipesAreFull, deny } = restrictions
  return [
    ...(memlockBytes === undefined ? [] : ['--memlock', String(memlockBytes)]),
    ...(user === undefined ? [] : ['--user', String(user)]),
    ...(heldBytes === undefined ? [] : ['--hold', String(heldBytes)]),
    ...(pipesAreFull === true ? ['--pipes'] : []),
    ...(deny ?? []).flatMap(({ calls, error }) => ['--deny', calls, error]),
  ]
}

const compiled = new Map<string, Promise<unknown>>()

// What is compiled is kept below the checkout, where an ordinary user may not write.
function compileOnce(program: string[]): Promise<unknown> {
  const key = program.join('\n')
  const running = compiled.get(key) ?? promisify(execFile)(process.execPath, program)
  compiled.set(key, running)
  return running
}

async function buildLauncher(): Promise<void> {
  const [from, built] = await Promise.all([stat(SOURCE), stat(PROGRAM).catch(() => undefined)])
  if (built !== undefined && built.mtimeMs > from.mtimeMs) return
  await mkdir(fileURLToPath(new URL('.', `file://${PROGRAM}`)), { recursive: true })
  const unfinished = `${PROGRAM}.${process.pid}`
  await promisify(execFile)(COMPILER, ['-O1', '-std=c++20', '-o', unfinished, SOURCE])
  await rename(unfinished, PROGRAM) // another test file may build it at the same time
}
