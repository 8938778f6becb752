// A destination of plain sockets that goes by QEMU's rules: it reads nothing before all channels
// are there, parks a channel at each SYNC until the main channel's sync point, and keeps what comes
// in memory. It judges nothing: tests look at what it saw. Where told to, it falls silent or ends.

import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { type Deferred, deferred } from '../../src/kit/deferred.ts'
import { MIG_CMD_PING, MULTIFD_FLAG_SYNC } from '../../src/wire/constants.ts'
import type { Dialect } from '../../src/wire/dialect.ts'
import type { MainStreamEvent } from '../../src/wire/main-stream-events.ts'
import { MainStreamReader } from '../../src/wire/main-stream-reader.ts'
import {
  decodeInitialPacket,
  decodeRamPacketHeader,
  type InitialPacket,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
} from '../../src/wire/packet.ts'
import { encodePong, encodeShut } from '../../src/wire/return-path.ts'

export interface ReplayBehaviour {
  channels: number
  dialect: Dialect
  /** What happens at an event of the main stream; by default everything is answered. */
  at?: (event: MainStreamEvent, peer: ReplayDestination) => 'go on' | 'silence'
  /** Called when a channel has introduced itself. */
  joined?: (count: number, peer: ReplayDestination) => void
}

/** What came on one channel. */
export interface SeenChannel {
  initial: InitialPacket
  packets: RamPacketHeader[]
  /** Headers of SYNC packets, raw. */
  syncs: Uint8Array[]
}

export class ReplayDestination implements AsyncDisposable {
  readonly uri: string
  /** Kinds of main-stream events, in order; runs of one kind once. */
  readonly kinds: string[] = []
  readonly ram = new Map<string, Buffer>()
  /** How often each page came, per block. */
  readonly counts = new Map<string, Uint8Array>()
  readonly channels: SeenChannel[] = []
  readonly sockets: Socket[] = []
  configuration: MainStreamEvent | undefined
  tail = Buffer.alloc(0)
  syncPoints = 0
  /** First connections are main channels, as with a QEMU 7.2. */
  main: Socket | undefined
  readonly #behaviour: ReplayBehaviour
  readonly #server: Server
  readonly #complete: Deferred<void> = deferred()
  #arrived: Deferred<void>[] = []
  #release: Deferred<void>[] = []
  #tailParts: Uint8Array[] = []

