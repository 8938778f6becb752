// A pair of network namespaces with a name of their own, and the certainty that they go: when they
// are removed, when this process exits or is interrupted, and, should it be killed outright, when
// the next pair is made. It knows nothing of what is put into them.
import { execFile, execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'

// multifd-<pid>-<when that process started>-<random>-<a or b>: a process id alone is used again.
const NAME = /^multifd-(\d+)-(\d+)-[0-9a-f]+-[ab]$/
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

const living = new Set<NamespacePair>()

/** `ip` or `tc` with these arguments; its output. Rejects with what it said, in one sentence. */
export async function run(command: string, args: readonly string[]): Promise<string> {
  try {
    return (await promisify(execFile)(command, args)).stdout
  } catch (cause) {
    const { code, stderr } = cause as { code?: string | number; stderr?: string }
    const why =
      code === 'ENOENT'
        ? 'there is no such program; it comes with the package iproute2'
        : stderr?.trim() || `exit code ${code}`
    throw new Error(`${command} ${args.join(' ')} failed: ${why}`, { cause })
  }
}

export class NamespacePair {
  /** Names for `ip netns`. */
  readonly a: string
  readonly b: string
  #removed: Promise<void> | undefined

  private constructor() {
    const random = randomBytes(4).toString('hex')
    const name = `multifd-${process.pid}-${startedAt(process.pid)}-${random}`
    this.a = `${name}-a`
    this.b = `${name}-b`
  }

  /** Adds both, after it removed those whose owners died without doing so. */
  static async add(): Promise<NamespacePair> {
    await removeStale()
    const pair = new NamespacePair()
    if (living.size === 0) watchExit()
    living.add(pair)
    try {
      await run('ip', ['netns', 'add', pair.a])
      await run('ip', ['netns', 'add', pair.b])
    } catch (error) {
      await pair.remove()
      throw error
    }
    return pair
  }

  /** Removes both, with every device in them. */
  remove(): Promise<void> {
    this.#removed ??= this.#remove()
    return this.#removed
  }

  async #remove(): Promise<void> {
    for (const name of [this.a, this.b]) await run('ip', ['netns', 'del', name]).catch(() => {})
    living.delete(this)
    if (living.size === 0) unwatchExit()
    const left = (await listNamespaces()).filter((name) => name === this.a || name === this.b)
    if (left.length > 0) throw new Error(`removing ${left.join(' and ')} failed`)
  }
}

/** The names `ip netns` knows. */
export async function listNamespaces(): Promise<string[]> {
  const lines = (await run('ip', ['netns', 'list'])).split('\n')
  return lines.flatMap((line) => line.split(' ')[0] || [])
}

async function removeStale(): Promise<void> {
  for (const name of await listNamespaces()) {
    const [, pid, started] = NAME.exec(name) ?? []
    if (pid === undefined || startedAt(Number(pid)) === started) continue
    await run('ip', ['netns', 'del', name]).catch(() => {}) // somebody else was faster
  }
}

// Clock ticks from boot to the start of the process (field 22 of its stat; the name in field 2 may
// hold anything); undefined when there is none.
function startedAt(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}

function watchExit(): void {
  process.on('exit', removeAllNow)
  for (const signal of SIGNALS) process.on(signal, onSignal)
}

function unwatchExit(): void {
  process.off('exit', removeAllNow)
  for (const signal of SIGNALS) process.off(signal, onSignal)
}

// Nothing asynchronous happens any more when this is called.
function removeAllNow(): void {
  for (const pair of living) {
    for (const name of [pair.a, pair.b]) {
      try {
        execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' })
      } catch {
        // It was removed, or never added.
      }
    }
  }
  living.clear()
}

// Listening to a signal keeps it from ending the process. Whoever listens besides us has plans for
// that, which come to an exit; where nobody does, the signal does what it would have done.
function onSignal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1) return
  removeAllNow()
  unwatchExit()
  process.kill(process.pid, signal)
}
