// A peer made of plain sockets: it sends the bytes it is told to and keeps what it gets. It never
// fails by itself: what the other end does to its connections is that end's business.

import { once } from 'node:events'
import { connect, type NetConnectOpts, type Socket } from 'node:net'

export class RawConnection {
  readonly socket: Socket
  readonly #received: Buffer[] = []
  readonly closed: Promise<unknown>
  /** Resolves when the other end closed or reset the connection. */
  readonly gone: Promise<unknown>

  constructor(socket: Socket) {
    this.socket = socket
    socket.on('error', () => {}) // resets are expected
    socket.on('data', (bytes: Buffer) => this.#received.push(bytes))
    this.gone = new Promise((resolve) => socket.once('end', resolve).once('close', resolve))
    this.closed = new Promise((resolve) => socket.once('close', resolve))
  }

  /** Connects to a `tcp:` or `unix:` URI. */
  static async to(uri: string): Promise<RawConnection> {
    const connection = new RawConnection(connect({ ...target(uri), allowHalfOpen: true }))
    await once(connection.socket, 'connect')
    return connection
  }

  get received(): Buffer {
    return Buffer.concat(this.#received)
  }

  send(...parts: Uint8Array[]): this {
    for (const part of parts) if (!this.socket.destroyed) this.socket.write(part)
    return this
  }

  /** Sends what is queued and the end of the stream. */
  end(): this {
    if (!this.socket.destroyed) this.socket.end()
    return this
  }

  async destroy(): Promise<void> {
    this.socket.destroy()
    await this.closed
  }
}

function target(uri: string): NetConnectOpts {
  if (uri.startsWith('unix:')) return { path: uri.slice(5) }
  const [, host = '', port = ''] = /^tcp:(.*):(\d+)$/.exec(uri) ?? []
  return { host, port: Number(port) }
}
