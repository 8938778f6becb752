// The addon of the simulation: the part of NativeAddon that a migration between our own ends over a
// UNIX path uses, in JavaScript. One for all simulations, as the code under test keeps what it got;
// each has a world of its own.

import { PAGE_SIZE_BYTES } from '../../src/kit/limits.ts'
import type {
  NativeAddon,
  NativeConnection,
  NativeError,
  NativeReceiveGroup,
  NativeSendGroup,
} from '../../src/kit/native.ts'
import { SimulatedMemory, SimulatedRam } from './guest-memory.ts'
import { type SimulatedConnection, SimulatedListener } from './listen-thread.ts'
import { RECEIVE_COUNTERS, SimulatedReceiveGroup, SimulatedReceiver } from './receive-thread.ts'
import { SEND_COUNTERS, SimulatedSender } from './send-thread.ts'
import type { World } from './world.ts'

let present: World | undefined
let wakeup = (): void => {}
let handles = 0

/** For the world that comes next. */
export const nativeThreads = {
  wakeup: (): void => wakeup(),
  handles: (): number => {
    handles += 1
    return handles
  },
}

/** What the code under test calls from now on happens in this world. */
export function enterWorld(world: World): void {
  present = world
}

export function presentWorld(): World {
  if (present === undefined) throw new Error('there is no simulation')
  return present
}

class SimulatedSendGroup {
  readonly ram: SimulatedRam
  readonly #world: World
  #closed = false

  constructor(world: World, ram: SimulatedRam) {
    this.#world = world
    this.ram = ram
    world.count('send group', 1)
  }

  async unregisterMemory(): Promise<undefined> {
    await this.#world.work(undefined, () => undefined)
  }
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#world.count('send group', -1)
  }
}

const PARTS: Partial<NativeAddon> = {
  sendCounterNames: SEND_COUNTERS,
  receiveCounterNames: RECEIVE_COUNTERS,
  setWakeup: (callback) => {
    wakeup = callback
  },
  drain: (out) => presentWorld().drain(out),
  threadCpuNanoseconds: () => 0,
  compressionMethods: () => [
    { name: 'none', flag: 0, levelMin: 0, levelMax: 0, levelDefault: 0, reason: '' },
  ],
  createGuestMemory: (blocks) => {
    const pages = blocks.map(({ idstr, sizeBytes }) => {
      return { idstr, pageCount: sizeBytes / PAGE_SIZE_BYTES }
    })
    return new SimulatedMemory(presentWorld(), pages)
  },
  createRamState: (memory) => new SimulatedRam(memory as SimulatedMemory),
  createSendGroup: (ram) => {
    return new SimulatedSendGroup(presentWorld(), ram as SimulatedRam) as unknown as NativeSendGroup
  },
  startSendChannel: (group, options) => {
    const world = presentWorld()
    const { ram } = group as unknown as SimulatedSendGroup
    return world.refusal('startSendChannel') ?? new SimulatedSender(world, ram, options)
  },
  createReceiveGroup: (memory) => new SimulatedReceiveGroup(memory as SimulatedMemory),
  startReceiveChannel: (group, connection, { counters }) =>
    startReceiver(group, connection, counters),
  startListener: (options) => new SimulatedListener(presentWorld(), options),
}

function startReceiver(
  group: NativeReceiveGroup,
  connection: NativeConnection,
  counters: Float64Array,
): SimulatedReceiver | NativeError {
  const world = presentWorld()
  const end = (connection as SimulatedConnection).release()
  if (end === undefined) throw new Error('the connection was taken already')
  const refusal = world.refusal('startReceiveChannel')
  if (refusal === undefined) {
    return new SimulatedReceiver(world, group as SimulatedReceiveGroup, end, counters)
  }
  end.close()
  return refusal
}

/** What is not there is not used; a call of it says so. */
export const fakeAddon = PARTS as NativeAddon
