// One measured child: starts it, reads its JSON lines by their `event`, gives it lines, and makes
// sure that it is gone afterwards. It knows nothing of what the child does.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/** Milliseconds a child may be silent before the comparison gives up on it. */
const SILENCE_LIMIT_MS = 180_000
/** How much of a child's stderr an error sentence quotes, characters. */
const QUOTED_CHARACTERS = 2_000

export class Child {
  readonly #name: string
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  readonly #exited: Promise<unknown>
  #stderr = ''

  private constructor(name: string, child: ChildProcessWithoutNullStreams) {
    this.#name = name
    this.#child = child
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-QUOTED_CHARACTERS)
    })
    child.stdin.on('error', () => {}) // it died; its end of stdout says so
    this.#exited = once(child, 'close').catch(() => {})
  }

  /** Starts `file`; the signal ends it, by force. Rejects when it cannot be started. */
  static async start(
    name: string,
    file: string,
    args: readonly string[],
    { signal }: { signal: AbortSignal },
  ): Promise<Child> {
    signal.throwIfAborted()
    const started = spawn(file, args, { stdio: 'pipe', signal, killSignal: 'SIGKILL' })
    const child = new Child(name, started)
    await once(started, 'spawn')
    started.on('error', () => {}) // the abort; whoever awaits a line gets the reason
    return child
  }

  /** The next line, which must be an object whose `event` is this one. */
  async expect<T>(event: string, { signal }: { signal: AbortSignal }): Promise<T> {
    const given = await this.#within(SILENCE_LIMIT_MS, this.#lines.next(), signal)
    if (given.done === true) {
      await this.#exited
      throw new Error(
        `${this.#name} ended (${this.#child.exitCode ?? this.#child.signalCode}) where its ` +
          `"${event}" line was expected:\n${this.#stderr.trim()}`,
      )
    }
    const line: unknown = parse(given.value)
    if (typeof line !== 'object' || line === null || !('event' in line) || line.event !== event) {
      throw new Error(`${this.#name} said ${given.value}, expected its "${event}" line`)
    }
    return line as T
  }

  // Plain timer and listener: Node 20 may collect a signal of AbortSignal.any() that nobody holds.
  async #within<T>(limitMs: number, line: Promise<T>, signal: AbortSignal): Promise<T> {
    signal.throwIfAborted()
    let stop = () => {}
    let timer: NodeJS.Timeout | undefined
    const ended = new Promise<never>((_resolve, reject) => {
      stop = () => reject(signal.reason)
      signal.addEventListener('abort', stop)
      const silent = () => reject(new Error(`${this.#name} said nothing for ${limitMs / 1e3} s`))
      timer = setTimeout(silent, limitMs)
    })
    try {
      const given = await Promise.race([line, ended])
      signal.throwIfAborted() // the child's end may be seen before the abort that caused it
      return given
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
  }

  say(line: string): void {
    this.#child.stdin.write(`${line}\n`)
  }

  /** Sends a signal; nothing happens when it has ended. */
  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Ends the child if it still runs, and waits until it is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL')
    }
    await this.#exited
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
