// What the two ends of `multifd bench` say to each other beside the migrations: JSON objects, one
// per line, over a connection of its own. It bounds what a peer may send, and knows nothing of what
// the lines mean.

import { createConnection, type Socket } from 'node:net'
import { formatUri } from '../../channel/uri.ts'
import { deferred } from '../../kit/deferred.ts'
import { MultifdError } from '../../kit/errors.ts'
import type { NativeEndpoint } from '../../kit/native.ts'

/** A line is at most so long, characters. */
const LINE_MAX = 4096
/** An answer that takes longer never comes, milliseconds. */
const ANSWER_LIMIT_MS = 30_000
const CONNECT_LIMIT_MS = 10_000

export type ControlLine = Readonly<Record<string, unknown>>

export class ControlConnection implements Disposable {
  /** Who is at the other end, for errors. */
  readonly peer: string
  readonly #socket: Socket
  readonly #gone = new AbortController()
  #text = ''
  #failure: MultifdError | undefined
  #arrived = deferred()

  constructor(socket: Socket, peer: string) {
    this.peer = peer
    this.#socket = socket
    socket.setNoDelay()
    socket.setEncoding('utf8').on('data', (text: string) => this.#take(text))
    socket.on('error', (cause) => this.#fail('ERR_MULTIFD_CHANNEL', `failed: ${cause.message}`))
    socket.on('close', () => this.#fail('ERR_MULTIFD_PEER_CLOSED', 'closed the connection'))
  }

  /** Rejects with a sentence that says what may be done; with the signal's reason if it fires. */
  static async connect(endpoint: NativeEndpoint, signal: AbortSignal): Promise<ControlConnection> {
    signal.throwIfAborted()
    const { host = '', port = 0 } = endpoint
    const peer = formatUri(endpoint)
    const connected = deferred()
    const socket = createConnection({ host, port }, () => connected.resolve())
    const failed = (why: string, cause?: unknown) => {
      const hint = 'start one there with: multifd bench --server'
      const sentence = `no multifd bench server answers at ${peer} (${why}); ${hint}`
      connected.reject(new MultifdError('ERR_MULTIFD_CHANNEL', sentence, { cause }))
    }
    const timer = setTimeout(() => failed(`${CONNECT_LIMIT_MS / 1e3} s passed`), CONNECT_LIMIT_MS)
    const stop = (): void => connected.reject(signal.reason)
    signal.addEventListener('abort', stop)
    socket.once('error', (error: NodeJS.ErrnoException) =>
      failed(error.code ?? error.message, error),
    )
    try {
      await connected.promise
      return new ControlConnection(socket, peer)
    } catch (error) {
      socket.destroy()
      throw error
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
  }

  /** Fires when nothing more can be said or heard. */
  get gone(): AbortSignal {
    return this.#gone.signal
  }

  say(line: ControlLine): void {
    if (this.#failure === undefined) this.#socket.write(`${JSON.stringify(line)}\n`)
  }

  /** The next line. Rejects when the peer has ended, says no JSON object, or nothing in time. */
  async next(signal: AbortSignal): Promise<ControlLine> {
    const stopped = deferred()
    const stop = (): void => stopped.reject(signal.reason)
    const late = () =>
      this.#fail('ERR_MULTIFD_TIMEOUT', `said nothing for ${ANSWER_LIMIT_MS / 1e3} s`)
    const timer = setTimeout(late, ANSWER_LIMIT_MS)
    signal.addEventListener('abort', stop)
    try {
      for (;;) {
        signal.throwIfAborted()
        const end = this.#text.indexOf('\n')
        if (end >= 0) return this.#parse(end)
        if (this.#failure !== undefined) throw this.#failure
        this.#arrived = deferred()
        await Promise.race([this.#arrived.promise, stopped.promise])
      }
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', stop)
    }
  }

  /** What was said is still sent. */
  [Symbol.dispose](): void {
    this.#socket.destroySoon()
  }

  #take(text: string): void {
    this.#text += text
    if (this.#text.length > LINE_MAX) this.#foreign()
    this.#arrived.resolve()
  }

  #parse(end: number): ControlLine {
    const line = this.#text.slice(0, end)
    this.#text = this.#text.slice(end + 1)
    try {
      const value: unknown = JSON.parse(line)
      if (typeof value === 'object' && value !== null) return value as ControlLine
    } catch {}
    throw this.#foreign()
  }

  #foreign(): MultifdError {
    const error = this.#fail('ERR_MULTIFD_PROTOCOL', 'does not speak as multifd bench does')
    this.#text = ''
    this.#socket.destroy()
    return error
  }

  #fail(
    code:
      | 'ERR_MULTIFD_CHANNEL'
      | 'ERR_MULTIFD_PEER_CLOSED'
      | 'ERR_MULTIFD_TIMEOUT'
      | 'ERR_MULTIFD_PROTOCOL',
    what: string,
  ): MultifdError {
    this.#failure ??= new MultifdError(code, `${this.peer} ${what}`)
    this.#arrived.resolve()
    this.#gone.abort()
    return this.#failure
  }
}

/** A whole number of a line, within a range. */
export function numberOf(line: ControlLine, name: string, max: number): number {
  const { [name]: value } = line
  if (typeof value === 'number' && value >= 0 && value <= max) return value
  throw new MultifdError(
    'ERR_MULTIFD_PROTOCOL',
    `the other end of multifd bench said ${name}: ${JSON.stringify(value)}, expected a number ` +
      `from 0 to ${max}`,
  )
}
