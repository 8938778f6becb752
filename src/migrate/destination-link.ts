// One connection of a source, as the destination sees it: the main channel, then as many multifd
// channels as its configuration announces, each in its place. It breaks as a whole, and the
// migration may go on over the next one: nothing here knows what is in the stream.

import { introductionProblem } from '../channel/accept.ts'
import { MainChannel } from '../channel/main-channel.ts'
import { ReceiveChannel } from '../channel/receive-channel.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection, NativeReceiveGroup } from '../kit/native.ts'
import type { OwnCapabilities } from '../wire/dialect.ts'
import type { Configuration, MainStreamEvent } from '../wire/main-stream-events.ts'
import { formatUuid, sameUuid } from '../wire/uuid.ts'
import type { DestinationSettings } from './destination-options.ts'
import type { DevicePacket } from './device-loader.ts'
import { checkOwnSource } from './incoming-handshake.ts'
import { IncomingWire } from './incoming-wire.ts'
import { SyncCollector } from './sync-collector.ts'
import { asMultifdError, FirstError } from './teardown.ts'
import { signOfLifeMs, Watchdog } from './watchdog.ts'

export interface DestinationLinkParts {
  settings: DestinationSettings
  /** Ends the migration, and every connection with it. */
  migrationFailed: FirstError
  main: NativeConnection
  /** This side has work in hand that the source must wait for. */
  atWork: () => boolean
  /** A piece of a device's state came over a channel. */
  devicePacket: (packet: DevicePacket) => void
  /** A channel ended between two packets. */
  channelEnded: (link: DestinationLink, channelId: number) => void
}

export class DestinationLink {
  /** The first thing that breaks this connection, or ends the migration. */
  readonly first: FirstError
  readonly wire: IncomingWire
  readonly watchdog: Watchdog
  readonly #parts: DestinationLinkParts
  readonly #taken = new Map<number, NativeConnection>()
  readonly #allArrived: Deferred<void> = deferred()
  readonly #atWork: NodeJS.Timeout
  #own: OwnCapabilities | undefined
  #channels: ReceiveChannel[] = []
  #syncs = new SyncCollector([])

