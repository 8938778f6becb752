// The thread of a simulated receiving channel: puts pages into guest memory as their bytes come,
// parks at each SYNC, and waits with each device state, as native/channel/receive_channel.cc does.

import { EVENT } from '../../src/channel/native-events.ts'
import type {
  NativeDeviceState,
  NativeReceiveChannel,
  NativeReceiveGroup,
} from '../../src/kit/native.ts'
import type { End } from './connection.ts'
import { type SimulatedMemory, TORN } from './guest-memory.ts'
import { decodeHeader, HEADER_BYTES, PAGE_BYTES, type PacketHeader } from './packets.ts'
import { SimulatedThread } from './thread.ts'
import type { World } from './world.ts'

export const RECEIVE_COUNTERS = [
  'receivedBytes',
  'packets',
  'normalPages',
  'zeroPages',
  'syncs',
  'deviceStateBytes',
  'cpuNanoseconds',
]

export class SimulatedReceiveGroup implements NativeReceiveGroup {
  readonly memory: SimulatedMemory
  /** By block: pages that ever came, and those that came whole since the last sync. */
  readonly received: Set<number>[]
  readonly sinceSync: Set<number>[]
  channels = 0
  parked = 0
  #closed = false

  constructor(memory: SimulatedMemory) {
    this.memory = memory
    this.received = memory.pages.map(() => new Set())
    this.sinceSync = memory.pages.map(() => new Set())
    memory.world.count('receive group', 1)
  }

  applyZeroRun(): undefined {}
  applyPages(): undefined {}

  receivedSinceSync(block: number): Uint8Array {
    if (this.channels > 0) {
      this.memory.world.violated('received pages are read while a channel receives')
    }
    const pageCount = this.memory.pages[block]?.length ?? 0
    const bitmap = new Uint8Array(8 * Math.ceil(pageCount / 64))
    for (const page of this.sinceSync[block] ?? []) {
      bitmap[page >> 3] = (bitmap[page >> 3] ?? 0) | (1 << (page & 7))
    }
    return bitmap
  }

  clearReceivedSinceSync(): void {
    if (this.channels !== this.parked) {
      this.memory.world.violated('received pages are forgotten while a channel receives')
    }
    if (this.memory.world.sabotage === 'keep-received') return
    for (const pages of this.sinceSync) pages.clear()
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.memory.world.count('receive group', -1)
  }
}

/** A packet whose header has come. */
interface Packet {
  header: PacketHeader
  /** Of pages, once they have come: their numbers, normal ones first. */
  pages: number[] | undefined
  /** Normal pages in memory. */
  placed: number
}

export class SimulatedReceiver extends SimulatedThread implements NativeReceiveChannel {
  readonly #group: SimulatedReceiveGroup
  readonly #end: End
  readonly #counters: Float64Array
  /** A packet counts as received only when the header behind it came. */
  readonly #countsLate: boolean
  #bytes: Uint8Array = new Uint8Array(0)
  #packet: Packet | undefined
  #uncounted: { block: number; pages: number[] } | undefined
  #syncs = 0
  #released = 0
  #device: NativeDeviceState | undefined

  constructor(world: World, group: SimulatedReceiveGroup, end: End, counters: Float64Array) {
    super(world)
    this.#group = group
    this.#end = end
    this.#counters = counters
    this.#countsLate = world.lots.chance(0.5)
    group.channels += 1
    end.changed = () => this.wake()
    this.wake()
  }

  releaseSync(): void {
    if (this.#isParked) this.#group.parked -= 1
    this.#released += 1
    this.wake()
  }

  takeDeviceState(): NativeDeviceState | null {
    const state = this.#device ?? null
    this.#device = undefined
    this.wake()
    return state
  }

  get #isParked(): boolean {
    return !this.ended && this.#syncs > this.#released
  }

