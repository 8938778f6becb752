// The source's guest: a VMM that stops and resumes it, writes that follow the clock, and devices
// that know at both ends what was given and what was loaded. What throws or hangs is drawn before.

import type { SaveStateHandler, StatePart } from '../../src/migrate/save-state.ts'
import type { Device, Vmm } from '../../src/migrate/vmm.ts'
import type { Pending } from './clock.ts'
import type { SimulatedMemory } from './guest-memory.ts'
import type { World } from './world.ts'

export type VmmCall = 'stop' | 'resume' | 'throttle'
export type DeviceCall =
  | 'completePieces'
  | 'setup'
  | 'iterate'
  | 'pendingExact'
  | 'complete'
  | 'load'
  | 'switchoverAck'

/** One call that goes wrong: it throws, rejects later, or never comes back. */
export interface CallFault<Call> {
  call: Call
  after: number
  how: 'throw' | 'reject' | 'hang'
}

export interface GuestPlan {
  writeEveryMs: number
  pagesPerWrite: number
  workingSet: number
  /** It writes no more from then on. */
  restsAfterMs: number
  faults: CallFault<VmmCall>[]
}

export class SimulatedGuest {
  readonly #world: World
  readonly #memory: SimulatedMemory
  readonly #plan: GuestPlan
  readonly #calls = new Map<VmmCall, number>()
  readonly #beganMs: number
  #version = 1
  #inCall = false
  #throttle = 0
  #writing: Pending | undefined
  runs = true
  /** A call failed after which nobody can know whether the guest runs. */
  lost = false

