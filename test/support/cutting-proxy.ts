// A network path that breaks: forwards connections to a destination in the same process, and cuts
// all of them when told to, or after a number of bytes. New ones are forwarded as before. One of
// them can be made to stand still while the others go on.

import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

/** What the ends see of a cut. */
export type Cut = 'reset' | 'end'

export class CuttingProxy implements AsyncDisposable {
  readonly uri: string
  readonly #server: Server
  readonly #port: number
  readonly #pairs = new Set<[Socket, Socket]>()
  /** All that are not closed yet, cut or not. */
  readonly #sockets = new Set<Socket>()
  #held: [Socket, Socket] | undefined
  #cutAfterBytes = Number.POSITIVE_INFINITY
  #everyBytes = Number.POSITIVE_INFINITY
  #cutHow: Cut = 'reset'
  #forwardedBytes = 0
  #cuts = 0
  /** While it is closed, whoever connects is reset. */
  #closed = false

  private constructor(server: Server, destinationUri: string) {
    this.#server = server
    this.#port = Number(/:(\d+)$/.exec(destinationUri)?.[1])
    this.uri = `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`
    server.on('connection', (socket) => this.#connected(socket))
  }

  static async before(destinationUri: string): Promise<CuttingProxy> {
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new CuttingProxy(server, destinationUri)
  }

  get cuts(): number {
    return this.#cuts
  }

  /** Once, when so many more bytes went from the source to the destination. */
  cutAfter(bytes: number, how: Cut = 'reset'): void {
    this.#cutAfterBytes = this.#forwardedBytes + bytes
    this.#cutHow = how
  }

  /** Again and again. */
  cutEvery(bytes: number): void {
    this.#everyBytes = bytes
    this.cutAfter(bytes)
  }

  cut(how: Cut = 'reset'): void {
    this.#cuts += 1
    this.#cutAfterBytes = this.#forwardedBytes + this.#everyBytes
    for (const socket of [...this.#pairs].flat()) {
      if (how === 'reset') socket.resetAndDestroy()
      else socket.destroy()
    }
    this.#pairs.clear()
  }

  /** The connection that came as the `index`th stands still towards the destination. */
  hold(index: number): void {
    this.#held = [...this.#pairs][index]
    this.#held?.[0].unpipe()
    this.#held?.[0].pause()
  }
  /** What was held goes on. */
  release(): void {
    if (this.#held !== undefined) this.#held[0].pipe(this.#held[1])
  }

  /** Nothing comes through any more, until `open`. */
  close(): void {
    this.#closed = true
    this.cut()
  }
  open(): void {
    this.#closed = false
  }

  /** Nobody listens there any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    const open = [...this.#sockets].filter((socket) => !socket.closed)
    // No reset: of a socket that is being shut down libuv refuses one, and it never closes then.
    for (const socket of open) socket.destroy()
    await Promise.all(open.map((socket) => once(socket, 'close')))
    if (!this.#server.listening) return
    this.#server.close()
    await once(this.#server, 'close')
  }

  #connected(from: Socket): void {
    if (this.#closed) {
      from.resetAndDestroy()
      return
    }
    const to = connect({ host: '127.0.0.1', port: this.#port, allowHalfOpen: true })
    const pair: [Socket, Socket] = [from, to]
    this.#pairs.add(pair)
    for (const socket of pair) {
      this.#sockets.add(socket)
      socket.on('close', () => this.#sockets.delete(socket))
      // An end that is gone is gone for the other one, too.
      socket.on('error', () => {
        this.#pairs.delete(pair)
        for (const each of pair) each.destroy()
      })
    }
    from.on('data', (bytes) => {
      this.#forwardedBytes += bytes.length
      if (this.#forwardedBytes >= this.#cutAfterBytes) this.cut(this.#cutHow)
    })
    from.pipe(to)
    to.pipe(from)
  }
}