  private constructor(server: Server, behaviour: ReplayBehaviour) {
    this.#server = server
    this.#behaviour = behaviour
    this.uri = `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`
    if (behaviour.channels === 0) this.#complete.resolve()
    server.on('connection', (socket) => this.#connected(socket))
  }

  static async listen(behaviour: ReplayBehaviour): Promise<ReplayDestination> {
    const server = createServer({ allowHalfOpen: true })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new ReplayDestination(server, behaviour)
  }

  /** Connections so far, the main channel included. */
  get connections(): number {
    return this.sockets.length
  }

  /** Nobody may connect any more, as at a QEMU that has all it expects. */
  stopListening(): void {
    this.#server.close()
  }

  reset(): void {
    for (const socket of this.sockets) socket.resetAndDestroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.sockets.map((socket) => socket.closed || once(socket, 'close'))
    for (const socket of this.sockets) socket.destroy()
    if (this.#server.listening) this.#server.close()
    await Promise.all(closed)
  }

  #connected(socket: Socket): void {
    this.sockets.push(socket)
    socket.setNoDelay(true)
    socket.on('error', () => {}) // resets are expected
    if (this.main === undefined) {
      this.main = socket
      this.#follow(socket).catch(() => socket.destroy())
    } else {
      this.#receive(socket).catch(() => socket.destroy())
    }
  }

  async #follow(main: Socket): Promise<void> {
    await this.#complete.promise
    const reader = new MainStreamReader()
    for await (const bytes of main) {
      const { events, error } = reader.push(bytes)
      for (const event of events) {
        if (this.kinds.at(-1) !== event.kind) this.kinds.push(event.kind)
        if (this.#behaviour.at?.(event, this) === 'silence') return await new Promise(() => {})
        await this.#apply(event, main)
      }
      if (error !== undefined) throw error
    }
    main.end()
  }

  async #apply(event: MainStreamEvent, main: Socket): Promise<void> {
    if (event.kind === 'configuration') this.configuration = event
    if (event.kind === 'command' && event.command === MIG_CMD_PING) {
      main.write(encodePong(Buffer.from(event.data).readUInt32BE(0)))
    } else if (event.kind === 'ram-mem-size') {
      for (const { idstr, usedLength } of event.blocks) {
        this.ram.set(idstr, Buffer.alloc(usedLength, 0xee)) // not zero: zeros have to come
        this.counts.set(idstr, new Uint8Array(usedLength / 4096))
      }
    } else if (event.kind === 'ram-zero') {
      for (let page = 0; page < event.pages; page++) {
        this.#place(event.idstr, event.offset + page * 4096, undefined)
      }
    } else if (event.kind === 'ram-page') {
      for (let at = 0; at < event.contents.length; at += 4096) {
        this.#place(event.idstr, event.offset + at, event.contents.subarray(at, at + 4096))
      }
    } else if (event.kind === 'ram-flush' || event.kind === 'ram-eos') {
      const word = this.#behaviour.dialect === 'per-round' ? 'ram-flush' : 'ram-eos'
      if (event.kind === word) await this.#syncPoint()
    } else if (event.kind === 'device-tail') {
      this.#tailParts.push(event.bytes)
    } else if (event.kind === 'device-tail-end') {
      this.tail = Buffer.concat(this.#tailParts)
      main.write(encodeShut(0))
    }
  }

  /** Waits for every channel's SYNC, then lets all of them go on. */
  async #syncPoint(): Promise<void> {
    this.syncPoints += 1
    await Promise.all(this.#arrived.map((arrived) => arrived.promise))
    const release = this.#release
    this.#arrived = release.map(() => deferred())
    this.#release = release.map(() => deferred())
    for (const one of release) one.resolve()
  }

  async #receive(socket: Socket): Promise<void> {
    const source = new SocketBytes(socket)
    const initial = decodeInitialPacket(await source.take(64))
    if (!initial.ok) throw initial.error
    const seen: SeenChannel = { initial: initial.value, packets: [], syncs: [] }
    const index = this.channels.push(seen) - 1
    this.#arrived.push(deferred())
    this.#release.push(deferred())
    this.#behaviour.joined?.(this.channels.length, this)
    if (this.channels.length === this.#behaviour.channels) this.#complete.resolve()
    for (;;) {
      const bytes = await source.take(RAM_PACKET_HEADER_BYTES)
      const decoded = decodeRamPacketHeader(bytes, { usedLength: (name) => this.#length(name) })
      if (!decoded.ok) throw decoded.error
      const header = decoded.value
      seen.packets.push(header)
      for (const offset of header.normalOffsets) {
        this.#place(header.ramblock, offset, await source.take(4096))
      }
      for (const offset of header.zeroOffsets) this.#place(header.ramblock, offset, undefined)
      if (!(header.flags & MULTIFD_FLAG_SYNC)) continue
      seen.syncs.push(Uint8Array.from(bytes))
      const release = this.#release[index]
      this.#arrived[index]?.resolve()
      await release?.promise
    }
  }

  #length(idstr: string): number | undefined {
    return this.ram.get(idstr)?.length
  }

  #place(idstr: string, offset: number, page: Uint8Array | undefined): void {
    const block = this.ram.get(idstr)
    const counts = this.counts.get(idstr)
    if (block === undefined || counts === undefined) throw new Error(`no block ${idstr} yet`)
    if (page === undefined) block.fill(0, offset, offset + 4096)
    else block.set(page, offset)
    counts[offset / 4096] = (counts[offset / 4096] ?? 0) + 1
  }
}

/** Exactly as many bytes as are asked for, from a socket that is only read then. */
class SocketBytes {
  readonly #parts: AsyncIterator<Buffer>
  #held: Buffer = Buffer.alloc(0)

  constructor(socket: Socket) {
    this.#parts = socket[Symbol.asyncIterator]()
  }

  async take(count: number): Promise<Buffer> {
    const parts: Buffer[] = [this.#held]
    for (let held = this.#held.length; held < count; ) {
      const { value, done } = await this.#parts.next()
      if (done) throw new Error('the channel ended')
      parts.push(value)
      held += value.length
    }
    const bytes = Buffer.concat(parts)
    this.#held = bytes.subarray(count)
    return bytes.subarray(0, count)
  }
}
