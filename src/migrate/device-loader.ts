// The destination's devices: sections from the main channel and pieces from the multifd channels
// come in, and are loaded into each device in the order in which its source gave them. It knows
// neither sockets nor threads. Order on the main channel is checked by the reader; here it is
// checked against what this side has.

import assert from 'node:assert/strict'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { type DevicePiece, decodeDevicePiece, isEndOfState } from '../wire/device-piece.ts'
import type {
  DeviceSectionEvent,
  DeviceStateEvent,
  SectionName,
} from '../wire/main-stream-events.ts'
import type { NamedHandler } from './named-handler.ts'
import type { StatePart } from './save-state.ts'

/** Default of `deviceQueueBytesMax`: 64 pieces of ours wait for one that is late. */
export const DEVICE_QUEUE_BYTES_MAX = 64 * 1024 * 1024

/** What a queued piece takes beside its data, so that a flood of empty ones has a bound too. */
const PIECE_OVERHEAD_BYTES = 128

/** What a receive channel gives: the payload of one device-state packet. */
export interface DevicePacket {
  idstr: string
  instanceId: number
  bytes: Uint8Array
}

/** One device on its way in. */
interface LoadingDevice {
  readonly handler: NamedHandler
  /** Nothing came yet; START came; its last section came. */
  state: 'awaited' | 'begun' | 'ended'
  /** Of the state, as START or FULL said. */
  versionId: number
  /** Its END said that its state comes in pieces. */
  inPieces: boolean
  /** Pieces that came and are not loaded, by index; what they take in all. */
  readonly pieces: Map<number, DevicePiece>
  queuedBytes: number
  /** The next one to load, the highest that came (-1: none), and the last one once it came. */
  nextIndex: number
  highestIndex: number
  lastIndex: number | undefined
  loadingPieces: boolean
  /** Resolves with its END, before which RAM may not be in place. */
  readonly ended: Deferred<void>
  /** Settles when all of it is loaded. */
  readonly loaded: Deferred<void>
  /** Settles with the call in hand: they never overlap. */
  inHand: Promise<unknown>
}

export class DeviceLoader {
  readonly #handlers: readonly NamedHandler[]
  readonly #queueBytesMax: number
  readonly #fail: (error: MultifdError) => void
  #devices: LoadingDevice[]
  #noMorePieces = false
  #callsInHand = 0

  /**
   * @param options.queueBytesMax pieces of one device that may wait for an earlier one, bytes
   * @param options.fail hears of the first piece that is wrong or cannot be loaded
   */
  constructor(options: {
    handlers: readonly NamedHandler[]
    queueBytesMax: number
    fail: (error: MultifdError) => void
  }) {
    this.#handlers = options.handlers
    this.#queueBytesMax = options.queueBytesMax
    this.#fail = options.fail
    this.#devices = this.#handlers.map(awaited)
  }

  /** A call into a device is in hand; each has its own time limit. */
  get loading(): boolean {
    return this.#callsInHand > 0
  }

  /**
   * A section of the main channel. Resolves when it was loaded, or at once for the END of a device
   * whose state comes in pieces.
   * @param ramOver all RAM is in place
   */
  async section(event: DeviceSectionEvent | DeviceStateEvent, ramOver: boolean): Promise<void> {
    const device = this.#find(event)
    if (event.kind === 'device-state') {
      if (device.state !== 'awaited' || !ramOver) {
        throw refuse(device, 'expected it once, and after the end of RAM')
      }
      this.#begin(device, event)
      await this.#end(device, event.payload)
    } else if (event.type === 'start') {
      if (device.state !== 'awaited') throw refuse(device, 'expected its START once')
      if (device.handler.simple) throw refuse(device, 'while the guest runs, expected it once')
      this.#begin(device, event)
      await this.#load(device, event.payload, 'setup')
    } else if (event.type === 'part') {
      if (device.state !== 'begun') throw refuse(device, 'expected its START first')
      await this.#load(device, event.payload, 'iterate')
    } else {
      if (device.state !== 'begun' || !ramOver) {
        throw refuse(device, 'expected its END after its START and the end of RAM')
      }
      await this.#end(device, event.payload)
    }
  }

  /** A piece from a multifd channel, in any order. Never throws: `fail` hears of what is wrong. */
  piece(packet: DevicePacket): void {
    try {
      const device = this.#find(packet)
      const decoded = decodeDevicePiece(packet.bytes)
      if (!decoded.ok) {
        const { code, message } = decoded.error
        throw new MultifdError(code, `${device.handler.name}: ${message}`)
      }
      this.#enqueue(device, decoded.value)
      if (!device.loadingPieces)
        this.#loadPieces(device).catch((error) => this.#failed(device, error))
    } catch (error) {
      assert(error instanceof MultifdError, 'a piece is refused by an error of ours')
      this.#fail(error)
    }
  }

