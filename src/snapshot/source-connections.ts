// The connections that one QEMU source opens, in any order: a main channel and as many multifd
// channels as the operator said, because a QEMU does not announce their number. What does not fit
// is refused with the commands that set it right.

import { Acceptor } from '../channel/accept.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection, NativeEndpoint } from '../kit/native.ts'
import { formatUuid, sameUuid } from '../wire/uuid.ts'
import { atTheSource, setCapability, setParameter } from './qemu-commands.ts'

export interface ExpectedConnections {
  /** 0: multifd is off at the source. */
  channels: number
  /** Undefined: whichever comes, the same on all channels. */
  uuid: Uint8Array | undefined
  /** From the first connection until all are there. */
  handshakeTimeoutMs: number
}

export class SourceConnections {
  /** Where it listens, with the port the kernel chose for port 0. */
  readonly endpoint: NativeEndpoint
  readonly #expected: ExpectedConnections
  readonly #fail: (error: MultifdError) => void
  readonly #acceptor: Acceptor
  readonly #mainArrived: Deferred<NativeConnection> = deferred()
  readonly #allArrived: Deferred<readonly NativeConnection[]> = deferred()
  readonly #channels = new Map<number, NativeConnection>()
  #timer: NodeJS.Timeout | undefined
  #startedMs: number | undefined
  #mainSeen = false
  #complete = false
  #uuid: Uint8Array | undefined

  /** @throws MultifdError ERR_MULTIFD_CHANNEL if the address is not to be had. */
  constructor(
    endpoint: NativeEndpoint,
    expected: ExpectedConnections,
    fail: (error: MultifdError) => void,
  ) {
    this.#expected = expected
    this.#fail = fail
    this.#uuid = expected.uuid
    this.#acceptor = new Acceptor(endpoint, expected.handshakeTimeoutMs, {
      connection: (connection) => this.#arrived(connection),
      // With all there, a stranger is sent away and is no reason to end a migration.
      failed: (error) => {
        if (!this.#complete) fail(error)
      },
    })
    this.endpoint = this.#acceptor.endpoint
  }

  get main(): Promise<NativeConnection> {
    return this.#mainArrived.promise
  }
  /** The multifd channels by number, as soon as the main channel and all of them are there. */
  get channels(): Promise<readonly NativeConnection[]> {
    return this.#allArrived.promise
  }
  /** When the first connection came (`performance.now()`). */
  get startedMs(): number | undefined {
    return this.#startedMs
  }
  /** What the channels bring, once one came, or what was expected. */
  get uuid(): Uint8Array | undefined {
    return this.#uuid
  }

  /**
   * Stops listening, and gives everything back that nobody took over. Not before the end: a source
   * does not say how many channels it has, and pages on one more would be lost without a word.
   */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    await this.#acceptor.destroy()
    this.#mainArrived.promise.then(
      (connection) => connection.close(),
      () => {},
    )
    this.#mainArrived.reject(new MultifdError('ERR_MULTIFD_CLOSED', 'closed'))
    for (const connection of this.#channels.values()) connection.close()
  }

  #arrived(connection: NativeConnection): void {
    if (this.#startedMs === undefined) {
      this.#startedMs = performance.now()
      const timeoutMs = this.#expected.handshakeTimeoutMs
      this.#timer = setTimeout(() => this.#fail(this.#incomplete()), timeoutMs)
    }
    const problem = connection.isMain ? this.#mainProblem(connection) : this.#problem(connection)
    if (problem !== undefined) {
      connection.close()
      this.#fail(problem)
      return
    }
    if (connection.isMain) {
      this.#mainSeen = true
      this.#mainArrived.resolve(connection)
    } else {
      this.#channels.set(connection.channelId, connection)
      this.#uuid = connection.uuid
    }
    if (!this.#mainSeen || this.#channels.size < this.#expected.channels) return
    clearTimeout(this.#timer)
    this.#complete = true
    const sorted = [...this.#channels].sort(([a], [b]) => a - b)
    this.#allArrived.resolve(sorted.map(([, channel]) => channel))
  }

  #mainProblem({ peer }: NativeConnection): MultifdError | undefined {
    if (!this.#mainSeen) return undefined
    return new MultifdError(
      'ERR_MULTIFD_HANDSHAKE',
      `a second main channel came, from ${peer}: two sources migrate to one place`,
    )
  }

  #problem({ channelId, peer, uuid }: NativeConnection): MultifdError | undefined {
    const { channels } = this.#expected
    if (channelId >= channels) return tooMany(channelId, channels)
    if (this.#channels.has(channelId)) {
      return new MultifdError(
        'ERR_MULTIFD_HANDSHAKE',
        `the connection from ${peer} says it is channel ${channelId}, which is connected already`,
        { channelId },
      )
    }
    if (this.#uuid === undefined || sameUuid(uuid, this.#uuid)) return undefined
    return new MultifdError(
      'ERR_MULTIFD_HANDSHAKE',
      `multifd channel ${channelId} brings the UUID ${formatUuid(uuid)}, expected ` +
        `${formatUuid(this.#uuid)}: this is another guest, or the uuid given here is wrong. What the ` +
        'source has: HMP "info uuid", or QMP {"execute":"query-uuid"}; it can only be set where that ' +
        'QEMU is started, with -uuid',
      { channelId },
    )
  }

  #incomplete(): MultifdError {
    const { channels, handshakeTimeoutMs } = this.#expected
    const came = this.#channels.size
    const main = this.#mainSeen ? 'the main channel' : 'no main channel'
    const sentence =
      `${main} and ${came} of ${channels} multifd channels came within ${handshakeTimeoutMs} ms ` +
      '(handshakeTimeoutMs), expected all: '
    const commands = [setCapability('multifd', true), setParameter('multifd-channels', channels)]
    const advice = this.#mainSeen
      ? 'multifd is off at the source, or it has another number of channels. Give that number here ' +
        `(0 for multifd off), or set ${atTheSource(...commands)}`
      : 'is the source still there?'
    return new MultifdError('ERR_MULTIFD_TIMEOUT', sentence + advice)
  }
}

function tooMany(channelId: number, channels: number): MultifdError {
  if (channels === 0) {
    return new MultifdError(
      'ERR_MULTIFD_HANDSHAKE',
      'a multifd channel came, expected none: give the number of channels here, or set multifd off ' +
        atTheSource(setCapability('multifd', false)),
      { channelId },
    )
  }
  return new MultifdError(
    'ERR_MULTIFD_HANDSHAKE',
    `multifd channel ${channelId} came, expected 0 to ${channels - 1}: the source opens more channels ` +
      `than the ${channels} expected here. Give its number here, or set ` +
      atTheSource(setParameter('multifd-channels', channels)),
    { channelId },
  )
}
