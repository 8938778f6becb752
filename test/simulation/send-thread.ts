// The thread of a simulated sending channel: connects, introduces itself, and works off extents,
// device states and SYNCs in the order of their submission, as native/channel/send_channel.cc does.

import { EVENT } from '../../src/channel/native-events.ts'
import { PAGE_SIZE_BYTES } from '../../src/kit/limits.ts'
import type {
  NativeEngineReport,
  NativeSendChannel,
  NativeSendChannelOptions,
} from '../../src/kit/native.ts'
import type { End } from './connection.ts'
import type { Extent, SimulatedRam } from './guest-memory.ts'
import { encodeHeader, encodeIntroduction, encodePages } from './packets.ts'
import { SimulatedThread } from './thread.ts'
import type { World } from './world.ts'

export const SEND_COUNTERS = [
  'sentBytes',
  'packets',
  'normalPages',
  'zeroPages',
  'sendCalls',
  'unreleasedBytes',
  'unreleasedHighBytes',
  'unreleasedRecentHighBytes',
  'zeroCopyTriedBytes',
  'zeroCopyBytes',
  'copiedBytes',
  'notifications',
  'strayNotifications',
  'waitsAtHighWater',
  'dryWaits',
  'queuedWaits',
  'refusedByMemlock',
  'refusedByOptmem',
  'deviceStateBytes',
  'cpuNanoseconds',
]

const QUEUE_MAX = 64
const QUIET_QUEUE = 2
const DEVICE_STATES_MAX = 4

const DONE = {
  extent: EVENT.EXTENT_DONE,
  device: EVENT.DEVICE_STATE_DONE,
  sync: EVENT.SYNC_DONE,
}

/** `begun`: its first packet was made. */
type Command =
  | { kind: 'extent'; extent: Extent; pages: number[]; begun: boolean }
  | { kind: 'device'; bytes: Uint8Array; begun: boolean }
  | { kind: 'sync'; begun: boolean }
  | { kind: 'close' }

export class SimulatedSender extends SimulatedThread implements NativeSendChannel {
  readonly #ram: SimulatedRam
  readonly #options: NativeSendChannelOptions
  readonly #pagesPerPacket: number
  readonly #commands: Command[] = []
  #callOff: () => void = () => {}
  #end: End | undefined
  /** Of the packet in hand, what the connection has not taken. */
  #rest: Uint8Array = new Uint8Array(0)
  #begun = false
  #wireBytes = 0
  #deviceStates = 0

  constructor(world: World, ram: SimulatedRam, options: NativeSendChannelOptions) {
    super(world)
    this.#ram = ram
    this.#options = options
    this.#pagesPerPacket = world.lots.whole(1, 8)
    this.#connect()
  }

  submitExtent(block: number, firstPage: number, pageCount: number): boolean {
    const extent = { block, firstPage, pageCount }
    if (!this.#submit({ kind: 'extent', extent, pages: [], begun: false })) return false
    this.#ram.extentsInWork += 1
    return true
  }
  submitSync(): boolean {
    return this.#submit({ kind: 'sync', begun: false })
  }
  submitClose(): boolean {
    return this.#submit({ kind: 'close' })
  }
  submitDeviceState(
    idstr: string,
    instanceId: number,
    prefix: Uint8Array,
    data: Uint8Array,
  ): boolean {
    if (this.#deviceStates === DEVICE_STATES_MAX || this.ended) return false
    const name = new TextEncoder().encode(idstr)
    const payloadBytes = prefix.length + data.length
    const nameBytes = name.length
    const header = encodeHeader({ kind: 'device', nameBytes, instanceId, payloadBytes })
    this.#deviceStates += 1
    const bytes = Buffer.concat([header, name, prefix, data])
    return this.#submit({ kind: 'device', bytes, begun: false })
  }

  setWaterMarks(): void {}
  setPacingRate(): void {}
  ackedBytes(): number {
    return this.#cell('sentBytes')
  }
  engineReport(): NativeEngineReport {
    return { engine: 'sendmsg', mode: 'plain', downgrades: [] }
  }

  #submit(command: Command): boolean {
    if (this.ended || this.#commands.length >= QUEUE_MAX) return false
    this.#commands.push(command)
    this.wake()
    return true
  }

  #connect(): void {
    const { clock, network } = this.world
    const { path = '', connectTimeoutMs, channelId, uuid } = this.#options
    const late = clock.after(connectTimeoutMs, () => {
      this.#callOff()
      this.fail('ERR_MULTIFD_TIMEOUT', `connecting took longer than ${connectTimeoutMs} ms`)
    })
    const callOff = network.connect(path, (end) => {
      clock.callOff(late)
      if (end === undefined) this.fail('ERR_MULTIFD_CHANNEL', 'connecting failed', 111)
      else {
        this.#end = end
        end.changed = () => this.wake()
        this.#rest = encodeIntroduction(channelId, uuid)
        this.wake()
      }
    })
    this.#callOff = () => {
      clock.callOff(late)
      callOff()
    }
  }

