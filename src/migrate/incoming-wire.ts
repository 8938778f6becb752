// The destination's half of the conversation on the main channel: events come out one at a time,
// and nothing more is read while one is being worked on; answers go back on the return path.

import type { MainChannelListener, MainStream } from '../channel/main-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import { concatBytes } from '../wire/bytes.ts'
import { OWN_COMMAND_CANCEL, OWN_PONG_AT_WORK } from '../wire/dialect.ts'
import type { MainStreamEvent } from '../wire/main-stream-events.ts'
import { MainStreamReader } from '../wire/main-stream-reader.ts'
import {
  encodePong,
  encodeRecvBitmap,
  encodeResumeAck,
  encodeShut,
  encodeSwitchoverAck,
} from '../wire/return-path.ts'

/** What it means that the source closed a stream that is complete; undefined: nothing bad. */
export type CompleteEnd = () => MultifdError | undefined

export class IncomingWire {
  readonly #main: MainStream
  readonly #reader = new MainStreamReader()
  readonly #fail: (error: MultifdError) => void
  readonly #completeEnd: CompleteEnd
  /** Until the configuration was read: what came so far. */
  #opening: Uint8Array = new Uint8Array(0)
  #openingOver = false
  #events: MainStreamEvent[] = []
  /** What to report once the events before it were worked off. */
  #error: MultifdError | undefined
  #ended = false
  #arrived: Deferred<void> = deferred()
  /** Nobody asks for events any more. */
  #draining = false
  readonly #cancelled: Deferred<void> = deferred()

  /** Takes the main channel over; `fail` hears of a connection that breaks. */
  constructor(
    adopt: (listener: MainChannelListener) => MainStream,
    fail: (error: MultifdError) => void,
    completeEnd: CompleteEnd = handOverMissing,
  ) {
    this.#fail = fail
    this.#completeEnd = completeEnd
    this.#main = adopt({
      data: (bytes) => this.#received(bytes),
      ended: () => this.#peerEnded(),
      failed: fail,
    })
  }

  /** The next event if it came already: of many small ones, most did. */
  takeNow(): MainStreamEvent | undefined {
    return this.#events.shift()
  }

  /** Header and configuration as they came; empty before the configuration's event. */
  get opening(): Uint8Array {
    return this.#openingOver ? this.#opening : new Uint8Array(0)
  }

  /** The source closed its stream, which was complete. */
  get endedComplete(): boolean {
    return this.#ended && this.#events.length === 0 && this.#reader.end().ok
  }

  /** The next event. Throws what ended the stream, in its place behind the events before it. */
  async next(): Promise<MainStreamEvent> {
    for (;;) {
      const event = this.#events.shift()
      if (event !== undefined) return event
      if (this.#error !== undefined) throw this.#error
      if (this.#ended) throw this.#endError() ?? handOverMissing()
      this.#arrived = deferred()
      this.#main.resume()
      await this.#arrived.promise
    }
  }

  /** The bytes sent before it have been applied. */
  async pong(data: Uint8Array): Promise<void> {
    const value = new DataView(data.buffer, data.byteOffset, data.length).getUint32(0)
    await this.#main.write(encodePong(value))
  }

  /** Nobody asked, but the source is not to take this side for silent. Best effort. */
  atWork(): void {
    void this.#main.write(encodePong(OWN_PONG_AT_WORK))
  }

  /** This side's devices are ready for the switchover. */
  async switchoverAck(): Promise<void> {
    await this.#main.write(encodeSwitchoverAck())
  }

  /** What came over the connections so far, for a source that may have to connect again. */
  async resumeAck(collectedRounds: number): Promise<void> {
    await this.#main.write(encodeResumeAck(collectedRounds))
  }
  async receivedBitmap(idstr: string, bitmap: Uint8Array): Promise<void> {
    await this.#main.write(encodeRecvBitmap(idstr, bitmap))
  }

  /**
   * Resolves when the source has given the migration up, and else never. For a connection of which
   * nothing else is wanted any more: what comes is read and dropped.
   */
  async cancelled(): Promise<void> {
    this.#draining = true
    this.#events = []
    this.#main.resume()
    await this.#cancelled.promise
  }

  /** Everything is loaded: the source may give its guest up. */
  async ready(): Promise<void> {
    await this.#main.write(encodeShut(0))
  }

  /** The commit came: the guest is this side's. Queued; the guest need not wait for it. */
  taken(): void {
    void this.#main.write(encodeShut(0))
  }

  /** The migration failed here; best effort, as the connection may be what failed. */
  refuse(): void {
    void this.#main.write(encodeShut(1))
  }

  get readBytes(): number {
    return this.#main.readBytes
  }

  async close(): Promise<void> {
    await this.#main.close()
  }
  destroy(): void {
    this.#main.destroy()
  }

  #received(bytes: Uint8Array): void {
    const { events, error } = this.#reader.push(bytes)
    if (!this.#openingOver) this.#keepOpening(bytes)
    // Here and not by whoever asks for events: a connection that broke is asked by nobody.
    if (events.some(isCancel)) this.#cancelled.resolve()
    if (this.#draining) return
    this.#events.push(...events)
    this.#error ??= error
    if (this.#events.length > 0) this.#main.pause()
    if (this.#events.length > 0 || this.#error !== undefined) this.#arrived.resolve()
  }

  #keepOpening(bytes: Uint8Array): void {
    const openingBytes = this.#reader.openingBytes
    const kept = concatBytes(this.#opening, bytes)
    this.#openingOver = openingBytes !== undefined
    this.#opening = openingBytes === undefined ? kept : kept.slice(0, openingBytes)
  }

  #peerEnded(): void {
    this.#ended = true
    this.#arrived.resolve()
    // While an event is worked on nobody waits for the next one: the end must be heard all the
    // same.
    if (this.#events.length > 0 || this.#error !== undefined) return
    const error = this.#endError()
    if (error !== undefined) this.#fail(error)
  }

  #endError(): MultifdError | undefined {
    const end = this.#reader.end()
    return end.ok ? this.#completeEnd() : end.error
  }
}

function isCancel(event: MainStreamEvent): boolean {
  return event.kind === 'command' && event.command === OWN_COMMAND_CANCEL
}

function handOverMissing(): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_PEER_CLOSED',
    'everything was loaded, but the source closed the main channel without handing the guest over: ' +
      'it still has the guest, or its operator must say who starts it',
  )
}
