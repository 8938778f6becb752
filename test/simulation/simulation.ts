// One simulated migration from its seed: sets both sides up in a world of their own, lets the clock
// run, looks after every step whether what must hold does, and at the end lets the operator decide
// what is left to decide.

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { MigrationDestination } from '../../src/destination.ts'
import { GuestMemory } from '../../src/guest/guest-memory.ts'
import { MultifdError } from '../../src/kit/errors.ts'
import { TRACE_CHANNELS, type TraceEvents } from '../../src/kit/trace.ts'
import type { Owner } from '../../src/migrate/ownership.ts'
import { type Migration, MigrationSource } from '../../src/source.ts'
import { SimulatedClock } from './clock.ts'
import { Lots } from './draw.ts'
import { enterWorld, nativeThreads } from './fake-addon.ts'
import { SimulatedDevice, SimulatedGuest } from './guest.ts'
import type { SimulatedMemory } from './guest-memory.ts'
import { carryOut } from './operator.ts'
import type { Planned, Scenario, When } from './scenario.ts'
import { type Word, World } from './world.ts'

/** What is promised must have settled by then, whatever was drawn; virtual time. */
const SETTLED_WITHIN_MS = 300_000
const PATH = '/simulated'

export interface Outcome {
  violations: readonly string[]
  log: readonly string[]
  source: string
  destination: string
  virtualMs: number
}

export class Simulation {
  readonly world: World
  readonly scenario: Scenario
  readonly guest: SimulatedGuest
  readonly devices: SimulatedDevice[]
  readonly sourceAbort = new AbortController()
  readonly destinationAbort = new AbortController()
  readonly #from: GuestMemory
  readonly #to: GuestMemory
  migration: Migration | undefined
  destination: MigrationDestination | undefined
  #arrivedAt = false
  /** The statuses at both sides before the operator decides. */
  #ends = { source: 'none', destination: 'none' }
  /** A connection was cut, and the guest was stopped before the source heard of it. */
  #cutUnnoticed = false
  /** Of what waits for a status; each happens once. */
  readonly #done = new Set<Planned>()
  /** How each promise settled; undefined while it has not. */
  readonly #settled = new Map<string, unknown>()

