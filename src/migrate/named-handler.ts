// The only place that calls a device of the VMM, of either kind: each call has a time limit, and
// what throws, hangs or gives something impossible becomes an error that names device and call. It
// knows no wire and no order of calls; what was asked of it is checked in save-state.ts.

import { MultifdError } from '../kit/errors.ts'
import { DEVICE_STATE_BYTES_MAX } from '../kit/limits.ts'
import { describe } from '../kit/options.ts'
import type { SaveStateHandler, StatePart } from './save-state.ts'
import { callVmm, type Device, vmmFailure } from './vmm.ts'

/**
 * Largest piece of ours: small enough that eight in flight are 8 MiB, and that a channel which
 * takes one is back at its pages within milliseconds.
 */
export const PIECE_BYTES_MAX = 1024 * 1024

/** A device or handler with its defaults filled in, safe to call. */
export class NamedHandler {
  readonly idstr: string
  readonly instanceId: number
  readonly versionId: number
  /** For sentences, e.g. `device "vga" (instance 0)`. */
  readonly name: string
  /** Made of a `Device`: saved in one section after the stop, and loaded from one. */
  readonly simple: boolean
  /** Sends while the guest runs. */
  readonly iterable: boolean
  /** Its state after the stop travels over the channels. */
  readonly inPieces: boolean
  /** Has a START before round 0 and an END after the stop; the others are one FULL section. */
  readonly sectioned: boolean
  readonly loadTimeMs: number
  readonly #timeoutMs: number
  readonly #handler: SaveStateHandler
  readonly #completeCall: 'save' | 'complete'

  /** @internal Made by `checkDevices`, which has checked both. */
  constructor(
    naming: { idstr: string; instanceId: number; versionId: number; timeoutMs: number },
    device: Device | SaveStateHandler,
  ) {
    this.idstr = naming.idstr
    this.instanceId = naming.instanceId
    this.versionId = naming.versionId
    this.name = `device "${naming.idstr}" (instance ${naming.instanceId})`
    this.#timeoutMs = naming.timeoutMs
    this.simple = 'save' in device
    this.#completeCall = this.simple ? 'save' : 'complete'
    const handler = 'save' in device ? handlerOf(device) : device
    this.#handler = handler
    this.iterable = handler.iterate !== undefined
    this.inPieces = handler.completePieces !== undefined
    this.sectioned = this.iterable || this.inPieces || handler.setup !== undefined
    this.loadTimeMs = handler.loadTimeMs ?? 0
  }

  /** What its START carries; nothing where the handler has no `setup`. */
  async setup(): Promise<Uint8Array> {
    const state = await this.#call('setup', () => this.#handler.setup?.() ?? new Uint8Array(0))
    return this.#state('setup', state, DEVICE_STATE_BYTES_MAX)
  }

  /** Bytes that remain, about; 0 where the handler does not say. @throws MultifdError */
  pendingEstimate(): number {
    const call = 'pendingEstimate'
    let pending: unknown
    try {
      pending = this.#handler.pendingEstimate?.() ?? 0
    } catch (cause) {
      throw vmmFailure(this.#what(call), cause)
    }
    return this.#count(call, pending)
  }

  /** Bytes that remain; undefined where the handler says nothing. */
  async pendingExact(): Promise<number | undefined> {
    if (this.#handler.pendingExact !== undefined) {
      const call = 'pendingExact'
      const pending = await this.#call<unknown>(call, () => this.#handler.pendingExact?.())
      return this.#count(call, pending)
    }
    return this.#handler.pendingEstimate === undefined ? undefined : this.pendingEstimate()
  }

  /** Its turn: at most `budgetBytes`, maybe nothing. */
  async iterate(budgetBytes: number): Promise<Uint8Array> {
    const call = 'iterate'
    const state = await this.#call<unknown>(call, () => this.#handler.iterate?.(budgetBytes))
    return this.#state(call, state, budgetBytes)
  }

  /** The rest, after the stop; with pieces, what ends them. */
  async complete(): Promise<Uint8Array> {
    const max = this.inPieces ? PIECE_BYTES_MAX : DEVICE_STATE_BYTES_MAX
    const state = await this.#call<unknown>(this.#completeCall, () => this.#handler.complete())
    return this.#state(this.#completeCall, state, max)
  }

  /** The pieces after the stop; each step has the time limit of a call. */
  async *pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    const call = 'completePieces'
    const iterator = await this.#call(call, () => iteratorOf(this.#handler.completePieces?.()))
    let over = false
    try {
      while (!over) {
        const step = await this.#call(call, () => iterator.next())
        over = step.done === true
        if (!over) yield this.#state(call, step.value, PIECE_BYTES_MAX)
      }
    } finally {
      // It is told to clean up, but nobody waits for one that may hang.
      if (!over) void callVmm(call, () => iterator.return?.()).catch(() => {})
    }
  }

  async load(state: Uint8Array, part: StatePart, versionId: number): Promise<void> {
    await this.#call('load', () => this.#handler.load(state, part, versionId))
  }

  /** At once where the handler asks for no acknowledgement. Without a time limit. */
  async switchoverAck(): Promise<void> {
    await callVmm(this.#what('switchoverAck'), () => this.#handler.switchoverAck?.())
  }

  /** An error about what one of its calls gave. */
  refuse(call: string, problem: string): MultifdError {
    return new MultifdError('ERR_MULTIFD_VMM', `${this.#what(call)} ${problem}`)
  }

  #what(call: string): string {
    return `${call} of ${this.name}`
  }

  async #call<T>(call: string, run: () => T | Promise<T>): Promise<T> {
    const limitMs = this.#timeoutMs
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        const problem = `took longer than ${limitMs} ms (deviceTimeoutMs)`
        const advice = 'look what the VMM waits for there, or raise the limit'
        const sentence = `${this.#what(call)} ${problem}: ${advice}`
        reject(new MultifdError('ERR_MULTIFD_TIMEOUT', sentence))
      }, limitMs)
    })
    try {
      return await Promise.race([callVmm(this.#what(call), run), late])
    } finally {
      clearTimeout(timer)
    }
  }

  #state(call: string, state: unknown, maxBytes: number): Uint8Array {
    if (state instanceof Uint8Array && state.length <= maxBytes) return state
    const got = state instanceof Uint8Array ? `${state.length} bytes` : describe(state)
    throw this.refuse(call, `gave ${got}, expected a Uint8Array of at most ${maxBytes} bytes`)
  }

  #count(call: string, pending: unknown): number {
    if (typeof pending === 'number' && Number.isFinite(pending) && pending >= 0) return pending
    throw this.refuse(call, `gave ${describe(pending)}, expected a number of bytes, 0 or more`)
  }
}

/** A device that is saved in one piece, as a handler. */
function handlerOf(device: Device): SaveStateHandler {
  return {
    idstr: device.idstr,
    complete: () => device.save(),
    load: (state, _part, versionId) => device.load(state, versionId),
  }
}

function iteratorOf(pieces: unknown): Iterator<unknown> | AsyncIterator<unknown> {
  const iterable = pieces as Partial<AsyncIterable<unknown> & Iterable<unknown>> | null | undefined
  const iterator = iterable?.[Symbol.asyncIterator]?.() ?? iterable?.[Symbol.iterator]?.()
  if (iterator === undefined) throw new TypeError(`got ${describe(pieces)}, expected an iterable`)
  return iterator
}
