// The source's main channel: its bytes, cut behind each element of the stream, so that a relay can
// stop in front of any of them; and answers back to it. Nothing more is read while a step is being
// worked on: that is the main channel's back-pressure.

import { MainChannel } from '../channel/main-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection } from '../kit/native.ts'
import { concatBytes } from '../wire/bytes.ts'
import type { MainStreamEvent } from '../wire/main-stream-events.ts'
import { MainStreamReader } from '../wire/main-stream-reader.ts'

/** Bytes of the stream, and what is said by the last element in them. */
export interface StreamStep {
  bytes: Uint8Array
  /** Undefined: pages only. */
  event: MainStreamEvent | undefined
}

const NOTHING = new Uint8Array(0)

export class SourceStream {
  readonly #main: MainChannel
  readonly #reader = new MainStreamReader()
  readonly #gone: (error: MultifdError) => void
  #steps: StreamStep[] = []
  /** Read, but not the end of an element yet; begins at this position of the stream. */
  #rest: Uint8Array = NOTHING
  #restAt = 0
  #error: MultifdError | undefined
  #ended = false
  #arrived: Deferred<void> = deferred()

  /** Takes the connection over; `gone` hears of its end when nothing of it is left to be read. */
  constructor(connection: NativeConnection, gone: (error: MultifdError) => void) {
    this.#gone = gone
    this.#main = MainChannel.adopt(connection, {
      data: (bytes) => this.#received(bytes),
      ended: () => this.#peerEnded(),
      failed: gone,
    })
  }

  /** The next bytes. Throws what ended the stream, in its place. */
  async next(): Promise<StreamStep> {
    for (;;) {
      const step = this.#steps.shift()
      if (step !== undefined) return step
      if (this.#error !== undefined) throw this.#error
      if (this.#ended) throw this.#endError()
      this.#arrived = deferred()
      this.#main.resume()
      await this.#arrived.promise
    }
  }

  /** What came so far may be all there will be: some machines send no vmdescription. */
  get mayEndHere(): boolean {
    return this.#steps.length === 0 && this.#rest.length === 0 && this.#reader.end().ok
  }

  get readBytes(): number {
    return this.#main.readBytes
  }

  /** The destination's answer, or ours. */
  answer(bytes: Uint8Array): void {
    void this.#main.write(bytes)
  }

  /** Nothing more is expected; hears when the source goes. */
  watch(): void {
    this.#main.resume()
  }

  async close(): Promise<void> {
    await this.#main.close()
  }
  destroy(): void {
    this.#main.destroy()
  }

  #received(bytes: Uint8Array): void {
    const { events, ends, error } = this.#reader.push(bytes)
    const raw = this.#rest.length === 0 ? bytes : concatBytes(this.#rest, bytes)
    let from = 0
    events.forEach((event, index) => {
      const next = events[index + 1]
      if (next !== undefined && isPages(event) && isPages(next)) return
      const to = (ends[index] ?? 0) - this.#restAt
      this.#steps.push({
        bytes: raw.subarray(from, to),
        event: isPages(event) ? undefined : event,
      })
      from = to
    })
    this.#rest = raw.subarray(from)
    this.#restAt += from
    this.#error ??= error
    if (this.#steps.length > 0) this.#main.pause()
    if (this.#steps.length > 0 || this.#error !== undefined) this.#arrived.resolve()
  }

  #peerEnded(): void {
    this.#ended = true
    this.#arrived.resolve()
    if (this.#steps.length === 0 && this.#error === undefined) this.#gone(this.#endError())
  }

  #endError(): MultifdError {
    const end = this.#reader.end()
    if (!end.ok) return end.error
    return new MultifdError(
      'ERR_MULTIFD_PEER_CLOSED',
      'the source closed the main channel before the destination said that it has the guest',
    )
  }
}

function isPages(event: MainStreamEvent): boolean {
  return event.kind === 'ram-page' || event.kind === 'ram-zero'
}