  private constructor(seed: number, draw: (lots: Lots) => Scenario) {
    const lots = new Lots(seed)
    this.scenario = draw(lots)
    const { blocks, disturbances } = this.scenario
    const clock = new SimulatedClock()
    this.world = new World({ clock, lots, disturbances, ...nativeThreads })
    enterWorld(this.world)
    this.world.mayCut = () => this.#cut()
    this.world.heard = (word) => this.#said(word)
    const sizes = blocks.map(({ idstr, pageCount }) => ({ idstr, sizeBytes: pageCount * 4096 }))
    this.#from = GuestMemory.of(sizes)
    this.#to = GuestMemory.of(sizes)
    this.guest = new SimulatedGuest(this.world, pagesOf(this.#from), this.scenario.guest)
    this.devices = this.scenario.devices.map((plan) => {
      return new SimulatedDevice(this.world, this.guest, plan)
    })
    for (const pages of pagesOf(this.#to).pages) pages.fill(7) // what was there before
  }

  /** Runs the migration of this seed. */
  static async run(seed: number, draw: (lots: Lots) => Scenario): Promise<Outcome> {
    const simulation = new Simulation(seed, draw)
    const { clock } = simulation.world
    const lost = (reason: unknown): void => {
      simulation.world.violated(`a rejection that nobody handles: ${reason}`)
    }
    const heard = (payload: unknown, name: string | symbol): void => {
      if (name === 'multifd:state') simulation.#heard(payload)
      else simulation.world.note(`${String(name)} ${JSON.stringify(payload)}`)
    }
    process.on('unhandledRejection', lost)
    for (const name of TRACE_CHANNELS) subscribe(name, heard)
    clock.install()
    try {
      return await simulation.#run()
    } finally {
      clock.uninstall()
      for (const name of TRACE_CHANNELS) unsubscribe(name, heard)
      process.off('unhandledRejection', lost)
    }
  }

  async #run(): Promise<Outcome> {
    const { world } = this
    this.#carryOutAll((when) => 'afterMs' in when)
    await this.#begin()
    await this.#until(['migration'])
    await this.#runWhile(() => !this.#settled.has('arrival'))
    // Nobody came: then it listens on, until it is closed.
    if (world.identified === 0) this.#watch('close', this.destination?.close())
    await this.#until(['arrival'])
    this.#judge()
    await this.#decide()
    this.#watch('close', this.destination?.close())
    await this.#until(['close', 'events'])
    this.guest.end()
    await this.#runWhile(() => true)
    this.#countWhatIsLeft()
    return {
      violations: world.violations,
      log: world.log,
      ...this.#ends,
      virtualMs: world.clock.nowMs,
    }
  }

  async #begin(): Promise<void> {
    const { scenario, world } = this
    const listening = MigrationDestination.listen(`unix:${PATH}`, {
      memory: this.#to,
      devices: this.devices.map(({ destination }) => destination),
      signal: this.destinationAbort.signal,
      ...scenario.destination,
    })
    this.#watch('listen', listening)
    await this.#until(['listen'])
    this.destination = await listening
    const source = new MigrationSource({
      memory: this.#from,
      vmm: this.guest.vmm,
      devices: this.devices.map(({ source: device }) => device),
      ...scenario.source,
    })
    this.migration = source.migrate(`unix:${PATH}`, { signal: this.sourceAbort.signal })
    this.#watch('migration', this.migration.result)
    this.#watch('arrival', this.destination.completed)
    if (world.lots.chance(0.3)) this.#watch('events', this.#follow(this.migration))
    else this.#settled.set('events', undefined)
  }

  async #follow(migration: Migration): Promise<void> {
    for await (const { elapsedMs } of migration) {
      if (!Number.isFinite(elapsedMs)) this.world.violated('a progress event without a time')
    }
  }

  #watch(name: string, promise: Promise<unknown> | undefined): void {
    const settle = (how: string) => (value: unknown) => {
      this.#settled.set(name, value)
      const why = value instanceof Error ? `: ${value.message}` : ''
      this.world.note(`${name} ${how}${why}`)
      if (how === 'rejects' && name !== 'events' && !(value instanceof MultifdError)) {
        this.world.violated(`${name} rejects with ${value}`)
      }
    }
    ;(promise ?? Promise.resolve()).then(settle('resolves'), settle('rejects'))
  }

  /** Until all of these have settled. */
  async #until(names: readonly string[]): Promise<void> {
    const settled = (): boolean => names.every((name) => this.#settled.has(name))
    await this.#runWhile(() => !settled())
    const open = names.filter((name) => !this.#settled.has(name))
    for (const name of open) this.world.violated(`${name} never settles`)
  }

  async #runWhile(goesOn: () => boolean): Promise<void> {
    const endMs = this.world.clock.nowMs + SETTLED_WITHIN_MS
    await this.world.clock.run(() => {
      this.#check()
      return !goesOn() || this.world.clock.nowMs > endMs || this.world.violations.length > 0
    })
  }

