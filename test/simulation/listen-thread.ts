// The thread of a simulated listener: accepts connections and hands over those that have said what
// they are, as native/channel/listener.cc does. A stranger ends it.

import { EVENT } from '../../src/channel/native-events.ts'
import type { NativeConnection, NativeEndpoint, NativeListener } from '../../src/kit/native.ts'
import type { End } from './connection.ts'
import { CHANNEL_MARK, INTRODUCTION_BYTES, MAIN_MARK } from './packets.ts'
import { SimulatedThread } from './thread.ts'
import type { World } from './world.ts'

export class SimulatedConnection implements NativeConnection {
  readonly isMain: boolean
  readonly channelId: number
  readonly uuid: Uint8Array
  readonly peer = 'the simulation'
  readonly #world: World
  #end: End | undefined

  constructor(world: World, end: End, introduction: Uint8Array | undefined) {
    this.#world = world
    this.#end = end
    this.isMain = introduction === undefined
    this.channelId = introduction?.[1] ?? 0
    this.uuid = introduction?.slice(2) ?? new Uint8Array(16)
    world.count('connection', 1)
  }

  /** For whoever takes it over. */
  release(): End | undefined {
    const end = this.#end
    if (end !== undefined) this.#world.count('connection', -1)
    this.#end = undefined
    return end
  }
  releaseFd(): number {
    throw new Error('a simulated connection has no descriptor')
  }
  close(): void {
    this.release()?.close()
  }
}

export class SimulatedListener extends SimulatedThread implements NativeListener {
  readonly port = 0
  readonly #path: string
  /** By when each must have said what it is. */
  readonly #strangers = new Map<End, number>()
  #accepted: SimulatedConnection[] = []

  constructor(world: World, { path = '', identifyTimeoutMs }: Listening) {
    super(world)
    this.#path = path
    world.network.listen(path, (end) => {
      this.#strangers.set(end, world.clock.nowMs + identifyTimeoutMs)
      end.changed = () => this.wake()
      world.clock.after(identifyTimeoutMs + 1, () => this.wake())
      this.wake()
    })
  }

  takeAccepted(): NativeConnection[] {
    return this.#accepted.splice(0)
  }

  protected override step(): void {
    for (const [end, deadlineMs] of this.#strangers) {
      const kind = end.peek(1)[0]
      const bytes = kind === CHANNEL_MARK ? INTRODUCTION_BYTES : 4
      if (end.readable >= bytes && (kind === CHANNEL_MARK || kind === MAIN_MARK)) {
        this.#strangers.delete(end)
        end.changed = () => {}
        const introduction = kind === CHANNEL_MARK ? end.readExactly(bytes) : undefined
        this.world.identified += 1
        this.world.note(
          `connection ${this.world.network.nameOf(end)} is ${kind === MAIN_MARK ? 'main' : `channel ${introduction?.[1]}`}`,
        )
        if (this.#accepted.length === 0) this.emit(EVENT.ACCEPTED)
        this.#accepted.push(new SimulatedConnection(this.world, end, introduction))
      } else if (end.readable >= bytes) {
        this.fail('ERR_MULTIFD_HANDSHAKE', 'it is not a migration source')
        return
      } else if (end.broken !== undefined) {
        this.fail('ERR_MULTIFD_PEER_CLOSED', 'reading failed', 104)
        return
      } else if (end.finished) {
        this.fail('ERR_MULTIFD_HANDSHAKE', 'it closed before it said what it is')
        return
      } else if (this.world.clock.nowMs >= deadlineMs) {
        this.fail('ERR_MULTIFD_TIMEOUT', 'it did not say in time what it is')
        return
      }
    }
  }

  protected override release(): void {
    this.world.network.unlisten(this.#path)
    for (const end of this.#strangers.keys()) {
      end.changed = () => {}
      end.close()
    }
    this.#strangers.clear()
  }

  override join(): void {
    super.join()
    for (const connection of this.#accepted.splice(0)) connection.close()
  }
}

type Listening = NativeEndpoint & { identifyTimeoutMs: number }