  constructor(parts: DestinationLinkParts) {
    const { settings, migrationFailed, main } = parts
    this.#parts = parts
    this.first = new FirstError('destination', migrationFailed)
    this.first.promise.catch(() => {})
    this.wire = new IncomingWire(
      (listener) => MainChannel.adopt(main, listener),
      (error) => this.first.set(error),
    )
    this.watchdog = new Watchdog({
      timeoutMs: settings.peerTimeoutMs,
      // Until all are there another clock runs; and for our own work the source is not to blame.
      progress: () =>
        this.#channels.length === 0 || parts.atWork() ? performance.now() : this.receivedBytes,
      deepProgress: () => 0,
      expired: (error) => this.first.set(error),
    })
    // Only to a source that said who it is: a stranger hears nothing.
    this.#atWork = setInterval(() => {
      if (this.#own !== undefined && parts.atWork()) this.wire.atWork()
    }, signOfLifeMs(settings.peerTimeoutMs))
    this.#atWork.unref()
  }

  get channels(): readonly ReceiveChannel[] {
    return this.#channels
  }
  get syncs(): SyncCollector {
    return this.#syncs
  }
  /** What the source said about itself; undefined before. */
  get own(): OwnCapabilities | undefined {
    return this.#own
  }
  /** Connections that have their place, of how many. */
  get arrived(): { taken: number; expected: number | undefined } {
    return { taken: this.#taken.size, expected: this.#own?.channels }
  }
  /** Resolves when every channel is there. */
  get allArrived(): Promise<void> {
    return this.#allArrived.promise
  }
  /** What it carried; of bytes the main channel's, too. */
  get counts(): { receivedBytes: number; normalPages: number; zeroPages: number; syncs: number } {
    const counters = this.#channels.map((channel) => channel.counters)
    return {
      receivedBytes: this.receivedBytes,
      normalPages: counters.reduce((sum, { normalPages }) => sum + normalPages, 0),
      zeroPages: counters.reduce((sum, { zeroPages }) => sum + zeroPages, 0),
      syncs: this.#syncs.collected,
    }
  }
  get receivedBytes(): number {
    const multifd = this.#channels.reduce((sum, channel) => sum + channel.receivedBytes, 0)
    return multifd + this.wire.readBytes
  }

  /** The main stream up to the configuration, which says who comes, and with how many channels. */
  async readConfiguration(): Promise<OwnCapabilities> {
    const configuration = await this.#configuration()
    const own = checkOwnSource(configuration)
    const { uuid } = configuration
    const problem = uuid === undefined ? undefined : this.#uuidProblem(uuid, 'the main channel')
    if (problem !== undefined) throw problem
    this.#own = own
    return own
  }

  /** Gives a connection that introduced itself its place; those that have none fail the link. */
  introduce(connection: NativeConnection): void {
    const { channels = 0, resuming } = this.#own ?? {}
    const { channelId, uuid } = connection
    if (resuming !== undefined && Buffer.from(uuid).toString('hex') !== resuming) {
      connection.close() // left over from a connection before, or a stranger's
      return
    }
    const problem =
      introductionProblem(connection, { channels, taken: this.#taken }) ??
      (resuming === undefined ? this.#uuidProblem(uuid, `multifd channel ${channelId}`) : undefined)
    if (problem !== undefined) {
      connection.close()
      this.first.set(problem)
      return
    }
    this.#taken.set(channelId, connection)
    if (this.#taken.size === channels) this.#allArrived.resolve()
  }

  /**
   * Starts to receive, into what came over the connections before.
   * @param parked called at each sync point, while no channel receives anything
   */
  openChannels(group: NativeReceiveGroup, parked: () => void): void {
    const { compression = 'none', largePackets = false } = this.#own ?? {}
    const listener = {
      syncArrived: (id: number) => this.#syncs.arrived(id),
      deviceState: (_id: number, packet: DevicePacket) => this.#parts.devicePacket(packet),
      peerEnded: (id: number) => this.#parts.channelEnded(this, id),
      failed: (error: MultifdError) => this.first.set(error),
    }
    for (let channelId = 0; channelId < this.#taken.size; channelId += 1) {
      const connection = this.#taken.get(channelId)
      if (connection === undefined) continue
      this.#channels.push(
        new ReceiveChannel(group, connection, listener, { compression, largePackets }),
      )
    }
    this.#syncs = new SyncCollector(this.#channels, parked)
  }

  /** The next event of the main stream. What ends the stream breaks the connection. */
  async nextEvent(): Promise<MainStreamEvent> {
    try {
      return await this.first.unless(this.wire.next())
    } catch (thrown) {
      const error = asMultifdError(thrown)
      this.first.set(error)
      throw this.first.error ?? error
    }
  }

  /** Resolves when nobody but the guest can write its memory any more. */
  async stopReceiving(): Promise<void> {
    await Promise.all(this.#channels.map((channel) => channel.destroy()))
  }

  /** Ends what is still there, but for the main channel's last words. */
  async destroy(): Promise<void> {
    this.watchdog.stop()
    clearInterval(this.#atWork)
    for (const connection of this.#taken.values()) connection.close()
    await this.stopReceiving()
  }

  async #configuration(): Promise<Configuration> {
    for (;;) {
      const event = await this.nextEvent()
      if (event.kind === 'configuration') return event
    }
  }

  #uuidProblem(uuid: Uint8Array, where: string): MultifdError | undefined {
    const expected = this.#parts.settings.uuid
    if (sameUuid(uuid, expected)) return undefined
    return new MultifdError(
      'ERR_MULTIFD_HANDSHAKE',
      `${where} brings the UUID ${formatUuid(uuid)}, expected ${formatUuid(expected)}: this is ` +
        'another guest, or one side was not told its uuid',
    )
  }
}
