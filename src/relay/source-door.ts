// Where the source of a relay comes in: one main channel and N multifd channels, in any order,
// introduced and counted. Nothing is read beyond the introductions.

import { Acceptor } from '../channel/accept.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection, NativeEndpoint } from '../kit/native.ts'
import { inWords } from '../snapshot/qemu-commands.ts'
import { formatUuid, sameUuid } from '../wire/uuid.ts'
import { multifdCommands } from './qemu-setup.ts'
import type { RelaySettings } from './relay-options.ts'

export class SourceDoor {
  readonly #settings: RelaySettings
  readonly #fail: (error: MultifdError) => void
  readonly #acceptor: Acceptor
  readonly #main: Deferred<NativeConnection> = deferred()
  readonly #all: Deferred<NativeConnection[]> = deferred()
  readonly #channels = new Map<number, NativeConnection>()
  #mainSeen = false
  #complete = false
  #startedMs = 0
  #timer: NodeJS.Timeout | undefined
  readonly #connections: NativeConnection[] = []

  /** @throws MultifdError ERR_MULTIFD_CHANNEL if the address is not to be had. */
  constructor(
    settings: RelaySettings,
    endpoint: NativeEndpoint,
    fail: (error: MultifdError) => void,
  ) {
    this.#settings = settings
    this.#fail = fail
    this.#acceptor = new Acceptor(endpoint, settings.handshakeTimeoutMs, {
      connection: (connection) => this.#arrived(connection),
      failed: (error) => this.#strangerCame(error),
    })
  }

  get endpoint(): NativeEndpoint {
    return this.#acceptor.endpoint
  }

  /** When the first connection came, on the clock of performance.now(); 0 before. */
  get startedMs(): number {
    return this.#startedMs
  }

  /** The main channel, to be taken over. */
  main(): Promise<NativeConnection> {
    return this.#main.promise
  }

  /**
   * All multifd channels by id, to be taken over. Who listens goes on listening: a source does not
   * say how many channels it has, and pages on one more would be lost without a word.
   */
  channels(): Promise<NativeConnection[]> {
    return this.#all.promise
  }

  /** Stops listening, and closes what nobody took over. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    await this.#acceptor.destroy()
    for (const connection of this.#connections.splice(0)) connection.close()
  }

  #arrived(connection: NativeConnection): void {
    this.#connections.push(connection)
    if (this.#startedMs === 0) this.#begin()
    if (this.#complete && connection.isMain) connection.close()
    else if (connection.isMain) this.#takeMain(connection)
    else this.#takeChannel(connection)
    if (!this.#mainSeen || this.#channels.size < this.#settings.multifdChannels) return
    clearTimeout(this.#timer)
    this.#complete = true
    const channels = [...this.#channels.values()].sort((a, b) => a.channelId - b.channelId)
    this.#all.resolve(channels)
  }

  /** With all there, who else connects is sent away, and is no reason to end a migration. */
  #strangerCame(error: MultifdError): void {
    if (!this.#complete) this.#fail(error)
  }

  #begin(): void {
    this.#startedMs = performance.now()
    const { handshakeTimeoutMs, multifdChannels } = this.#settings
    this.#timer = setTimeout(() => {
      this.#fail(
        new MultifdError(
          'ERR_MULTIFD_TIMEOUT',
          `${this.#channels.size} of ${multifdChannels} multifd channels and ` +
            `${this.#mainSeen ? 'the' : 'no'} main channel came within ${handshakeTimeoutMs} ms ` +
            `(handshakeTimeoutMs), expected all. At the source, ${this.#howToSet()}`,
        ),
      )
    }, handshakeTimeoutMs)
  }

  #takeMain(connection: NativeConnection): void {
    if (this.#mainSeen) {
      this.#refuse(
        `a second main channel came, from ${connection.peer}: two sources migrate to one relay`,
      )
      return
    }
    this.#mainSeen = true
    this.#main.resolve(connection)
  }

  #takeChannel(connection: NativeConnection): void {
    const { channelId, peer, uuid } = connection
    const { multifdChannels } = this.#settings
    const [first] = this.#channels.values()
    if (channelId >= multifdChannels) {
      const expected = multifdChannels === 0 ? 'none' : `0 to ${multifdChannels - 1}`
      this.#refuse(
        `the connection from ${peer} says it is multifd channel ${channelId}, expected ${expected}. ` +
          `At the source, ${this.#howToSet()}`,
        channelId,
      )
    } else if (this.#channels.has(channelId)) {
      this.#refuse(
        `the connection from ${peer} says it is channel ${channelId}, which is connected already`,
        channelId,
      )
    } else if (first !== undefined && !sameUuid(uuid, first.uuid)) {
      this.#refuse(
        `multifd channel ${channelId} brings the UUID ${formatUuid(uuid)}, expected ` +
          `${formatUuid(first.uuid)} as channel ${first.channelId}: two sources migrate to one relay`,
        channelId,
      )
    } else {
      this.#channels.set(channelId, connection)
    }
  }

  #howToSet(): string {
    const { multifdChannels: channels, compression } = this.#settings
    return inWords(multifdCommands({ channels, compression }))
  }

  #refuse(problem: string, channelId?: number): void {
    const details = channelId === undefined ? {} : { channelId }
    this.#fail(new MultifdError('ERR_MULTIFD_HANDSHAKE', problem, details))
  }
}
