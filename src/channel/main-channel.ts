// The main channel's socket, on either side: counted writes in order, reads on demand, one error.
// What the bytes mean is src/wire's business.

import { once } from 'node:events'
import { connect, Socket } from 'node:net'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection, NativeEndpoint } from '../kit/native.ts'
import { formatUri } from './uri.ts'

/** The migration is decided when we close: a peer that does not answer costs no more than this. */
const LINGER_MS = 1000

const NOTHING = new Uint8Array(0)

export interface MainChannelListener {
  data(bytes: Uint8Array): void
  /** The peer ended its stream in an orderly way. */
  ended(): void
  /** The connection broke; at most once. */
  failed(error: MultifdError): void
}

/** What those above need of a main channel: tests put something else in its place. */
export type MainStream = Pick<
  MainChannel,
  'write' | 'close' | 'destroy' | 'pause' | 'resume' | 'writtenBytes' | 'readBytes'
>

export class MainChannel {
  readonly #socket: Socket
  #destroyed = false
  /** The end of the peer's stream was read, and it is not known yet what kind of end it was. */
  #inDoubt = false
  /** Resolves when the kernel took what is queued; undefined: nobody waits for that. */
  #drained: Deferred<void> | undefined

  private constructor(socket: Socket, listener: MainChannelListener) {
    this.#socket = socket
    socket.setNoDelay(true)
    socket.on('data', (bytes: Uint8Array) => listener.data(bytes))
    socket.on('end', () => this.#peerEnded(listener))
    socket.on('drain', () => this.#nobodyWaits())
    // A broken connection is reported to the listener; no drain comes any more.
    socket.on('close', () => this.#nobodyWaits())
    socket.on('error', (cause: NodeJS.ErrnoException) => {
      if (this.#destroyed) return
      // A TCP connection that had ended in order says EPIPE, whatever came after that end. A UNIX
      // socket says it of every peer that is gone.
      if (this.#inDoubt && cause.code === 'EPIPE') listener.ended()
      else listener.failed(broken(cause))
    })
  }

  /** The source's end. Rejects with ERR_MULTIFD_CHANNEL, _TIMEOUT or _ABORTED. */
  static async connect(
    endpoint: NativeEndpoint,
    options: { timeoutMs: number; signal: AbortSignal },
    listener: MainChannelListener,
  ): Promise<MainChannel> {
    const { path, host, port } = endpoint
    const socket =
      path === undefined
        ? connect({ host: host ?? '', port: port ?? 0, allowHalfOpen: true })
        : connect({ path, allowHalfOpen: true })
    const timeout = AbortSignal.timeout(options.timeoutMs)
    try {
      await once(socket, 'connect', { signal: AbortSignal.any([options.signal, timeout]) })
    } catch (cause) {
      socket.destroy()
      throw connectError(endpoint, cause, timeout.aborted ? options.timeoutMs : undefined)
    }
    return new MainChannel(socket, listener)
  }

  /** The destination's end: takes the accepted connection over. */
  static adopt(connection: NativeConnection, listener: MainChannelListener): MainChannel {
    const fd = connection.releaseFd()
    return new MainChannel(
      new Socket({ fd, readable: true, writable: true, allowHalfOpen: true }),
      listener,
    )
  }

  /** Queues the bytes; resolves when the kernel took what was queued, if that was much. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#socket.write(bytes) || this.#socket.destroyed) return
    this.#drained ??= deferred()
    await this.#drained.promise
  }

  /** Bytes the kernel took, and bytes it gave. */
  get writtenBytes(): number {
    return this.#socket.bytesWritten - this.#socket.writableLength
  }
  get readBytes(): number {
    return this.#socket.bytesRead
  }

  pause(): void {
    this.#socket.pause()
  }
  resume(): void {
    this.#socket.resume()
  }

  /**
   * Sends what is queued and our end of stream, and resolves when the socket is closed. Whoever has
   * the peer's last word need not wait for its end of stream, which is waited for a second at most.
   */
  async close({ awaitPeer = true } = {}): Promise<void> {
    if (this.#socket.destroyed) return
    const timer = setTimeout(() => this.destroy(), LINGER_MS)
    const closed = once(this.#socket, 'close').catch(() => {})
    this.#socket.end(() => {
      if (this.#socket.readableEnded || !awaitPeer) this.destroy()
    })
    this.#socket.resume()
    this.#socket.once('end', () => this.destroy())
    await closed
    clearTimeout(timer)
  }

  /**
   * libuv reports a reset that arrives together with data as the end of the stream. Who owns the
   * guest may hang on the difference, and the kernel still knows it: a write of nothing to a
   * connection that was reset fails. While bytes of ours are queued there is no need to know, as
   * the peer cannot have everything.
   */
  #peerEnded(listener: MainChannelListener): void {
    if (this.#socket.writableEnded || this.#socket.writableLength > 0) {
      listener.ended()
      return
    }
    this.#inDoubt = true
    this.#socket.write(NOTHING, (error) => {
      if (error) return // the socket's error says it
      this.#inDoubt = false
      if (!this.#destroyed) listener.ended()
    })
  }

  #nobodyWaits(): void {
    this.#drained?.resolve()
    this.#drained = undefined
  }

  /** Closes at once. */
  destroy(): void {
    this.#destroyed = true
    this.#socket.destroy()
  }
}

function broken(cause: NodeJS.ErrnoException): MultifdError {
  const details = {
    cause,
    ...(cause.syscall === undefined ? {} : { syscall: cause.syscall }),
    ...(cause.code === undefined ? {} : { errno: cause.code }),
  }
  return new MultifdError(
    'ERR_MULTIFD_PEER_CLOSED',
    `the main channel broke (${cause.code ?? cause.message}): look for the reason at the peer`,
    details,
  )
}

function connectError(
  endpoint: NativeEndpoint,
  cause: unknown,
  timeoutMs: number | undefined,
): MultifdError {
  const to = formatUri(endpoint)
  if (timeoutMs !== undefined) {
    return new MultifdError(
      'ERR_MULTIFD_TIMEOUT',
      `connecting to ${to} took longer than ${timeoutMs} ms: is a destination listening there?`,
    )
  }
  const { code = 'unknown', syscall } = cause as NodeJS.ErrnoException
  return new MultifdError(
    'ERR_MULTIFD_CHANNEL',
    `connecting to ${to} failed (${code}): is a destination listening there?`,
    { cause, errno: code, ...(syscall === undefined ? {} : { syscall }) },
  )
}