  constructor(world: World, memory: SimulatedMemory, plan: GuestPlan) {
    this.#world = world
    this.#memory = memory
    this.#plan = plan
    this.#beganMs = world.clock.nowMs
    for (const [block, pages] of memory.pages.entries()) {
      for (let page = 0; page < pages.length; page += 1) {
        if (world.lots.chance(0.7)) memory.write(block, page, this.#next())
      }
    }
    this.#keepWriting()
  }

  readonly vmm: Vmm = {
    stop: () => {
      if (!this.runs) this.#world.violated('a guest that stands still is stopped')
      return this.#call('stop', () => {
        this.runs = false
      })
    },
    resume: () => {
      return this.#call('resume', () => {
        this.runs = true
        this.#keepWriting()
      })
    },
    throttle: (percent) => {
      return this.#call('throttle', () => {
        this.#throttle = percent
      })
    },
  }

  /** Nothing of it happens any more. */
  end(): void {
    this.#world.clock.callOff(this.#writing)
    this.#writing = undefined
  }

  get throttle(): number {
    return this.#throttle
  }

  writeSome(): void {
    const { lots } = this.#world
    for (let count = 0; count < this.#plan.pagesPerWrite; count += 1) {
      const block = lots.whole(0, this.#memory.pages.length - 1)
      const pages = this.#memory.pages[block]?.length ?? 1
      const page = lots.whole(0, Math.max(0, Math.ceil(pages * this.#plan.workingSet) - 1))
      this.#memory.write(block, page, lots.chance(0.1) ? 0 : this.#next())
    }
  }

  #next(): number {
    this.#version += 1
    return this.#version
  }

  #keepWriting(): void {
    const { clock } = this.#world
    clock.callOff(this.#writing)
    const everyMs = this.#plan.writeEveryMs / (1 - this.#throttle / 100)
    this.#writing = clock.after(everyMs, () => {
      if (!this.runs || clock.nowMs - this.#beganMs > this.#plan.restsAfterMs) return
      this.writeSome()
      this.#keepWriting()
    })
  }

  #call(call: VmmCall, effect: () => void): void | Promise<void> {
    const { clock, lots } = this.#world
    if (this.#inCall) this.#world.violated(`the VMM's ${call} is called while another call runs`)
    const calls = this.#calls.get(call) ?? 0
    this.#calls.set(call, calls + 1)
    const fault = this.#plan.faults.find((entry) => entry.call === call && entry.after === calls)
    this.#world.note(`vmm.${call}${fault === undefined ? '' : ` (${fault.how})`}`)
    const took = fault === undefined || lots.chance(0.5)
    if (fault !== undefined && call === 'resume') this.lost = true
    if (fault?.how === 'throw' || (fault === undefined && lots.chance(0.5))) {
      if (took) effect()
      if (fault !== undefined) throw new Error(`the simulated VMM cannot ${call}`)
      return
    }
    this.#inCall = true
    return new Promise((resolve, reject) => {
      clock.after(lots.between(0, lots.oneOf([1, 50])), () => {
        this.#inCall = false
        if (took) effect()
        if (fault === undefined) resolve()
        else reject(new Error(`the simulated VMM cannot ${call}`))
      })
    })
  }
}

export interface DevicePlan {
  idstr: string
  kind: 'simple' | 'whole' | 'iterable' | 'pieces'
  stateBytes: number
  loadTimeMs: number
  /** Saving it writes guest memory. */
  writesMemory: boolean
  faults: { source: CallFault<DeviceCall>[]; destination: CallFault<DeviceCall>[] }
  ackAfterMs: number | undefined
}

/** One device at both ends. */
export class SimulatedDevice {
  readonly source: Device | SaveStateHandler
  readonly destination: Device | SaveStateHandler
  readonly idstr: string
  readonly #world: World
  readonly #plan: DevicePlan
  readonly #guest: SimulatedGuest
  readonly #calls = new Map<string, number>()
  #given: string[] = []
  #loaded: string[] = []
  #left: number
  #serial = 0

  constructor(world: World, guest: SimulatedGuest, plan: DevicePlan) {
    this.#world = world
    this.#guest = guest
    this.#plan = plan
    this.idstr = plan.idstr
    this.#left = plan.stateBytes
    const { idstr } = plan
    const load = (state: Uint8Array, part: StatePart): void | Promise<void> =>
      this.#call('destination', 'load', () => {
        if (part === 'setup' || plan.kind === 'simple') this.#loaded = []
        this.#loaded.push(`${part} ${Buffer.from(state).toString('hex')}`)
      })
    const loadSimple = (state: Uint8Array): void | Promise<void> => load(state, 'complete')
    const save = (): Uint8Array | Promise<Uint8Array> =>
      this.#call('source', 'complete', () => this.#complete())
    if (plan.kind === 'simple') {
      this.source = { idstr, save, load: loadSimple }
      this.destination = { idstr, save, load: loadSimple }
      return
    }
    const iterable = {
      pendingEstimate: () => this.#left,
      pendingExact: () => this.#call('source', 'pendingExact', () => this.#left),
      iterate: (budget: number) => this.#call('source', 'iterate', () => this.#iterate(budget)),
    }
    const ackAfterMs = plan.ackAfterMs
    const ack = (): Promise<void> =>
      new Promise((resolve, reject) => {
        const fails = this.#fault('destination', 'switchoverAck') !== undefined
        world.clock.after(ackAfterMs ?? 0, () => {
          if (fails) reject(new Error('the simulated device will not switch over'))
          else resolve()
        })
      })
    const handler: SaveStateHandler = {
      idstr,
      loadTimeMs: plan.loadTimeMs,
      setup: () => this.#call('source', 'setup', () => this.#setup()),
      ...(plan.kind === 'iterable' ? iterable : {}),
      ...(plan.kind === 'pieces' ? { completePieces: () => this.#pieces() } : {}),
      complete: save,
      load,
    }
    this.source = handler
    this.destination = { ...handler, ...(ackAfterMs === undefined ? {} : { switchoverAck: ack }) }
  }

  /** What the destination loaded is not what the source gave; undefined if it is. */
  get difference(): string | undefined {
    const [given, loaded] = [this.#given.join(), this.#loaded.join()]
    return given === loaded ? undefined : `${this.idstr}: loaded [${loaded}], given [${given}]`
  }

  #setup(): Uint8Array {
    this.#given = []
    this.#left = this.#plan.stateBytes
    return this.#give('setup', 4)
  }

  #iterate(budget: number): Uint8Array {
    const bytes = Math.min(budget, this.#left, this.#world.lots.whole(1, 64))
    this.#left -= bytes
    if (this.#world.lots.chance(0.05)) this.#left += 8
    return this.#give('iterate', bytes)
  }

  async *#pieces(): AsyncGenerator<Uint8Array> {
    for (let count = this.#world.lots.whole(0, 12); count > 0; count -= 1) {
      yield await this.#call('source', 'completePieces', () => this.#give('piece', 20))
    }
  }

  #complete(): Uint8Array {
    if (this.#guest.runs) this.#world.violated(`${this.idstr} is saved while its guest runs`)
    if (this.#plan.kind === 'simple') this.#given = []
    if (this.#plan.writesMemory) this.#guest.writeSome()
    return this.#give('complete', this.#left + 2)
  }

  #give(part: StatePart, bytes: number): Uint8Array {
    this.#serial += 1
    const state = new Uint8Array(Math.max(1, bytes)).fill(this.#serial % 251)
    this.#given.push(`${part} ${Buffer.from(state).toString('hex')}`)
    return state
  }

  #fault(side: 'source' | 'destination', call: DeviceCall): CallFault<DeviceCall> | undefined {
    const key = `${side} ${call}`
    const calls = this.#calls.get(key) ?? 0
    this.#calls.set(key, calls + 1)
    return this.#plan.faults[side].find((fault) => fault.call === call && fault.after === calls)
  }

  #call<T>(side: 'source' | 'destination', call: DeviceCall, effect: () => T): T | Promise<T> {
    const { clock, lots } = this.#world
    const fault = this.#fault(side, call)
    if (fault !== undefined) this.#world.note(`${side} ${this.idstr}.${call} (${fault.how})`)
    const error = new Error(`the simulated device cannot ${call}`)
    if (fault?.how === 'throw') throw error
    if (fault?.how === 'hang') return new Promise(() => {})
    if (fault === undefined && lots.chance(0.5)) return effect()
    return new Promise((resolve, reject) => {
      clock.after(lots.between(0, lots.oneOf([1, 20])), () => {
        if (fault === undefined) resolve(effect())
        else reject(error)
      })
    })
  }
}
