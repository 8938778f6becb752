// A client of QMP, QEMU's control protocol: JSON lines over a socket. It knows the protocol's
// envelope (greeting, capabilities, ids, events, errors) and no single command's meaning.
import type { Socket } from 'node:net'

/** Milliseconds a command may take unless told otherwise; exists to end a hang. */
const TIME_LIMIT_MS = 30_000
/** Events kept for whoever asks what happened; the oldest go first. */
const EVENTS_KEPT = 1_000
const QUOTED_CHARACTERS = 200

/** What QEMU answered to a command it refused. */
export class QmpError extends Error {
  override readonly name = 'QmpError'
  readonly command: string
  /** QEMU's error class: GenericError, CommandNotFound, DeviceNotFound, ... */
  readonly errorClass: string
  /** QEMU's sentence. */
  readonly desc: string

  constructor(command: string, { class: errorClass, desc }: { class: string; desc: string }) {
    super(`QEMU refused ${command}: ${desc} (${errorClass})`)
    this.command = command
    this.errorClass = errorClass
    this.desc = desc
  }
}

export interface QmpEvent {
  readonly event: string
  readonly data: Record<string, unknown>
  /** When QEMU says it happened, milliseconds of its wall clock. */
  readonly timestampMs: number
}

export interface QmpLimits {
  /** Milliseconds; 30 000 unless given. */
  readonly timeLimitMs?: number
}

export interface QmpOpening extends QmpLimits {
  /** Asked when the connection was lost: a better reason than that, for the errors. */
  readonly whyClosed?: () => Promise<Error>
}

interface Waiting {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: Error) => void
}

/** One line from QEMU; which members it has says what it is. */
interface Line {
  readonly QMP?: unknown
  readonly id?: number
  readonly return?: unknown
  readonly error?: { readonly class: string; readonly desc: string }
  readonly event?: string
  readonly data?: Record<string, unknown>
  readonly timestamp?: { readonly seconds: number; readonly microseconds: number }
}

export class QmpClient {
  readonly #socket: Socket
  /** By id; 0 waits for the greeting. */
  readonly #waiting = new Map<number, Waiting & { readonly command: string }>()
  readonly #listeners = new Set<(event: QmpEvent) => void>()
  #events: QmpEvent[] = []
  #unread = ''
  #nextId = 1
  #ended: Error | undefined

  private constructor(socket: Socket, whyClosed: QmpOpening['whyClosed']) {
    this.#socket = socket
    let reason = new Error('QEMU closed the QMP connection')
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#read(text))
    socket.on('error', (error) => {
      reason = error
    })
    socket.on('close', async () => this.fail((await whyClosed?.()) ?? reason))
  }

  /** Greets and leaves the negotiation; the client owns the connected socket from now on. */
  static async open(socket: Socket, { whyClosed, ...limits }: QmpOpening = {}): Promise<QmpClient> {
    const client = new QmpClient(socket, whyClosed)
    try {
      await client.#answer(0, 'the greeting', limits)
      await client.execute('qmp_capabilities', {}, limits)
    } catch (error) {
      client.close()
      throw error
    }
    return client
  }

  /** What QEMU returned. Rejects with a QmpError when it refuses, or when its time is up. */
  async execute<T = unknown>(
    command: string,
    args: Record<string, unknown> = {},
    limits: QmpLimits = {},
  ): Promise<T> {
    if (this.#ended) throw sentence(command, this.#ended)
    const id = this.#nextId++
    const answer = this.#answer(id, command, limits)
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`)
    return (await answer) as T
  }

  /** A line for the human monitor; what it printed. It has no errors but in that text. */
  hmp(line: string, limits: QmpLimits = {}): Promise<string> {
    return this.execute<string>('human-monitor-command', { 'command-line': line }, limits)
  }

  /** The last events, in order. */
  get events(): readonly QmpEvent[] {
    return this.#events
  }

  /** Calls back on every event from now on; returns how to stop that. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Rejects all that waits, and everything after, with this reason; the first reason wins. */
  fail(reason: Error): void {
    this.#ended ??= reason
    this.#socket.destroy()
    for (const { command, reject } of this.#waiting.values()) {
      reject(sentence(command, this.#ended))
    }
    this.#waiting.clear()
  }

  close(): void {
    this.fail(new Error('the QMP connection was closed here'))
  }

  #answer(id: number, command: string, { timeLimitMs = TIME_LIMIT_MS }: QmpLimits) {
    return new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id) // an answer that comes later has nobody left
        reject(new Error(`QEMU did not answer ${command} within ${timeLimitMs} ms`))
      }, timeLimitMs)
      const ending =
        <V>(settle: (value: V) => void) =>
        (value: V) => {
          clearTimeout(timer)
          settle(value)
        }
      this.#waiting.set(id, { command, resolve: ending(resolve), reject: ending(reject) })
    })
  }

  #read(text: string): void {
    const lines = (this.#unread + text).split('\n')
    this.#unread = lines.pop() ?? ''
    for (const line of lines) {
      if (line.trim() === '') continue
      let parsed: Line | null
      try {
        parsed = JSON.parse(line)
      } catch {
        parsed = null
      }
      if (typeof parsed !== 'object' || parsed === null) {
        const quoted = line.slice(0, QUOTED_CHARACTERS)
        this.fail(new Error(`"${quoted}" came, expected a JSON object of QMP`))
        return
      }
      this.#take(parsed)
    }
  }

  #take(line: Line): void {
    if (line.event !== undefined) {
      this.#tell(line.event, line)
      return
    }
    // QEMU answers without an id only to what it could not parse.
    const id = line.QMP !== undefined ? 0 : (line.id ?? -1)
    const waiting = this.#waiting.get(id)
    if (waiting === undefined) return
    this.#waiting.delete(id)
    if (line.error) waiting.reject(new QmpError(waiting.command, line.error))
    else waiting.resolve(line.return)
  }

  #tell(event: string, { data = {}, timestamp }: Line): void {
    const { seconds = 0, microseconds = 0 } = timestamp ?? {}
    const told = { event, data, timestampMs: seconds * 1e3 + microseconds / 1e3 }
    this.#events = [...this.#events.slice(1 - EVENTS_KEPT), told]
    for (const listener of this.#listeners) listener(told)
  }
}

function sentence(command: string, cause: Error): Error {
  return new Error(`${command} got no answer: ${cause.message}`, { cause })
}
