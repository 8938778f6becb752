// Sending and receiving channels without a migration around them, for tests of what travels in
// their packets: a sender whose bytes a plain socket keeps, a receiver that is fed bytes, and both
// together.

import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Acceptor } from '../../src/channel/accept.ts'
import { ReceiveChannel } from '../../src/channel/receive-channel.ts'
import { SendChannel } from '../../src/channel/send-channel.ts'
import { deferred } from '../../src/kit/deferred.ts'
import type { MultifdError } from '../../src/kit/errors.ts'
import {
  checked,
  type NativeBlock,
  type NativeCompression,
  type NativeConnection,
  type NativeDeviceState,
  type NativeGuestMemory,
  native,
} from '../../src/kit/native.ts'
import { MULTIFD_FLAG_ZLIB, MULTIFD_FLAG_ZSTD } from '../../src/wire/constants.ts'
import {
  decodeRamPacketHeader,
  RAM_PACKET_HEADER_BYTES,
  type RamPacketHeader,
} from '../../src/wire/packet.ts'

export const FLAGS = { none: 0, zlib: MULTIFD_FLAG_ZLIB, zstd: MULTIFD_FLAG_ZSTD } as const
export const BLOCK = 'pc.ram'
const HOST = '127.0.0.1'

export interface Method {
  compression: NativeCompression
  compressionLevel?: number
  engine?: 'sendmsg' | 'io-uring'
}

/** One block of memory, all of it visible. */
export class Memory implements Disposable {
  readonly native: NativeGuestMemory
  readonly bytes: Uint8Array
  readonly #view: ArrayBuffer

  constructor(sizeBytes: number, kind: NativeBlock['kind'] = 'anonymous') {
    this.native = checked(
      native().createGuestMemory([{ idstr: BLOCK, kind, sizeBytes }]),
      'making memory failed',
    )
    const view = this.native.view(0)
    if (view === null) throw new Error('memory without a view')
    this.#view = view
    this.bytes = new Uint8Array(view)
  }

