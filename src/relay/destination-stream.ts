// The relay's main channel to the destination: bytes go out, answers come back and are understood,
// and how it ends is put in terms of who may have the guest (src/migrate/ownership.ts).

import { MainChannel } from '../channel/main-channel.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeEndpoint } from '../kit/native.ts'
import type { DestinationEnd } from '../migrate/ownership.ts'
import { type ReturnPathEvent, ReturnPathReader } from '../wire/return-path.ts'

export interface DestinationListener {
  /** PONG or SWITCHOVER_ACK, for the source. */
  answered(event: ReturnPathEvent): void
  /** May come again: an answer first, the end of the connection behind it. */
  ended(end: DestinationEnd, error: MultifdError): void
}

export class DestinationStream {
  readonly #main: MainChannel
  #writes = 0

  private constructor(main: MainChannel) {
    this.#main = main
  }

  /** Connects. Rejects with ERR_MULTIFD_CHANNEL, _TIMEOUT or _ABORTED. */
  static async connect(
    endpoint: NativeEndpoint,
    options: { timeoutMs: number; signal: AbortSignal },
    listener: DestinationListener,
  ): Promise<DestinationStream> {
    const reader = new ReturnPathReader()
    const main = await MainChannel.connect(endpoint, options, {
      data: (bytes) => understand(reader, bytes, listener),
      ended: () => {
        const end = reader.end()
        if (end.ok) listener.ended('closed', closedError())
        else listener.ended('garbled', end.error)
      },
      failed: (error) => listener.ended('broken', brokenError(error)),
    })
    main.resume()
    return new DestinationStream(main)
  }

  /** Resolves when the kernel took the bytes, or the connection is over. */
  async write(bytes: Uint8Array): Promise<void> {
    this.#writes += 1
    await this.#main.write(bytes)
    this.#writes -= 1
  }

  /** The destination has to read before more can be sent. */
  get busy(): boolean {
    return this.#writes > 0
  }

  get writtenBytes(): number {
    return this.#main.writtenBytes
  }

  async close(): Promise<void> {
    await this.#main.close()
  }
  destroy(): void {
    this.#main.destroy()
  }
}

function understand(
  reader: ReturnPathReader,
  bytes: Uint8Array,
  listener: DestinationListener,
): void {
  const { events, error } = reader.push(bytes)
  for (const event of events) {
    if (event.kind !== 'shut') listener.answered(event)
    else if (event.status === 0) listener.ended('shut-success', earlySuccess())
    else listener.ended('shut-failure', failedThere(event.status))
  }
  if (error !== undefined) listener.ended('garbled', error)
}

function earlySuccess(): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_PROTOCOL',
    'the destination said that it has the guest before it was sent everything',
  )
}

function failedThere(status: number): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_PEER_CLOSED',
    `the destination reported failure (SHUT with status ${status}): look for the reason there, in its ` +
      'output or with query-migrate',
  )
}

function closedError(): MultifdError {
  return new MultifdError(
    'ERR_MULTIFD_PEER_CLOSED',
    'the destination closed the main channel without saying that it has the guest: look for the ' +
      'reason in its output',
  )
}

function brokenError(cause: MultifdError): MultifdError {
  const { errno, syscall } = cause
  return new MultifdError(
    'ERR_MULTIFD_PEER_CLOSED',
    `the main channel to the destination broke (${errno ?? 'no reason given'})`,
    {
      cause,
      ...(errno === undefined ? {} : { errno }),
      ...(syscall === undefined ? {} : { syscall }),
    },
  )
}
