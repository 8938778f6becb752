// MigrationDestination: listens, gathers the connections of one migration, wires them to guest
// memory and the main stream, and takes all of it down again. One of the two places that know every
// room.

import { Acceptor, introductionProblem } from './channel/accept.ts'
import { ReceiveChannel } from './channel/receive-channel.ts'
import { formatUri, parseUri, resolveUri } from './channel/uri.ts'
import { type Deferred, deferred } from './kit/deferred.ts'
import { MultifdError } from './kit/errors.ts'
import {
  checked,
  type NativeCompression,
  type NativeConnection,
  type NativeEndpoint,
  type NativeReceiveGroup,
  native,
} from './kit/native.ts'
import {
  checkDestinationOptions,
  type DestinationSettings,
  type MigrationDestinationOptions,
} from './migrate/destination-options.ts'
import { Incoming } from './migrate/incoming.ts'
import { checkOwnSource } from './migrate/incoming-handshake.ts'
import { IncomingWire } from './migrate/incoming-wire.ts'
import type { IncomingResult } from './migrate/progress.ts'
import { type MigrationStatus, StatusMachine } from './migrate/status.ts'
import { SyncCollector } from './migrate/sync-collector.ts'
import { asMultifdError, FirstError } from './migrate/teardown.ts'
import { Watchdog } from './migrate/watchdog.ts'
import type { Configuration } from './wire/main-stream-events.ts'
import { formatUuid, sameUuid } from './wire/uuid.ts'

/**
 * The side that gets the guest: takes one migration, then is over. To take another, or the next
 * attempt after a failure, listen again, with the same memory if you like.
 *
 * ```ts
 * await using destination = await MigrationDestination.listen('tcp:127.0.0.1:4444', { memory })
 * await destination.completed // the guest may run now, and not before
 * ```
 */
export class MigrationDestination implements AsyncDisposable {
  /** Where it listens, with the port the kernel chose for port 0. */
  readonly uri: string
  /**
   * Resolves when the source has given the guest up: only now may it run here. Rejects with a
   * MultifdError; then it must not run here.
   */
  readonly completed: Promise<IncomingResult>
  readonly #session: IncomingSession

  private constructor(session: IncomingSession) {
    this.#session = session
    this.uri = formatUri(session.endpoint)
    this.completed = session.run()
    this.completed.catch(() => {})
  }

  /**
   * Listens on `tcp:HOST:PORT` (port 0: any free one) or `unix:PATH` for one migration.
   * @throws TypeError or RangeError for bad options, MultifdError ERR_MULTIFD_CHANNEL if the
   * address is not to be had, ERR_MULTIFD_UNSUPPORTED beyond this machine without `allowPlaintext`.
   */
  static async listen(
    uri: string,
    options: MigrationDestinationOptions,
  ): Promise<MigrationDestination> {
    const settings = checkDestinationOptions(options)
    const endpoint = await resolveUri(parseUri(uri), settings)
    return new MigrationDestination(new IncomingSession(settings, endpoint))
  }

  get status(): MigrationStatus {
    return this.#session.status
  }

  /** Everything read so far, main channel included; bytes. */
  get receivedBytes(): number {
    return this.#session.receivedBytes
  }

  /** Stops listening and ends a migration that runs; resolves when everything is given back. */
  async close(): Promise<void> {
    this.#session.close()
    await this.completed.catch(() => {})
    await this.#session.released
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

class IncomingSession {
  readonly endpoint: NativeEndpoint
  readonly #settings: DestinationSettings
  readonly #status = new StatusMachine('destination')
  readonly #first = new FirstError('destination')
  readonly #acceptor: Acceptor
  readonly #mainArrived: Deferred<NativeConnection> = deferred()
  readonly #allArrived: Deferred<void> = deferred()
  /** Introduced, and waiting until it is known how many there will be. */
  #waiting: NativeConnection[] = []
  readonly #taken = new Map<number, NativeConnection>()
  #expectedChannels: number | undefined
  #compression: NativeCompression = 'none'
  #handshakeTimer: NodeJS.Timeout | undefined
  #startedMs = 0
  #mainSeen = false
  #wire: IncomingWire | undefined
  #group: NativeReceiveGroup | undefined
  #channels: ReceiveChannel[] = []
  #syncs: SyncCollector | undefined
  #incoming: Incoming | undefined
  #released: Promise<void> = Promise.resolve()
  /** Native work on the guest memory: it cannot be called off, only waited for. */
  #emptying: Promise<unknown> = Promise.resolve()

  constructor(settings: DestinationSettings, endpoint: NativeEndpoint) {
    this.#settings = settings
    settings.memory.beginReceiving()
    try {
      this.#acceptor = new Acceptor(endpoint, settings.handshakeTimeoutMs, {
        connection: (connection) => this.#arrived(connection),
        failed: (error) => this.#first.set(error),
      })
    } catch (error) {
      settings.memory.endReceiving()
      throw error
    }
    this.endpoint = this.#acceptor.endpoint
    this.#status.enter('setup')
  }

