// A QEMU destination made of plain sockets, for tests of a relay: it keeps every byte, answers as a
// QEMU does, and stops, breaks or lies exactly where it is told to. Like QEMU 7.2 it takes the
// first connection for the main channel, whatever comes on it.

import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { MIG_CMD_PING } from '../../src/wire/constants.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import { encodePong, encodeShut } from '../../src/wire/return-path.ts'

export interface DestinationBehaviour {
  /** At an element of the main stream: `silence` suppresses the answer a QEMU would give. */
  at?: (event: MainStreamEvent, destination: RecordingDestination) => 'silence' | undefined
  /** Whether the multifd connections are read; default true. */
  readsChannels?: boolean
}

export class RecordingDestination implements AsyncDisposable {
  readonly uri: string
  readonly sockets: Socket[] = []
  readonly #server: Server
  readonly #behaviour: DestinationBehaviour
  readonly #bytes = new Map<Socket, Buffer[]>()
  readonly #reader = new MainStreamReader()
  readonly #ended = new Set<Socket>()

  private constructor(server: Server, behaviour: DestinationBehaviour) {
    this.#server = server
    this.#behaviour = behaviour
    this.uri = `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`
    server.on('connection', (socket) => this.#connected(socket))
  }

  static async listen(behaviour: DestinationBehaviour = {}): Promise<RecordingDestination> {
    const server = createServer({ allowHalfOpen: true })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new RecordingDestination(server, behaviour)
  }

  /** What came on the first connection. */
  get main(): Buffer {
    return this.#received(this.sockets[0])
  }
  /** What came on the others, in the order of their ids. */
  get channels(): Buffer[] {
    const streams = this.sockets.slice(1).map((socket) => this.#received(socket))
    return streams.sort((a, b) => (a[24] ?? 0) - (b[24] ?? 0))
  }
  get connected(): boolean {
    return this.sockets.length > 0
  }

  answer(bytes: Uint8Array): void {
    this.sockets[0]?.write(bytes)
  }
  /** As a process that ended in order: all it was sent was read. */
  close(): void {
    for (const socket of this.sockets) socket.end()
  }
  /** As a process that was killed, or a network that gave up. */
  reset(): void {
    for (const socket of this.sockets) socket.resetAndDestroy()
  }
  /** Resolves when the relay has ended every connection, in whatever way. */
  async left(): Promise<void> {
    await Promise.all(this.sockets.map((socket) => this.#end(socket)))
  }
  /** The same of the main channel alone; connections that are not read do not see their end. */
  async mainLeft(): Promise<void> {
    for (const socket of this.sockets.slice(0, 1)) await this.#end(socket)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }

  async #end(socket: Socket): Promise<void> {
    if (this.#ended.has(socket) || socket.closed) return
    await new Promise((resolve) => socket.once('end', resolve).once('close', resolve))
  }

  #received(socket: Socket | undefined): Buffer {
    return Buffer.concat((socket && this.#bytes.get(socket)) ?? [])
  }

  #connected(socket: Socket): void {
    const isMain = this.sockets.push(socket) === 1
    const parts: Buffer[] = []
    this.#bytes.set(socket, parts)
    socket.on('error', () => {}) // resets are expected
    socket.on('end', () => {
      this.#ended.add(socket)
      socket.end()
    })
    if (!isMain && this.#behaviour.readsChannels === false) return
    socket.on('data', (bytes: Buffer) => {
      parts.push(bytes)
      if (!isMain) return
      for (const event of this.#reader.push(bytes).events) this.#apply(event)
    })
  }

  #apply(event: MainStreamEvent): void {
    if (this.#behaviour.at?.(event, this) === 'silence') return
    if (event.kind === 'command' && event.command === MIG_CMD_PING) {
      this.answer(encodePong(Buffer.from(event.data).readUInt32BE(0)))
    }
    if (event.kind === 'device-tail-end') this.answer(encodeShut(0))
  }
}