  protected override step(): void {
    if (this.#isParked || this.#device !== undefined) return
    while (!this.#isParked && this.#device === undefined) {
      if (this.#advance()) continue
      const more = this.#end.read(this.world.lots.whole(1, 4096))
      if (more.length === 0) break
      this.#add('receivedBytes', more.length)
      this.#bytes = this.#bytes.length === 0 ? more : Buffer.concat([this.#bytes, more])
    }
    if (this.#isParked || this.#device !== undefined) return
    if (this.#end.readable > 0) this.wake()
    else if (this.#end.broken !== undefined) {
      this.fail('ERR_MULTIFD_PEER_CLOSED', 'reading failed', 104)
    } else if (this.#end.ended) this.#peerEnded()
  }

  #peerEnded(): void {
    if (this.#packet !== undefined || this.#bytes.length > 0) {
      this.fail('ERR_MULTIFD_PEER_CLOSED', 'the peer closed the channel in the middle of a packet')
      return
    }
    this.#count()
    this.emit(EVENT.PEER_END)
    this.end()
  }

  /** One step of the packet that is coming; false if it takes more bytes. */
  #advance(): boolean {
    if (this.#packet === undefined) {
      const header = this.#take(HEADER_BYTES)
      if (header === undefined) return false
      this.#count()
      this.#packet = { header: decodeHeader(header), pages: undefined, placed: 0 }
      return true
    }
    const { header } = this.#packet
    if (header.kind === 'sync') return this.#sync()
    if (header.kind === 'device') return this.#deviceState(header)
    if (this.#packet.pages === undefined) return this.#place(this.#packet, header)
    return this.#nextPage(this.#packet, header, this.#packet.pages)
  }

  #sync(): boolean {
    this.#over()
    this.#syncs += 1
    this.#add('syncs', 1)
    if (this.world.sabotage === 'no-park') this.#released = Math.max(this.#released, this.#syncs)
    if (this.#isParked) this.#group.parked += 1
    this.emit(EVENT.SYNC_ARRIVED)
    return true
  }

  #deviceState(header: Extract<PacketHeader, { kind: 'device' }>): boolean {
    const { nameBytes, instanceId, payloadBytes } = header
    const body = this.#take(nameBytes + payloadBytes)
    if (body === undefined) return false
    this.#over()
    const idstr = new TextDecoder().decode(body.subarray(0, nameBytes))
    this.#device = { idstr, instanceId, bytes: body.slice(nameBytes) }
    this.#add('deviceStateBytes', HEADER_BYTES + body.length)
    this.emit(EVENT.DEVICE_STATE, payloadBytes)
    return true
  }

  /** The page numbers came: zero pages take effect, and normal ones may be written from now on. */
  #place(packet: Packet, header: Extract<PacketHeader, { kind: 'pages' }>): boolean {
    const { block, normal, zero } = header
    const bytes = this.#take(2 * (normal + zero))
    if (bytes === undefined) return false
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    packet.pages = Array.from({ length: normal + zero }, (_, at) => view.getUint16(2 * at))
    const [received, memory] = [this.#group.received[block], this.#group.memory.pages[block]]
    for (const page of packet.pages.slice(0, normal)) received?.add(page)
    for (const page of packet.pages.slice(normal)) {
      // The others were never written since the memory was emptied.
      if (memory !== undefined && received?.has(page)) memory[page] = 0
    }
    if (this.world.sabotage === 'count-torn-packet') this.#countIn(block, packet.pages)
    return true
  }

  #nextPage(
    packet: Packet,
    { block, normal, zero }: { block: number; normal: number; zero: number },
    pages: readonly number[],
  ): boolean {
    const memory = this.#group.memory.pages[block]
    if (packet.placed === normal) {
      this.#over()
      this.#add('normalPages', normal)
      this.#add('zeroPages', zero)
      this.#uncounted = { block, pages: [...pages] }
      if (!this.#countsLate) this.#count()
      return true
    }
    const page = pages[packet.placed] ?? 0
    if (memory !== undefined && this.#bytes.length > 0) memory[page] = TORN
    const bytes = this.#take(PAGE_BYTES)
    if (bytes === undefined) return false
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    if (memory !== undefined) memory[page] = view.getUint32(0)
    packet.placed += 1
    return true
  }

  #over(): void {
    this.#packet = undefined
    this.#add('packets', 1)
  }

  #count(): void {
    if (this.#uncounted === undefined) return
    this.#countIn(this.#uncounted.block, this.#uncounted.pages)
    this.#uncounted = undefined
  }

  #countIn(block: number, pages: readonly number[]): void {
    for (const page of pages) this.#group.sinceSync[block]?.add(page)
  }

  #take(count: number): Uint8Array | undefined {
    if (this.#bytes.length < count) return undefined
    const taken = this.#bytes.subarray(0, count)
    this.#bytes = this.#bytes.subarray(count)
    return taken
  }

  protected override release(): void {
    if (this.#syncs > this.#released) this.#group.parked -= 1
    this.#group.channels -= 1
    this.#end.changed = () => {}
    this.#end.close()
  }

  #add(name: string, by: number): void {
    const at = RECEIVE_COUNTERS.indexOf(name)
    this.#counters[at] = (this.#counters[at] ?? 0) + by
  }
}