  /** Every multifd channel has ended: what did not come will not come. */
  channelsEnded(): void {
    this.#noMorePieces = true
    for (const device of this.#devices) this.#checkPieces(device)
  }

  /** At EOF: resolves when every device is loaded to its last piece. */
  async finish(): Promise<void> {
    for (const { state, handler } of this.#devices) {
      if (state === 'ended') continue
      throw new MultifdError(
        'ERR_MULTIFD_PROTOCOL',
        `the source sent no state for ${handler.name}: give both sides the same devices`,
      )
    }
    await Promise.all(this.#devices.map((device) => device.loaded.promise))
  }

  /**
   * The connection was lost before the switchover and another one begins: every device begins
   * afresh with its START. Resolves when no call into a device is in hand any more.
   */
  async restart(): Promise<void> {
    assert(
      this.#devices.every(({ state }) => state !== 'ended'),
      'devices do not begin afresh once one of them is complete',
    )
    await Promise.all(this.#devices.map(({ inHand }) => inHand))
    this.#devices = this.#handlers.map(awaited)
    this.#noMorePieces = false
  }

  #find({ idstr, instanceId }: { idstr: string; instanceId: number }): LoadingDevice {
    const found = this.#devices.find(({ handler }) => {
      return handler.idstr === idstr && handler.instanceId === instanceId
    })
    if (found !== undefined) return found
    throw new MultifdError(
      'ERR_MULTIFD_PROTOCOL',
      `the source sent device "${idstr}" (instance ${instanceId}), which this destination does not ` +
        'have: give both sides the same devices',
    )
  }

  #begin(device: LoadingDevice, { versionId }: SectionName): void {
    const { handler } = device
    if (versionId > handler.versionId) {
      throw new MultifdError(
        'ERR_MULTIFD_UNSUPPORTED',
        `the source sent ${handler.name} in version ${versionId}, expected at most ` +
          `${handler.versionId}: the destination's VMM is older than the source's`,
      )
    }
    device.versionId = versionId
    device.state = 'begun'
  }

  async #end(device: LoadingDevice, payload: Uint8Array): Promise<void> {
    const inPieces = isEndOfState(payload) && !device.handler.simple
    if (!inPieces && device.highestIndex >= 0) {
      throw refuse(device, 'in pieces, expected its END to hold no state')
    }
    device.state = 'ended'
    device.inPieces = inPieces
    device.ended.resolve()
    if (inPieces) {
      this.#checkPieces(device)
      return
    }
    await this.#load(device, payload, 'complete')
    device.loaded.resolve()
  }

  #enqueue(device: LoadingDevice, piece: DevicePiece): void {
    const { index, last } = piece
    if (device.state === 'awaited' || device.handler.simple) {
      throw refuse(device, 'in pieces, expected its START first')
    }
    if (device.state === 'ended' && !device.inPieces) {
      throw refuse(device, `piece ${index} behind its END, which held its state`)
    }
    if (index < device.nextIndex || device.pieces.has(index)) {
      throw refuse(device, `piece ${index} twice, expected it once`)
    }
    const highest = device.highestIndex
    if (device.lastIndex !== undefined && (last || index > device.lastIndex)) {
      throw refuse(device, `piece ${index} behind its last one, ${device.lastIndex}`)
    }
    if (last && highest > index) {
      throw refuse(device, `piece ${index} as its last one, but piece ${highest} before it`)
    }
    if (last) device.lastIndex = index
    device.highestIndex = Math.max(highest, index)
    device.queuedBytes += queuedBytes(piece)
    device.pieces.set(index, piece)
    if (device.queuedBytes <= this.#queueBytesMax) return
    throw new MultifdError(
      'ERR_MULTIFD_LIMIT',
      `${device.handler.name}: ${device.queuedBytes} bytes of pieces wait to be loaded, piece ${device.nextIndex} ` +
        `first; at most ${this.#queueBytesMax} may (deviceQueueBytesMax): raise it if the device ` +
        'loads slowly for a good reason',
    )
  }

  /** Loads what is there without a gap. */
  async #loadPieces(device: LoadingDevice): Promise<void> {
    device.loadingPieces = true
    for (;;) {
      const piece = device.pieces.get(device.nextIndex)
      if (piece === undefined) break
      if (piece.last) await device.ended.promise
      await this.#load(device, piece.data, piece.last ? 'complete' : 'piece')
      device.pieces.delete(device.nextIndex)
      device.queuedBytes -= queuedBytes(piece)
      device.nextIndex += 1
      if (piece.last) device.loaded.resolve()
    }
    device.loadingPieces = false
  }

  /** A device whose pieces will not come any more is not waited for. */
  #checkPieces(device: LoadingDevice): void {
    if (!this.#noMorePieces || !device.inPieces) return
    let next = device.nextIndex
    while (device.pieces.has(next)) next += 1
    if (device.lastIndex !== undefined && next > device.lastIndex) return
    this.#failed(device, refuse(device, `no piece ${next} before its multifd channels ended`))
  }

  async #load(device: LoadingDevice, state: Uint8Array, part: StatePart): Promise<void> {
    const { handler, versionId } = device
    const work = device.inHand.then(() => handler.load(state, part, versionId))
    device.inHand = work.catch(() => {})
    this.#callsInHand += 1
    try {
      await work
    } finally {
      this.#callsInHand -= 1
    }
  }

  #failed(device: LoadingDevice, error: MultifdError): void {
    device.loaded.reject(error)
    this.#fail(error)
  }
}

function awaited(handler: NamedHandler): LoadingDevice {
  return {
    handler,
    state: 'awaited',
    versionId: 0,
    inPieces: false,
    pieces: new Map(),
    queuedBytes: 0,
    nextIndex: 0,
    highestIndex: -1,
    lastIndex: undefined,
    loadingPieces: false,
    ended: deferred(),
    loaded: deferred(),
    inHand: Promise.resolve(),
  }
}

function queuedBytes({ data }: DevicePiece): number {
  return data.length + PIECE_OVERHEAD_BYTES
}

function refuse(device: LoadingDevice, problem: string): MultifdError {
  const sentence = `the source sent ${device.handler.name}, ${problem}`
  return new MultifdError('ERR_MULTIFD_PROTOCOL', sentence)
}
