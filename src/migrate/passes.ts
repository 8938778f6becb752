// Devices that send while the guest runs, in fair turns on the main channel while RAM's extents are
// in flight on the others. In each pass every device gets one turn of limited bytes; where the
// bandwidth limit makes a pass wait, it goes on with the device whose turn it was. It knows neither
// sockets nor wire: bytes go to `write`, bandwidth comes from accounts, the time from `now`.

import assert from 'node:assert/strict'
import type { BandwidthAccount, BandwidthAccounts } from '../schedule/bandwidth-accounts.ts'
import { LIMITED_EXTENT_MS } from '../schedule/round-plan.ts'
import type { NamedHandler } from './named-handler.ts'

/**
 * Most bytes of a turn: at 1 GB/s one device keeps the others waiting for a millisecond. Under a
 * limit a turn is as much of it as an extent of RAM, so that both can be served in turns.
 */
const TURN_BYTES_MAX = 1024 * 1024
/** Least budget of a turn, however low the limit is: a device may not be able to send less. */
const TURN_BYTES_MIN = 4096

/** When a pass had nothing to send the devices are asked again after this, or at `poke`. */
const IDLE_MS = 50
/** Longest wait for bandwidth before asking again: a limit may have been raised meanwhile. */
const WAIT_MS_MAX = 1000

/**
 * A device may have nothing to give for a moment. One that gives nothing in so many successive
 * turns, while it says that bytes are pending, would keep the migration from ever coming to its
 * end: it fails. Turns count once in 10 ms, so this is a third of a second at least, however fast
 * the passes are.
 */
export const FRUITLESS_TURNS_MAX = 32
const FRUITLESS_SPACING_MS = 10

/** Writes one section; resolves with its bytes on the wire once more may be written. */
export type WriteState = (
  handler: NamedHandler,
  part: 'setup' | 'iterate',
  state: Uint8Array,
) => Promise<number>

/** One device in a progress event. */
export interface DeviceProgress {
  idstr: string
  instanceId: number
  /** What it said last, bytes; 0 for one that says nothing. */
  pendingBytes: number
  /** State sent while the guest runs, setup included. */
  sentBytes: number
  /** How often it was asked to send something. */
  turns: number
}

/** A device with its share and its counters. */
interface Participant {
  readonly handler: NamedHandler
  readonly account: BandwidthAccount
  pendingBytes: number
  sentBytes: number
  turns: number
  /** Successive turns that gave nothing, and when the last of them was counted. */
  fruitless: number
  fruitlessMs: number
}

export class DevicePasses {
  readonly #all: readonly Participant[]
  readonly #iterable: readonly Participant[]
  readonly #write: WriteState
  readonly #now: () => number
  /** Whose turn it is, an index of `#iterable`. */
  #next = 0
  #running: Promise<void> | undefined
  #stopping = false
  /** Ends the wait that the passes are in. */
  #wake: () => void = () => {}
  /** Settles with the call into a device that is in hand: they never overlap. */
  #inHand: Promise<unknown> = Promise.resolve()

