// A destination made of plain sockets, for tests of a source: it answers, stalls, falls silent or
// breaks exactly where it is told to. Pages are thrown away.

import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer, type Server, type Socket } from 'node:net'
import {
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PING,
  QEMU_VM_FILE_MAGIC,
} from '../../src/wire/constants.ts'
import { OWN_COMMAND_COMMIT } from '../../src/wire/dialect.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import { encodePong, encodeShut, encodeSwitchoverAck } from '../../src/wire/return-path.ts'

export interface Behaviour {
  /**
   * What happens at an event of the main stream; by default PINGs are answered, the end with ready.
   */
  at?: (event: MainStreamEvent, peer: RawDestination) => 'answer' | 'silence'
  /** Whether anything is read from the multifd channels; default true. */
  readsChannels?: boolean
  /** Whether anything is read at all; default true. */
  reads?: boolean
}

export class RawDestination implements AsyncDisposable {
  readonly uri: string
  readonly channels: Socket[] = []
  /** Kinds of main-stream events, in order. */
  readonly seen: string[] = []
  main: Socket | undefined
  readonly #server: Server
  readonly #sockets: Socket[] = []
  readonly #behaviour: Behaviour
  #resetsChannel = false

  private constructor(server: Server, behaviour: Behaviour) {
    this.#server = server
    this.#behaviour = behaviour
    this.uri = `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`
    server.on('connection', (socket) => this.#connected(socket))
  }

  static async listen(behaviour: Behaviour = {}): Promise<RawDestination> {
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new RawDestination(server, behaviour)
  }

  /** RST on every connection. */
  reset(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }

  /** RST on one multifd channel, or on the first one to introduce itself here. */
  resetChannel(): void {
    this.#resetsChannel = true
    this.channels[0]?.resetAndDestroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.#sockets.map((socket) => socket.closed || once(socket, 'close'))
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await Promise.all([...closed, once(this.#server, 'close')])
  }

  #connected(socket: Socket): void {
    this.#sockets.push(socket)
    socket.on('error', () => {}) // resets are expected
    if (this.#behaviour.reads === false) return
    socket.once('data', (bytes) => {
      if (bytes.readUInt32BE(0) === QEMU_VM_FILE_MAGIC) this.#follow(socket, bytes)
      else this.#drain(socket)
    })
    socket.resume()
  }

  #follow(main: Socket, first: Uint8Array): void {
    this.main = main
    const reader = new MainStreamReader()
    const push = (bytes: Uint8Array): void => {
      for (const event of reader.push(bytes).events) this.#apply(event, main)
    }
    main.on('data', push)
    main.on('end', () => main.end())
    push(first)
  }

  #apply(event: MainStreamEvent, main: Socket): void {
    this.seen.push(event.kind)
    if (this.#behaviour.at?.(event, this) === 'silence') return
    if (event.kind === 'command' && event.command === MIG_CMD_PING) {
      main.write(encodePong(Buffer.from(event.data).readUInt32BE(0)))
    }
    if (event.kind === 'vmdescription') main.write(encodeShut(0))
    if (event.kind !== 'command') return
    if (event.command === MIG_CMD_OPEN_RETURN_PATH) main.write(encodeSwitchoverAck())
    if (event.command === OWN_COMMAND_COMMIT) main.end(encodeShut(0))
  }

  #drain(channel: Socket): void {
    this.channels.push(channel)
    if (this.#resetsChannel) this.resetChannel()
    if (this.#behaviour.readsChannels === false) channel.pause()
    else channel.resume()
    channel.on('data', () => {})
    if (this.#behaviour.readsChannels === false) channel.pause()
    channel.on('end', () => channel.end())
  }
}
