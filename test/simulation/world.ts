// What all parts of one simulated migration share: the clock, the lots, the network, the events of
// its threads, and a list of what must never happen and did.

import type { NativeError } from '../../src/kit/native.ts'
import type { SimulatedClock } from './clock.ts'
import type { Lots } from './draw.ts'
import { Network } from './network.ts'
import type { Cut } from './pipe.ts'

/** A native call that fails, and which one of its calls. */
export interface NativeFault {
  call: NativeCall
  after: number
}

export const NATIVE_CALLS = [
  'start',
  'beginRound',
  'extendRound',
  'giveBack',
  'plan',
  'empty',
  'startSendChannel',
  'startReceiveChannel',
] as const
export type NativeCall = (typeof NATIVE_CALLS)[number]

/** What a test breaks on purpose, to see that it is found. */
export type Sabotage =
  | 'lose-late-page'
  | 'keep-received'
  | 'count-torn-packet'
  | 'forget-given-back'
  | 'no-park'

/** The three words about the owner. */
export type Word = 'ready' | 'commit' | 'taken'

export interface Disturbances {
  cuts: readonly Cut[]
  native: readonly NativeFault[]
  sabotage: Sabotage | undefined
}

export class World {
  readonly clock: SimulatedClock
  readonly lots: Lots
  readonly network: Network
  readonly sabotage: Sabotage | undefined
  /** Connections that have said to the destination what they are. */
  identified = 0
  /** Whether a cut that is due may happen now. */
  mayCut = (): boolean => true
  /** What one side says to the other at the end, as it is written. */
  heard = (_word: Word): void => {}
  readonly violations: string[] = []
  readonly log: string[] = []
  readonly #faults: NativeFault[]
  readonly #calls = new Map<NativeCall, number>()
  readonly #events: number[] = []
  readonly #wakeup: () => void
  #woken = false
  #handles: () => number
  /** Native things that are there, by kind: none may be left. */
  readonly census = new Map<string, number>()

  constructor(parts: {
    clock: SimulatedClock
    lots: Lots
    disturbances: Disturbances
    wakeup: () => void
    handles: () => number
  }) {
    this.clock = parts.clock
    this.lots = parts.lots
    this.network = new Network(parts.clock, parts.lots, parts.disturbances.cuts, {
      note: (what) => this.note(what),
      mayCut: () => this.mayCut(),
    })
    this.sabotage = parts.disturbances.sabotage
    this.#faults = [...parts.disturbances.native]
    this.#wakeup = parts.wakeup
    this.#handles = parts.handles
  }

  /** What must never happen has happened. */
  violated(what: string): void {
    this.violations.push(`at ${this.clock.nowMs.toFixed(2)} ms: ${what}`)
  }

  note(what: string): void {
    this.log.push(`${this.clock.nowMs.toFixed(2).padStart(10)} ${what}`)
  }

  newHandle(): number {
    return this.#handles()
  }

  count(kind: string, by: 1 | -1): void {
    const sum = (this.census.get(kind) ?? 0) + by
    if (sum < 0) this.violated(`${kind} given back twice`)
    this.census.set(kind, sum)
  }

  /** The error that this call fails with, if it is its turn to. */
  refusal(call: NativeCall): NativeError | undefined {
    const calls = this.#calls.get(call) ?? 0
    this.#calls.set(call, calls + 1)
    const fails = this.#faults.some((fault) => fault.call === call && fault.after === calls)
    if (!fails) return undefined
    this.note(`${call} fails`)
    return { code: 'ERR_MULTIFD_LIMIT', detail: `the simulation lets ${call} fail`, errno: 0 }
  }

  /** Native work in another thread: its effect, and its result, come later. */
  work<T>(call: NativeCall | undefined, effect: () => T | NativeError): Promise<T | NativeError> {
    return new Promise((resolve, reject) => {
      this.clock.after(this.lots.between(0, this.lots.oneOf([0.1, 3])), () => {
        try {
          resolve((call === undefined ? undefined : this.refusal(call)) ?? effect())
        } catch (error) {
          reject(error)
        }
      })
    })
  }

  /** A thread speaks; quietly: nobody is woken for it. */
  emit(handle: number, kind: number, value = 0, quietly = false): void {
    this.#events.push(handle, kind, value)
    if (quietly || this.#woken) return
    this.#woken = true
    this.clock.after(this.lots.between(0, 0.2), () => {
      this.#woken = false
      this.#wakeup()
    })
  }

  drain(out: Float64Array): number {
    const events = this.#events.splice(0, out.length)
    out.set(events)
    return events.length
  }
}