  /** @param options.now monotonic, milliseconds; the clock that the accounts are asked with */
  constructor(options: {
    handlers: readonly NamedHandler[]
    accounts: BandwidthAccounts
    write: WriteState
    now: () => number
  }) {
    const { handlers, accounts } = options
    this.#all = handlers.map((handler) => ({
      ...{ handler, account: accounts.open(), pendingBytes: 0, sentBytes: 0, turns: 0 },
      ...{ fruitless: 0, fruitlessMs: Number.NEGATIVE_INFINITY },
    }))
    this.#iterable = this.#all.filter(({ handler }) => handler.iterable)
    this.#write = options.write
    this.#now = options.now
  }

  /**
   * Before round 0, and once more on a resumed connection: START of every device that has one.
   * Nobody waits for bandwidth here; the bytes are charged, and what follows waits for them.
   */
  async setup(): Promise<void> {
    for (const device of this.#all) {
      if (!device.handler.sectioned) continue
      const state = await this.#exclusive(() => device.handler.setup())
      device.account.charge(await this.#write(device.handler, 'setup', state), this.#now())
      device.sentBytes += state.length
    }
  }

  /** Passes until `stop`; rejects with the error of the first device that fails. */
  run(): Promise<void> {
    assert(this.#running === undefined, 'the passes over the devices run already')
    this.#stopping = false
    this.#running = this.#passes()
    return this.#running
  }

  /** Ends the passes; resolves after the turn in hand, or rejects as `run` does. */
  async stop(): Promise<void> {
    this.#stopping = true
    this.#wake()
    try {
      await this.#running
    } finally {
      this.#running = undefined
    }
  }

  /** Looks at once whether a device has something; call it at the beginning of each round. */
  poke(): void {
    this.#wake()
  }

  /** What all devices say that remains, bytes; asks them. @throws MultifdError */
  pendingBytes(): number {
    for (const device of this.#all) device.pendingBytes = device.handler.pendingEstimate()
    return this.#sum()
  }

  /** The same, exactly, between turns: of devices that send before the stop, and of the others. */
  async pendingExact(): Promise<{ iterableBytes: number; stopOnlyBytes: number }> {
    const pending = { iterableBytes: 0, stopOnlyBytes: 0 }
    for (const device of this.#all) {
      const { handler } = device
      device.pendingBytes = (await this.#exclusive(() => handler.pendingExact())) ?? 0
      pending[handler.iterable ? 'iterableBytes' : 'stopOnlyBytes'] += device.pendingBytes
    }
    return pending
  }

  /** Counters of all devices; asks nobody. */
  get progress(): DeviceProgress[] {
    return this.#all.map(({ handler: { idstr, instanceId }, pendingBytes, sentBytes, turns }) => {
      return { idstr, instanceId, pendingBytes, sentBytes, turns }
    })
  }

  async #passes(): Promise<void> {
    while (!this.#stopping && this.#iterable.length > 0) {
      const sentBytes = await this.#pass()
      if (this.#stopping) return
      if (sentBytes === 0) await this.#wait(IDLE_MS)
      // Devices that answer at once, on a channel that takes at once, must not hold the event loop.
      else await new Promise((resolve) => setImmediate(resolve))
    }
  }

  /** One turn for every device that has something, from the one whose turn it is on. */
  async #pass(): Promise<number> {
    let sentBytes = 0
    for (let asked = 0; asked < this.#iterable.length; asked += 1) {
      const device = this.#iterable[this.#next]
      assert(device !== undefined, `no device ${this.#next} of ${this.#iterable.length}`)
      device.pendingBytes = device.handler.pendingEstimate()
      if (device.pendingBytes === 0) device.fruitless = 0
      else if (!(await this.#mayStart(device))) return sentBytes
      else sentBytes += await this.#exclusive(() => this.#turn(device))
      this.#next = (this.#next + 1) % this.#iterable.length
    }
    return sentBytes
  }

  /** Waits for bandwidth; false if the passes end first. */
  async #mayStart({ account }: Participant): Promise<boolean> {
    while (!this.#stopping) {
      const waitMs = account.waitMs(this.#now())
      if (waitMs === 0) return true
      await this.#wait(Math.min(waitMs, WAIT_MS_MAX))
    }
    account.leave()
    return false
  }

  async #turn(device: Participant): Promise<number> {
    const { account, handler } = device
    const budgetBytes = turnBytes(account.bytesPerSecond)
    const charge = account.charge(budgetBytes, this.#now())
    const state = await handler.iterate(budgetBytes)
    device.turns += 1
    const wireBytes = state.length === 0 ? 0 : await this.#write(handler, 'iterate', state)
    account.settle(charge, wireBytes, this.#now())
    device.sentBytes += state.length
    device.pendingBytes = handler.pendingEstimate()
    this.#judge(device, state.length)
    return state.length
  }

  /** A device that says something is pending must give something in the end. */
  #judge(device: Participant, sentBytes: number): void {
    const { handler, pendingBytes } = device
    if (sentBytes > 0 || pendingBytes === 0) {
      device.fruitless = 0
      return
    }
    const nowMs = this.#now()
    if (nowMs - device.fruitlessMs < FRUITLESS_SPACING_MS) return
    device.fruitlessMs = nowMs
    device.fruitless += 1
    if (device.fruitless < FRUITLESS_TURNS_MAX) return
    throw handler.refuse(
      'iterate',
      `gave nothing in ${FRUITLESS_TURNS_MAX} successive turns although pendingEstimate says that ` +
        `${pendingBytes} bytes remain: it must give some, or say 0 until it can`,
    )
  }

  async #wait(waitMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, waitMs)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.#wake = () => {}
  }

  async #exclusive<T>(call: () => Promise<T>): Promise<T> {
    const before = this.#inHand
    const work = before.then(call)
    // Whoever comes next waits for the end of this call, not for how it ended.
    this.#inHand = work.catch(() => {})
    return await work
  }

  #sum(): number {
    return this.#all.reduce((sum, { pendingBytes }) => sum + pendingBytes, 0)
  }
}

/** The budget of a turn at this limit; 0 means that there is none. */
function turnBytes(bytesPerSecond: number): number {
  if (bytesPerSecond === 0) return TURN_BYTES_MAX
  const limited = Math.floor((bytesPerSecond * LIMITED_EXTENT_MS) / 1000)
  return Math.max(TURN_BYTES_MIN, Math.min(TURN_BYTES_MAX, limited))
}
