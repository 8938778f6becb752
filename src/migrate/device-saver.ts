// The devices of the source once the guest has stopped: those whose state travels in pieces all at
// once, over the channels; the others one after the other, for the main channel. It gives what
// is left to whoever writes it, and checks that no device sends far more than it had said.

import { encodeDevicePiece, endOfState, isEndOfState } from '../wire/device-piece.ts'
import type { NamedHandler } from './named-handler.ts'

/**
 * Pieces of one device that are out at a time: enough for the channels of a common migration to be
 * at work for it at once. That is at most 8 MiB of a device.
 */
export const PIECES_IN_FLIGHT_MAX = 8

/**
 * What may come after the stop beyond `pendingExact`: an eighth of it, and 64 KiB for registers and
 * the format around them. More would make the predicted downtime a lie.
 */
const SLACK_BYTES = 64 * 1024
const SLACK_DIVISOR = 8

/** One device-state packet on its way out. */
export interface OutgoingPiece {
  idstr: string
  instanceId: number
  /** A few bytes in front of the data; copied. */
  prefix: Uint8Array
  /** The VMM's memory, which must stay as it is until the piece is sent. */
  data: Uint8Array
}

/** Sends one piece over any channel; resolves when its memory is not read any more. */
export type SubmitPiece = (piece: OutgoingPiece) => Promise<void>

/** What the last section of a device holds: END if the device is `sectioned`, else FULL. */
export interface SavedState {
  device: NamedHandler
  state: Uint8Array
}

/**
 * Saves all devices; call it when the guest has stopped. Resolves when every piece was sent, with
 * what the main channel carries behind RAM's END, in order: ENDs, then FULLs. Rejects with the
 * first error, once no call into a device is in hand.
 */
export async function saveDevices(
  handlers: readonly NamedHandler[],
  submit: SubmitPiece,
): Promise<SavedState[]> {
  const failures: unknown[] = []
  const guarded = async (work: Promise<void>) => {
    await work.catch((error: unknown) => failures.push(error))
  }
  const failed = () => failures.length > 0
  const states = new Map<NamedHandler, Uint8Array>()
  const whole = async () => {
    for (const handler of handlers) {
      if (handler.inPieces || failed()) continue
      states.set(handler, await saveWhole(handler))
    }
  }
  const works = handlers.map(async (handler) => {
    if (!handler.inPieces) return
    await savePieces(handler, submit, failed)
    states.set(handler, endOfState())
  })
  await Promise.all([whole(), ...works].map(guarded))
  if (failed()) throw failures[0]
  const saved = handlers.map((device): SavedState => {
    return { device, state: states.get(device) ?? new Uint8Array(0) }
  })
  return [
    ...saved.filter(({ device }) => device.sectioned),
    ...saved.filter(({ device }) => !device.sectioned),
  ]
}

async function saveWhole(handler: NamedHandler): Promise<Uint8Array> {
  const promise = await Promised.of(handler)
  const state = await handler.complete()
  promise.count(state.length)
  if (handler.sectioned && isEndOfState(state)) {
    const problem = 'gave the eight bytes that mean "the state came in pieces": add one to them'
    throw handler.refuse('complete', problem)
  }
  return state
}

/** @param failed another device has failed: nothing more need be saved */
async function savePieces(
  handler: NamedHandler,
  submit: SubmitPiece,
  failed: () => boolean,
): Promise<void> {
  const promise = await Promised.of(handler)
  const { idstr, instanceId } = handler
  const inFlight = new Set<Promise<void>>()
  let index = 0
  const send = async (data: Uint8Array, last: boolean) => {
    promise.count(data.length)
    if (inFlight.size === PIECES_IN_FLIGHT_MAX) await Promise.race(inFlight)
    const sent = submit({ idstr, instanceId, ...encodeDevicePiece({ index, last, data }) })
    // One that failed stays, so that whoever waits for a place, or for all, hears of it.
    const settled = sent.then(() => void inFlight.delete(settled))
    settled.catch(() => {})
    inFlight.add(settled)
    index += 1
  }
  for await (const piece of handler.pieces()) {
    if (failed()) return
    await send(piece, false)
  }
  // The memory of the pieces may change from the next call on.
  await Promise.all(inFlight)
  await send(await handler.complete(), true)
  await Promise.all(inFlight)
}

/** What a stopped device said it would give, and what it has given. */
class Promised {
  readonly #handler: NamedHandler
  readonly #saidBytes: number | undefined
  #givenBytes = 0

  private constructor(handler: NamedHandler, saidBytes: number | undefined) {
    this.#handler = handler
    this.#saidBytes = saidBytes
  }

  static async of(handler: NamedHandler): Promise<Promised> {
    return new Promised(handler, await handler.pendingExact())
  }

  count(bytes: number): void {
    this.#givenBytes += bytes
    const said = this.#saidBytes
    if (said === undefined) return
    const slackBytes = SLACK_BYTES + Math.floor(said / SLACK_DIVISOR)
    if (this.#givenBytes <= said + slackBytes) return
    throw this.#handler.refuse(
      'complete',
      `and its pieces gave ${this.#givenBytes} bytes, but pendingExact had said ${said} after the ` +
        `stop, expected at most ${slackBytes} more: it must say what remains, or nothing at all`,
    )
  }
}