  [Symbol.dispose](): void {
    this.native.close([this.#view])
  }
}

/** Everything a source needs to send rounds of a memory over one channel. */
export class Sender implements AsyncDisposable {
  readonly channel: SendChannel
  readonly #ram
  readonly #log
  readonly #group
  #pending = deferred()
  #error: MultifdError | undefined
  /** Bytes on the wire of each device's state that was sent; resolves `stateSent` every time. */
  readonly statesSent: number[] = []
  stateSent = deferred()

  constructor(memory: Memory, port: number, { compression, compressionLevel, engine }: Method) {
    this.#log = checked(native().createDirtyLog(memory.native), 'a log')
    this.#ram = checked(native().createRamState(memory.native, this.#log), 'a RAM state')
    this.#group = checked(native().createSendGroup(this.#ram), 'a send group')
    const water = { highWaterBytes: 4 << 20, lowWaterBytes: 1 << 20, zeroCopyUntilBytes: Infinity }
    const options = {
      ...{ channelId: 0, endpoint: { host: HOST, port }, uuid: new Uint8Array(16) },
      ...{ connectTimeoutMs: 10_000, engine: engine ?? 'sendmsg', ...water },
      // Without effect where packets are compressed.
      ...{ zeroCopy: true, zeroCopyRequired: false, compression },
      ...(compressionLevel === undefined ? {} : { compressionLevel }),
    }
    const listener = {
      extentDone: () => {},
      syncDone: () => this.#pending.resolve(),
      deviceStateDone: (_: number, wireBytes: number) => {
        this.statesSent.push(wireBytes)
        this.stateSent.resolve()
        this.stateSent = deferred()
      },
      failed: (error: MultifdError) => {
        this.#error = error
        this.#pending.resolve()
      },
    }
    try {
      this.channel = new SendChannel(this.#group, options, listener)
    } catch (error) {
      this.#close()
      throw error
    }
  }

  async start(): Promise<void> {
    checked(await this.#ram.start(), 'tracking')
    await this.channel.ready
  }

  mark(page: number): void {
    this.#log.mark(0, page, 1)
  }

  /** One round and its SYNC; returns the pages in it. */
  async round(): Promise<number> {
    this.#pending = deferred()
    const pages = checked(await this.#ram.beginRound(), 'a round')
    const plan = checked(await this.#ram.plan(64 << 20), 'a plan')
    if (plan.length > 4) throw new Error('a test sends one extent per round')
    const [blockIndex = 0, firstPage = 0, pageCount = 0, dirtyPages = 0] = plan
    if (plan.length > 0) this.channel.submitExtent({ blockIndex, firstPage, pageCount, dirtyPages })
    this.channel.submitSync()
    await this.#pending.promise
    if (this.#error !== undefined) throw this.#error
    return pages
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.channel.destroy()
    this.#close()
  }

  #close(): void {
    this.#group.close()
    this.#ram.close()
    this.#log.close()
  }
}

/** Takes the connections of one incoming migration, all of them multifd channels. */
export class Receiver implements AsyncDisposable {
  readonly port: number
  readonly channels: ReceiveChannel[] = []
  readonly #acceptor: Acceptor
  readonly group
  readonly #method: NativeCompression
  readonly #ended = deferred()
  readonly #wanted: number
  readonly #hold: boolean
  #over = 0
  /** Of the first channel that failed. */
  error: MultifdError | undefined
  /** SYNCs that arrived, all channels together. */
  syncs = 0
  /** What devices sent, in the order of arrival; undefined: it is refused. */
  readonly states: NativeDeviceState[] | undefined
  #waiting: { syncs: number; resolve: () => void } | undefined

  /** With `hold` a channel stays parked at its SYNC until `release`. */
  constructor(
    memory: NativeGuestMemory,
    compression: NativeCompression,
    { channels = 1, hold = false, devices = false } = {},
  ) {
    this.states = devices ? [] : undefined
    this.#method = compression
    this.#wanted = channels
    this.#hold = hold
    this.group = checked(native().createReceiveGroup(memory), 'a receive group')
    this.#acceptor = new Acceptor({ host: HOST, port: 0 }, 10_000, {
      connection: (connection) => this.#take(connection),
      failed: (error) => this.#failed(error),
    })
    this.port = this.#acceptor.endpoint.port ?? 0
  }

  /** Resolves when every channel ended or failed. */
  get ended(): Promise<void> {
    return this.#ended.promise
  }

  /** Resolves when so many SYNCs are there, or something failed. */
  synced(syncs: number): Promise<void> {
    const { promise, resolve } = deferred()
    this.#waiting = { syncs, resolve }
    if (this.syncs >= syncs || this.error !== undefined) resolve()
    return promise
  }

  release(): void {
    for (const channel of this.channels) channel.releaseSync()
  }

  #take(connection: NativeConnection): void {
    const { states } = this
    const channel: ReceiveChannel = new ReceiveChannel(
      this.group,
      connection,
      {
        syncArrived: () => {
          this.syncs += 1
          if (!this.#hold) channel.releaseSync()
          if (this.#waiting !== undefined && this.syncs >= this.#waiting.syncs) {
            this.#waiting.resolve()
          }
        },
        peerEnded: () => this.#end(),
        ...(states === undefined ? {} : { deviceState: (_, state) => states.push(state) }),
        failed: (error) => this.#failed(error),
      },
      { compression: this.#method },
    )
    this.channels.push(channel)
  }

  #failed(error: MultifdError): void {
    this.error ??= error
    this.#waiting?.resolve()
    this.#end()
  }

  #end(): void {
    this.#over += 1
    if (this.#over >= this.#wanted) this.#ended.resolve()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.channels.map((channel) => channel.destroy()))
    await this.#acceptor.destroy()
    this.group.close()
  }
}

/** A whole stream, its initial packet included, into a memory; what became of it. */
export async function feed(
  memory: Memory,
  compression: NativeCompression,
  stream: Uint8Array,
): Promise<MultifdError | undefined> {
  await using receiver = new Receiver(memory.native, compression)
  const socket = connect(receiver.port, HOST)
  socket.on('error', () => {}) // a refused stream is reset
  socket.end(stream)
  await receiver.ended
  socket.destroy()
  return receiver.error
}

export interface Packet {
  header: RamPacketHeader
  payload: Uint8Array
}

/** What a sender of ours sends of a memory in as many rounds as `change` is called in between. */
export async function record(
  memory: Memory,
  method: Method,
  changes: ((sender: Sender) => void)[] = [],
): Promise<{ initial: Uint8Array; packets: Packet[]; stream: Uint8Array }> {
  const pieces: Uint8Array[] = []
  const server = createServer((socket) => socket.on('data', (bytes) => pieces.push(bytes)))
  server.listen(0, HOST)
  await once(server, 'listening')
  const ended = once(server, 'close')
  {
    await using sender = new Sender(memory, (server.address() as AddressInfo).port, method)
    await sender.start()
    await sender.round()
    for (const change of changes) {
      change(sender)
      await sender.round()
    }
    await sender.channel.close()
  }
  server.close()
  await ended
  const stream = new Uint8Array(Buffer.concat(pieces))
  return { initial: stream.subarray(0, 64), packets: split(stream, method.compression), stream }
}

/** The RAM packets of a channel's stream. */
export function split(stream: Uint8Array, compression: NativeCompression): Packet[] {
  const packets: Packet[] = []
  for (let at = 64; at < stream.length; ) {
    const bytes = stream.subarray(at, at + RAM_PACKET_HEADER_BYTES)
    const header = decodeRamPacketHeader(bytes, { compressionFlag: FLAGS[compression] })
    if (!header.ok) throw header.error
    at += RAM_PACKET_HEADER_BYTES
    const payload = stream.subarray(at, at + header.value.nextPacketSize)
    packets.push({ header: header.value, payload })
    at += payload.length
  }
  return packets
}

/**
 * The compression methods of this build, and what it lacks said loudly; in CI it must lack none.
 */
export function compressionsHere(): Exclude<NativeCompression, 'none'>[] {
  const methods = native().compressionMethods()
  const lacking = methods.filter(({ reason }) => reason !== '')
  for (const { name, reason } of lacking) {
    if (process.env.CI) throw new Error(`${name}: ${reason}`)
    console.warn(`SKIPPED, all tests of ${name}: ${reason}`)
  }
  const known = ['zlib', 'zstd'] as const
  return known.filter((name) => !lacking.some((method) => method.name === name))
}

/** A detached view lets go of its mapping when it is collected. */
export async function collected(): Promise<void> {
  setFlagsFromString('--expose-gc')
  for (let turn = 0; turn < 2; turn += 1) {
    runInNewContext('gc')()
    await nextTurn()
  }
}