  protected override step(): void {
    const end = this.#end
    if (end === undefined) return
    for (;;) {
      if (!this.#write(end)) return
      if (!this.#begun) {
        this.#begun = true
        this.emit(EVENT.READY)
      }
      if (!this.#next(end)) return
    }
  }

  /** Hands over what there is; false if not all of it could be. */
  #write(end: End): boolean {
    if (this.#rest.length === 0) return true
    if (end.broken !== undefined) {
      const errno = end.broken === 'EPIPE' ? 32 : 104
      this.fail('ERR_MULTIFD_PEER_CLOSED', 'sending failed', errno)
      return false
    }
    this.#rest = this.#rest.subarray(end.write(this.#rest))
    return this.#rest.length === 0
  }

  /** The next packet, or the next command; false if there is none, or the thread has ended. */
  #next(end: End): boolean {
    const command = this.#commands[0]
    if (command === undefined) return false
    if (command.kind === 'close') {
      end.finish()
      this.end()
      return false
    }
    const packet = this.#packetOf(command)
    if (packet !== undefined) this.#rest = packet
    else this.#done(command.kind)
    return true
  }

  #packetOf(command: Exclude<Command, { kind: 'close' }>): Uint8Array | undefined {
    const { begun } = command
    command.begun = true
    if (command.kind === 'extent') return this.#nextPages(command, begun)
    if (begun) return undefined
    const packet = command.kind === 'sync' ? encodeHeader(command) : command.bytes
    this.#sent(packet.length)
    if (command.kind === 'device') this.#add('deviceStateBytes', packet.length)
    return packet
  }

  #nextPages(command: { extent: Extent; pages: number[] }, begun: boolean): Uint8Array | undefined {
    const { extent } = command
    if (!begun) {
      this.#ram.lateCollect(extent)
      command.pages = this.#ram.pagesOf(extent)
    }
    const pages = command.pages.splice(0, this.#pagesPerPacket)
    if (pages.length === 0) return undefined
    const versions = this.#ram.memory.pages[extent.block]
    const read = pages.map((page) => ({ page, version: versions?.[page] ?? 0 }))
    const normal = read.filter(({ version }) => version !== 0)
    const zero = read.filter(({ version }) => version === 0).map(({ page }) => page)
    const packet = encodePages(extent.block, normal, zero)
    this.#add('normalPages', normal.length)
    this.#add('zeroPages', zero.length)
    this.#sent(packet.length + normal.length * PAGE_SIZE_BYTES)
    return packet
  }

  #sent(bytes: number): void {
    this.#wireBytes += bytes
    this.#add('sentBytes', bytes)
    this.#add('packets', 1)
  }

  #done(kind: 'extent' | 'device' | 'sync'): void {
    this.#commands.shift()
    if (kind === 'extent') this.#ram.extentsInWork -= 1
    if (kind === 'device') this.#deviceStates -= 1
    const waiting = this.#commands.length
    const lasts = waiting > QUIET_QUEUE || this.#commands.at(-1)?.kind === 'sync'
    const quietly = kind === 'extent' && lasts
    this.emit(DONE[kind], this.#wireBytes, quietly)
    this.#wireBytes = 0
  }

  protected override release(): void {
    this.#callOff()
    this.#ram.extentsInWork -= this.#commands.filter(({ kind }) => kind === 'extent').length
    const end = this.#end
    if (end === undefined) return
    end.changed = () => {}
    // After an orderly end only the descriptor is closed.
    if (this.#commands[0]?.kind === 'close') end.close()
    else end.reset()
  }

  #cell(name: string): number {
    return this.#options.counters[SEND_COUNTERS.indexOf(name)] ?? 0
  }
  #add(name: string, by: number): void {
    this.#options.counters[SEND_COUNTERS.indexOf(name)] = this.#cell(name) + by
  }
}
