// The destination's half of the conversation on the main channel: events come out one at a time,
// and nothing more is read while one is being worked on; answers go back on the return path.

import { MainChannel } from '../channel/main-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection } from '../kit/native.ts'
import type { MainStreamEvent } from '../wire/main-stream-events.ts'
import { MainStreamReader } from '../wire/main-stream-reader.ts'
import { encodePong, encodeShut } from '../wire/return-path.ts'

export class IncomingWire {
  readonly #main: MainChannel
  readonly #reader = new MainStreamReader()
  readonly #fail: (error: MultifdError) => void
  #events: MainStreamEvent[] = []
  /** What to report once the events before it were worked off. */
  #error: MultifdError | undefined
  #ended = false
  #arrived: Deferred<void> = deferred()

  /** Takes the connection over; `fail` hears of a connection that breaks. */
  constructor(connection: NativeConnection, fail: (error: MultifdError) => void) {
    this.#fail = fail
    this.#main = MainChannel.adopt(connection, {
      data: (bytes) => this.#received(bytes),
      ended: () => this.#peerEnded(),
      failed: fail,
    })
  }

  /** The next event. Throws what ended the stream, in its place behind the events before it. */
  async next(): Promise<MainStreamEvent> {
    for (;;) {
      const event = this.#events.shift()
      if (event !== undefined) return event
      if (this.#error !== undefined) throw this.#error
      if (this.#ended) throw this.#endError()
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

  /** Everything is loaded: the source may give its guest up. */
  async ready(): Promise<void> {
    await this.#main.write(encodeShut(0))
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
    this.#events.push(...events)
    this.#error ??= error
    if (this.#events.length > 0) this.#main.pause()
    if (this.#events.length > 0 || this.#error !== undefined) this.#arrived.resolve()
  }

  #peerEnded(): void {
    this.#ended = true
    this.#arrived.resolve()
    // While an event is worked on nobody waits for the next one: the end must be heard all the
    // same.
    if (this.#events.length === 0 && this.#error === undefined) this.#fail(this.#endError())
  }

  #endError(): MultifdError {
    const end = this.#reader.end()
    if (!end.ok) return end.error
    return new MultifdError(
      'ERR_MULTIFD_PEER_CLOSED',
      'everything was loaded, but the source closed the main channel without handing the guest over: ' +
        'it still has the guest, or its operator must say who starts it',
    )
  }
}
