// The destination's door: native code accepts connections and finds out what each is; here they
// become a main channel or a connection that waits for its place.

import { deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import {
  checked,
  type NativeConnection,
  type NativeEndpoint,
  type NativeListener,
  native,
  toError,
} from '../kit/native.ts'
import { EVENT, listen } from './native-events.ts'

export interface AcceptorListener {
  connection(connection: NativeConnection): void
  /** A stranger, a silent connection, or the kernel; the acceptor ends by itself. */
  failed(error: MultifdError): void
}

export class Acceptor {
  /** Where it really listens: port 0 was replaced by the kernel's choice. */
  readonly endpoint: NativeEndpoint
  /** Resolves, always, when nothing listens any more. */
  readonly closed: Promise<void>
  readonly #native: NativeListener

  /** @throws MultifdError ERR_MULTIFD_CHANNEL if the address is not to be had. */
  constructor(endpoint: NativeEndpoint, identifyTimeoutMs: number, listener: AcceptorListener) {
    this.#native = checked(
      native().startListener({ ...endpoint, identifyTimeoutMs }),
      'listening for a migration failed',
    )
    this.endpoint =
      endpoint.path === undefined ? { ...endpoint, port: this.#native.port } : endpoint
    const closed = deferred()
    this.closed = closed.promise
    listen(this.#native, (kind) => {
      if (kind === EVENT.ACCEPTED) {
        for (const connection of this.#native.takeAccepted()) listener.connection(connection)
      }
      if (kind === EVENT.FAILED) {
        const cause = this.#native.error()
        if (cause !== null) listener.failed(toError(cause, 'an incoming connection was refused'))
      }
      if (kind === EVENT.CLOSED) {
        this.#native.join()
        closed.resolve()
      }
    })
  }

  /** Stops listening; connections handed over are not touched. */
  destroy(): Promise<void> {
    this.#native.destroy()
    return this.closed
  }
}

/** What is wrong with a multifd connection's introduction; undefined if nothing is. */
export function introductionProblem(
  connection: NativeConnection,
  expected: { channels: number; taken: { has(channelId: number): boolean } },
): MultifdError | undefined {
  const { channelId, peer } = connection
  const { channels, taken } = expected
  if (channelId >= channels) {
    return new MultifdError(
      'ERR_MULTIFD_HANDSHAKE',
      `the connection from ${peer} says it is channel ${channelId}, expected 0 to ${channels - 1}: ` +
        'the source must open as many channels as it announced',
      { channelId },
    )
  }
  if (!taken.has(channelId)) return undefined
  return new MultifdError(
    'ERR_MULTIFD_HANDSHAKE',
    `the connection from ${peer} says it is channel ${channelId}, which is connected already`,
    { channelId },
  )
}