  get status(): MigrationStatus {
    return this.#status.status
  }

  get receivedBytes(): number {
    const multifd = this.#channels.reduce((sum, channel) => sum + channel.receivedBytes, 0)
    return multifd + (this.#wire?.readBytes ?? 0)
  }

  /** Everything is given back; once `run` has settled. */
  get released(): Promise<void> {
    return this.#released
  }

  close(): void {
    if (this.#status.over) return
    this.#first.set(new MultifdError('ERR_MULTIFD_CLOSED', 'the destination was closed'))
  }

  async run(): Promise<IncomingResult> {
    const unfollow = this.#first.follow(this.#settings.signal)
    const watchdog = new Watchdog({
      timeoutMs: this.#settings.peerTimeoutMs,
      // Nobody connected yet: there is no peer to be silent.
      progress: () => (this.#channels.length === 0 ? performance.now() : this.receivedBytes),
      deepProgress: () => 0,
      expired: (error) => this.#first.set(error),
    })
    try {
      const incoming = await this.#gather(watchdog)
      this.#status.enter('active')
      await incoming.run()
      this.#status.enter('device')
      this.#status.enter('completed')
      const result = this.#finish()
      // The guest may run from here on, and must not wait for the source's last words.
      this.#released = this.#closeInOrder()
      return result
    } catch (thrown) {
      const error = this.#failed(this.#explain(asMultifdError(thrown)))
      this.#released = this.#release()
      await this.#released // the next attempt finds everything given back
      throw error
    } finally {
      clearTimeout(this.#handshakeTimer)
      watchdog.stop()
      unfollow()
    }
  }

  async #closeInOrder(): Promise<void> {
    await this.#wire?.close()
    await this.#release()
  }

  /** From nothing to running channels: main, its configuration, N introductions, emptied memory. */
  async #gather(watchdog: Watchdog): Promise<Incoming> {
    const [settings, first] = [this.#settings, this.#first]
    const main = await first.unless(this.#mainArrived.promise)
    const wire = new IncomingWire(main, (error) => first.set(error))
    this.#wire = wire
    await this.#expectChannels(await this.#readConfiguration(wire))
    if (!settings.memoryIsZero) {
      const emptying = settings.memory.native.empty()
      this.#emptying = emptying
      checked(await first.unless(emptying), 'emptying the guest memory failed')
    }
    await first.unless(this.#allArrived.promise)
    await this.#acceptor.destroy()
    this.#openChannels()
    const syncs = new SyncCollector(this.#channels)
    this.#syncs = syncs
    const stopReceiving = (): Promise<void> => this.#stopReceiving()
    this.#incoming = new Incoming({ settings, first, watchdog, wire, syncs, stopReceiving })
    return this.#incoming
  }

  /** A connection that said what it is. */
  #arrived(connection: NativeConnection): void {
    if (this.#startedMs === 0) this.#beginHandshake()
    if (connection.isMain) {
      if (this.#mainSeen) {
        connection.close()
        this.#first.set(
          new MultifdError(
            'ERR_MULTIFD_HANDSHAKE',
            `a second main channel came, from ${connection.peer}: two sources migrate to one destination`,
          ),
        )
        return
      }
      this.#mainSeen = true
      this.#mainArrived.resolve(connection)
      return
    }
    this.#waiting.push(connection)
    this.#introduce()
  }

  #beginHandshake(): void {
    this.#startedMs = performance.now()
    const timeoutMs = this.#settings.handshakeTimeoutMs
    this.#handshakeTimer = setTimeout(() => {
      const channels = `${this.#taken.size + this.#waiting.length} of ${this.#expectedChannels ?? '?'}`
      this.#first.set(
        new MultifdError(
          'ERR_MULTIFD_TIMEOUT',
          `${channels} multifd channels and ${this.#mainSeen ? 'the' : 'no'} main channel came within ` +
            `${timeoutMs} ms (handshakeTimeoutMs), expected all: is the source still there, and a ` +
            'multifd source?',
        ),
      )
    }, timeoutMs)
  }

  /** The main stream up to the configuration, which says how many channels will come. */
  async #readConfiguration(wire: IncomingWire): Promise<Configuration> {
    for (;;) {
      const event = await this.#first.unless(wire.next())
      if (event.kind === 'configuration') return event
    }
  }