  /** After every step. */
  #check(): void {
    const arrived = this.destination?.status === 'completed'
    if (arrived && !this.#arrivedAt) {
      this.#arrivedAt = true
      this.#compare()
    }
    if (arrived && this.guest.runs) this.world.violated('the guest runs at both sides')
  }

  /** What the destination is about to run is what the source has stopped. */
  #compare(): void {
    const [from, to] = [pagesOf(this.#from).pages, pagesOf(this.#to).pages]
    for (const [block, pages] of from.entries()) {
      const page = pages.findIndex((version, index) => version !== to[block]?.[index])
      if (page < 0) continue
      this.world.violated(
        `page ${page} of block ${block} is ${to[block]?.[page]}, not ${pages[page]}`,
      )
    }
    for (const { difference } of this.devices) {
      if (difference !== undefined) this.world.violated(difference)
    }
  }

  /** Both sides have spoken: what they say must fit together. */
  #judge(): void {
    const source = this.migration?.status
    const destination = this.destination?.status
    this.#ends = { source: source ?? 'none', destination: destination ?? 'none' }
    const together = `source ${source}, destination ${destination}`
    this.world.note(together)
    if (source === 'completed' && destination !== 'completed') this.world.violated(together)
    if (destination === 'completed' && source !== 'completed' && source !== 'unknown') {
      this.world.violated(together)
    }
    const must = this.scenario.calm || (this.scenario.cutsSpareTheStop && !this.#cutUnnoticed)
    if (must && source !== 'completed') {
      this.world.violated(`nothing went wrong that cannot be mended, but ${together}`)
    }
    const kept = source === 'failed' || source === 'cancelled'
    if (kept && !this.guest.runs && !this.guest.lost) {
      this.world.violated(`the guest was kept, but stands still: ${together}`)
    }
    if (kept && this.guest.throttle > 0 && !this.scenario.guest.faults.length) {
      this.world.violated(`the guest was kept, but is slowed down: ${together}`)
    }
  }

  /** As docs/ownership.md tells the operator: first the side where it must never run. */
  async #decide(): Promise<void> {
    const { destination, migration, world } = this
    if (destination === undefined || migration === undefined) return
    const [here, there] = [migration.status === 'unknown', destination.status === 'unknown']
    let owner: Owner = destination.status === 'completed' ? 'destination' : 'source'
    if (here && there) owner = world.lots.oneOf(['source', 'destination'])
    const atSource = (): void => {
      if (here) this.#watch('decide', migration.decide(owner))
    }
    if (owner === 'destination') atSource()
    if (there) destination.decide(owner)
    if (owner === 'source') atSource()
    if (here) await this.#until(['decide'])
    this.#check()
    const owners = Number(this.guest.runs) + Number(destination.status === 'completed')
    if (owners !== 1 && !this.guest.lost) world.violated(`${owners} guests run in the end`)
  }

  #countWhatIsLeft(): void {
    const { world } = this
    for (const [kind, count] of world.census) {
      if (count !== 0) world.violated(`${count} left of: ${kind}`)
    }
    if (world.clock.timers > 0) world.violated(`${world.clock.timers} timers are left`)
    if (world.network.openEnds.size > 0) {
      world.violated(`${world.network.openEnds.size} sockets are left`)
    }
  }

  /** A cut is due; whether it happens. */
  #cut(): boolean {
    if (!this.scenario.cutsSpareTheStop) return true
    const spared = !['active', 'reconnecting'].includes(this.migration?.status ?? '')
    if (spared || !['active', 'reconnecting'].includes(this.destination?.status ?? '')) return false
    this.#cutUnnoticed = true
    return true
  }

  #said(word: Word): void {
    this.world.note(`"${word}" is said`)
    this.#carryOutAll((when) => 'word' in when && when.word === word)
  }

  /** What was planned for this moment; each once. */
  #carryOutAll(due: (when: When) => boolean): void {
    for (const planned of this.scenario.planned) {
      const { deed, when } = planned
      if (this.#done.has(planned) || !due(when)) continue
      this.#done.add(planned)
      const delayMs = 'delayMs' in when ? when.delayMs : when.afterMs
      this.world.clock.after(delayMs, () => carryOut(this, deed))
    }
  }

  #heard(payload: unknown): void {
    const { side, to } = payload as TraceEvents['multifd:state']
    this.world.note(`${side} is ${to}`)
    this.#carryOutAll((when) => 'side' in when && when.side === side && when.status === to)
    if (side === 'source' && to === 'reconnecting') this.#cutUnnoticed = false
    if (to === 'pre-switchover') {
      this.world.clock.after(this.scenario.continueAfterMs, () => this.migration?.continue())
    }
  }
}

function pagesOf(memory: GuestMemory): SimulatedMemory {
  return memory.native as SimulatedMemory
}