  async #expectChannels(configuration: Configuration): Promise<void> {
    const { channels, compression } = checkOwnSource(configuration)
    const { uuid } = configuration
    if (uuid !== undefined) this.#checkUuid(uuid, 'the main channel')
    this.#compression = compression
    this.#expectedChannels = channels
    this.#introduce()
  }

  /** Gives every introduced connection its place, once the number of places is known. */
  #introduce(): void {
    const channels = this.#expectedChannels
    if (channels === undefined) return
    for (const connection of this.#waiting.splice(0)) {
      const problem = introductionProblem(connection, {
        channels,
        taken: new Set(this.#taken.keys()),
      })
      try {
        if (problem !== undefined) throw problem
        this.#checkUuid(connection.uuid, `multifd channel ${connection.channelId}`)
        this.#taken.set(connection.channelId, connection)
      } catch (thrown) {
        connection.close()
        this.#first.set(asMultifdError(thrown))
      }
    }
    if (this.#taken.size < channels) return
    clearTimeout(this.#handshakeTimer) // what is left to wait for is our own emptying
    this.#allArrived.resolve()
  }

  #checkUuid(uuid: Uint8Array, where: string): void {
    const expected = this.#settings.uuid
    if (sameUuid(uuid, expected)) return
    throw new MultifdError(
      'ERR_MULTIFD_HANDSHAKE',
      `${where} brings the UUID ${formatUuid(uuid)}, expected ${formatUuid(expected)}: this is ` +
        'another guest, or one side was not told its uuid',
    )
  }

  #openChannels(): void {
    const { memory } = this.#settings
    const compression = this.#compression
    this.#group = checked(native().createReceiveGroup(memory.native), 'preparing channels failed')
    for (let channelId = 0; channelId < this.#taken.size; channelId += 1) {
      const connection = this.#taken.get(channelId)
      if (connection === undefined) continue
      const listener = {
        syncArrived: (id: number) => this.#syncs?.arrived(id),
        peerEnded: (id: number) => this.#channelEnded(id),
        failed: (error: MultifdError) => this.#first.set(error),
      }
      this.#channels.push(new ReceiveChannel(this.#group, connection, listener, { compression }))
    }
  }

  #channelEnded(channelId: number): void {
    if (this.#incoming?.ramOver) return
    this.#first.set(
      new MultifdError(
        'ERR_MULTIFD_PEER_CLOSED',
        `the source closed multifd channel ${channelId} before the end of RAM: look for the reason there`,
        { channelId },
      ),
    )
  }

  /** Ready without a commit is a case of its own: the operator has to know. */
  #explain(error: MultifdError): MultifdError {
    if (!this.#incoming?.ready) return error
    return new MultifdError(
      error.code,
      'the guest was loaded, but the source did not hand it over, so it does not start here; look ' +
        `whether it runs at the source (${error.message})`,
      { cause: error },
    )
  }

  #failed(error: MultifdError): MultifdError {
    this.#first.set(error)
    this.#wire?.refuse()
    this.#status.enter(error.code === 'ERR_MULTIFD_ABORTED' ? 'cancelling' : 'failed')
    return error
  }

  async #stopReceiving(): Promise<void> {
    await Promise.all(this.#channels.map((channel) => channel.destroy()))
  }

  /** Ends what is still there; the guest memory stays, and may be used for the next attempt. */
  async #release(): Promise<void> {
    await this.#acceptor.destroy()
    this.#mainArrived.promise.then(
      (connection) => connection.close(),
      () => {},
    )
    this.#mainArrived.reject(new MultifdError('ERR_MULTIFD_CLOSED', 'closed'))
    for (const connection of this.#waiting.splice(0)) connection.close()
    for (const connection of this.#taken.values()) connection.close()
    await this.#stopReceiving()
    await this.#emptying // or it would empty the next attempt's memory
    this.#group?.close()
    this.#settings.memory.endReceiving()
    if (this.#status.status === 'completed') return
    // What was refused goes out before the socket does.
    await new Promise((resolve) => setImmediate(resolve))
    this.#wire?.destroy()
    if (this.#status.status === 'cancelling') this.#status.enter('cancelled')
  }

  #finish(): IncomingResult {
    const channels = this.#channels.map((channel) => ({
      channelId: channel.channelId,
      ...channel.counters,
    }))
    return {
      status: 'completed',
      syncs: this.#syncs?.collected ?? 0,
      receivedBytes: this.receivedBytes,
      normalPages: channels.reduce((sum, { normalPages }) => sum + normalPages, 0),
      zeroPages: channels.reduce((sum, { zeroPages }) => sum + zeroPages, 0),
      compression: this.#compression,
      totalTimeMs: performance.now() - this.#startedMs,
      channels,
    }
  }
}
