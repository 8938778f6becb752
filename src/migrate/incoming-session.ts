// One incoming migration with everything that it opens: the door, the connections, one after the
// other, and the guest memory they write to. The place that wires the rooms of a destination
// together, and takes all of it down again.

import { Door } from '../channel/door.ts'
import { type Deferred, deferred } from '../kit/deferred.ts'
import { MultifdError } from '../kit/errors.ts'
import {
  checked,
  type NativeCompression,
  type NativeConnection,
  type NativeEndpoint,
  type NativeReceiveGroup,
  native,
} from '../kit/native.ts'
import { DestinationLink } from './destination-link.ts'
import type { DestinationSettings } from './destination-options.ts'
import { Incoming } from './incoming.ts'
import { DestinationOwnership, type Owner } from './ownership.ts'
import { commitMissing } from './ownership-advice.ts'
import type { IncomingResult } from './progress.ts'
import { isBreak } from './reconnect.ts'
import { otherMigration, SourceReturn } from './source-return.ts'
import { type MigrationStatus, StatusMachine } from './status.ts'
import { asMultifdError, FirstError } from './teardown.ts'

export class IncomingSession {
  readonly #settings: DestinationSettings
  readonly #status = new StatusMachine('destination')
  readonly #first = new FirstError('destination')
  readonly #door: Door
  readonly #mainArrived: Deferred<NativeConnection> = deferred()
  readonly #sourceReturn: SourceReturn
  #handshakeTimer: NodeJS.Timeout | undefined
  #startedMs = 0
  #mainSeen = false
  #resumeToken: string | undefined
  #link: DestinationLink | undefined
  /** What the connections before the present one carried. */
  readonly #before = { receivedBytes: 0, normalPages: 0, zeroPages: 0, syncs: 0 }
  #group: NativeReceiveGroup | undefined
  #incoming: Incoming | undefined
  #endedChannels = 0
  #compression: NativeCompression = 'none'
  #released: Promise<void> = Promise.resolve()
  /** Native work on the guest memory: it cannot be called off, only waited for. */
  #emptying: Promise<unknown> | undefined

  constructor(settings: DestinationSettings, endpoint: NativeEndpoint) {
    this.#settings = settings
    this.#sourceReturn = new SourceReturn(settings)
    settings.memory.beginReceiving()
    try {
      this.#door = new Door(endpoint, settings.handshakeTimeoutMs, {
        main: (connection) => this.#mainCame(connection),
        arrived: () => this.#beginHandshake(),
        failed: (error) => this.#first.set(error),
      })
    } catch (error) {
      settings.memory.endReceiving()
      throw error
    }
    this.#status.enter('setup')
  }

  get endpoint(): NativeEndpoint {
    return this.#door.endpoint
  }
  get status(): MigrationStatus {
    return this.#status.status
  }
  get receivedBytes(): number {
    return this.#before.receivedBytes + (this.#link?.receivedBytes ?? 0)
  }
  /** Everything is given back; once `run` has settled. */
  get released(): Promise<void> {
    return this.#released
  }

  close(): void {
    if (this.#status.over) return
    this.#first.set(new MultifdError('ERR_MULTIFD_CLOSED', 'the destination was closed'))
  }

  decide(owner: Owner): void {
    const ownership = this.#incoming?.ownership ?? new DestinationOwnership()
    ownership.decide(owner)
    this.#status.enter(owner === 'source' ? 'failed' : 'completed')
  }

  async run(): Promise<IncomingResult> {
    const unfollow = this.#first.follow(this.#settings.signal)
    this.#first.promise.catch(() => {})
    try {
      let link = await this.#firstLink()
      const incoming = new Incoming(this.#settings)
      this.#incoming = incoming
      this.#status.enter('active')
      for (;;) {
        try {
          this.#receive(link, incoming)
          await incoming.run(link)
          break
        } catch (thrown) {
          link = await this.#nextLink(link, asMultifdError(thrown))
        }
      }
      this.#status.enter('device')
      this.#status.enter('completed')
      link.wire.taken()
      const result = this.#finish(link)
      // The guest may run from here on, and must not wait for the source's last words.
      this.#released = this.#closeInOrder(link)
      return result
    } catch (thrown) {
      const error = this.#failed(asMultifdError(thrown))
      this.#released = this.#release()
      await this.#released // the next attempt finds everything given back
      throw error
    } finally {
      clearTimeout(this.#handshakeTimer)
      unfollow()
    }
  }

  async #closeInOrder(link: DestinationLink): Promise<void> {
    await link.wire.close()
    await this.#release()
  }

  /** From nothing to running channels: main, its configuration, N introductions, emptied memory. */
  async #firstLink(): Promise<DestinationLink> {
    const [settings, first] = [this.#settings, this.#first]
    const link = this.#linkOver(await first.unless(this.#mainArrived.promise))
    this.#link = link
    const own = await link.readConfiguration()
    this.#compression = own.compression
    if (own.resuming) throw otherMigration()
    if (settings.reconnectTimeoutMs > 0 && own.resume !== undefined) {
      this.#resumeToken = own.resume
      await link.first.unless(link.wire.resumeAck(0))
    }
    this.#door.giveTo(link)
    void link.allArrived.then(() => clearTimeout(this.#handshakeTimer))
    if (!settings.memoryIsZero) {
      const emptying = settings.memory.native.empty()
      this.#emptying = emptying
      checked(await link.first.unless(emptying), 'emptying the guest memory failed')
      this.#emptying = undefined
    }
    await link.first.unless(link.allArrived)
    if (this.#resumeToken === undefined) await this.#door.close()
    else this.#door.stayOpen()
    const created = native().createReceiveGroup(settings.memory.native)
    this.#group = checked(created, 'preparing channels failed')
    return link
  }

  /**
   * The connection broke: waits for the source to connect again, and tells it what came so far.
   * @throws what broke it, when there is nothing to wait for.
   */
  async #nextLink(broken: DestinationLink, error: MultifdError): Promise<DestinationLink> {
    const [group, incoming, first] = [this.#group, this.#incoming, this.#first]
    const mayWait = this.#resumeToken !== undefined && broken.first.error === error
    if (!mayWait || group === undefined || !incoming?.mayResume || !isBreak(error)) throw error
    if (first.error !== undefined) throw error
    this.#status.enter('reconnecting')
    await broken.destroy()
    const deadlineMs = performance.now() + this.#settings.reconnectTimeoutMs
    const cancelled = broken.wire.cancelled()
    void broken.wire.close() // a source that sends nothing would not hear of it
    const source = { broken: error, cancelled, deadlineMs, migrationFailed: first }
    for (;;) {
      const link = await this.#sourceReturn.take(source)
      this.#retire()
      this.#link = link
      try {
        await this.#takeUp(link, group, incoming)
        this.#status.enter('active')
        return link
      } catch {
        if (first.error !== undefined) throw first.error
        this.#door.stayOpen() // what comes now belongs to the next one
        await link.destroy()
      }
    }
  }

  async #takeUp(
    link: DestinationLink,
    group: NativeReceiveGroup,
    incoming: Incoming,
  ): Promise<void> {
    const { handshakeTimeoutMs, memory } = this.#settings
    const timer = setTimeout(
      () => link.first.set(new MultifdError('ERR_MULTIFD_TIMEOUT', 'its channels did not come')),
      handshakeTimeoutMs,
    )
    try {
      // Its own channels come when it has the answer; what came before may be a stranger's.
      this.#door.turnAway()
      await link.first.unless(link.wire.resumeAck(incoming.collectedRounds))
      for (const [index, { idstr }] of memory.blocks.entries()) {
        const bitmap = group.receivedSinceSync(index)
        await link.first.unless(link.wire.receivedBitmap(idstr, bitmap))
      }
      // The answer was for the round that broke; the next one tells of its own.
      group.clearReceivedSinceSync()
      this.#door.giveTo(link)
      await link.first.unless(link.allArrived)
      this.#door.stayOpen()
    } finally {
      clearTimeout(timer)
    }
  }

  /** Only now: what a channel receives belongs to a migration that follows its main stream. */
  #receive(link: DestinationLink, incoming: Incoming): void {
    const group = this.#group
    if (group === undefined) return
    this.#endedChannels = 0
    link.openChannels(group, () => {
      if (this.#resumeToken !== undefined) group.clearReceivedSinceSync()
      incoming.syncCollected()
    })
  }

  /** The present connection is over: what it carried still counts. */
  #retire(): void {
    const link = this.#link
    if (link === undefined) return
    link.wire.destroy()
    const counts = link.counts
    this.#before.receivedBytes += counts.receivedBytes
    this.#before.normalPages += counts.normalPages
    this.#before.zeroPages += counts.zeroPages
    this.#before.syncs += counts.syncs
  }

  #linkOver(main: NativeConnection): DestinationLink {
    return new DestinationLink({
      settings: this.#settings,
      migrationFailed: this.#first,
      main,
      atWork: () => this.#emptying !== undefined || (this.#incoming?.loading ?? false),
      devicePacket: (packet) => this.#incoming?.devicePacket(packet),
      channelEnded: (link, channelId) => this.#channelEnded(link, channelId),
    })
  }

  #mainCame(connection: NativeConnection): void {
    if (!this.#mainSeen) {
      this.#mainSeen = true
      this.#mainArrived.resolve(connection)
    } else if (this.#group === undefined) {
      connection.close()
      this.#first.set(
        new MultifdError(
          'ERR_MULTIFD_HANDSHAKE',
          `a second main channel came, from ${connection.peer}: two sources migrate to one destination`,
        ),
      )
    } else {
      void this.#newcomer(this.#linkOver(connection))
    }
  }

  /** A main channel beside a migration: its source again, or a stranger, who is turned away. */
  async #newcomer(link: DestinationLink): Promise<void> {
    const token = this.#incoming?.mayResume ? this.#resumeToken : undefined
    if (!(await this.#sourceReturn.newcomer(link, token))) return
    // This side may not have heard yet that the connection broke.
    const error = new MultifdError('ERR_MULTIFD_PEER_CLOSED', 'the source lost the connection')
    this.#link?.first.set(error)
  }

  #beginHandshake(): void {
    if (this.#startedMs !== 0) return
    this.#startedMs = performance.now()
    const timeoutMs = this.#settings.handshakeTimeoutMs
    this.#handshakeTimer = setTimeout(() => {
      const { taken, expected } = this.#link?.arrived ?? { taken: 0, expected: undefined }
      const channels = `${taken + this.#door.waiting} of ${expected ?? '?'}`
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

  #channelEnded(link: DestinationLink, channelId: number): void {
    this.#endedChannels += 1
    if (this.#incoming?.ramOver) {
      // What pieces of devices did not come by now will not come.
      if (this.#endedChannels === link.channels.length) this.#incoming.channelsEnded()
      return
    }
    link.first.set(
      new MultifdError(
        'ERR_MULTIFD_PEER_CLOSED',
        `the source closed multifd channel ${channelId} before the end of RAM: look for the reason there`,
        { channelId },
      ),
    )
  }

  /** Ready without a commit is a case of its own: the operator has to know. */
  #failed(error: MultifdError): MultifdError {
    this.#first.set(error)
    this.#link?.wire.refuse()
    if (this.#incoming?.ownership.failed() === 'unknown') {
      this.#status.enter('device')
      this.#status.enter('unknown')
      return commitMissing(error)
    }
    this.#status.enter(error.code === 'ERR_MULTIFD_ABORTED' ? 'cancelling' : 'failed')
    return error
  }

  /** Ends what is still there; the guest memory stays, and may be used for the next attempt. */
  async #release(): Promise<void> {
    await this.#door.close()
    this.#mainArrived.promise.then(
      (connection) => connection.close(),
      () => {},
    )
    this.#mainArrived.reject(new MultifdError('ERR_MULTIFD_CLOSED', 'closed'))
    await Promise.all([this.#link?.destroy(), this.#sourceReturn.close()])
    await this.#emptying // or it would empty the next attempt's memory
    this.#group?.close()
    this.#settings.memory.endReceiving()
    if (this.#status.status === 'completed') return
    // What was refused goes out before the socket does.
    await new Promise((resolve) => setImmediate(resolve))
    this.#link?.wire.destroy()
    if (this.#status.status === 'cancelling') this.#status.enter('cancelled')
  }

  #finish(link: DestinationLink): IncomingResult {
    const channels = link.channels.map((channel) => ({
      channelId: channel.channelId,
      ...channel.counters,
    }))
    return {
      status: 'completed',
      syncs: this.#before.syncs + link.counts.syncs,
      receivedBytes: this.receivedBytes,
      normalPages: this.#before.normalPages + link.counts.normalPages,
      zeroPages: this.#before.zeroPages + link.counts.zeroPages,
      compression: this.#compression,
      totalTimeMs: performance.now() - this.#startedMs,
      channels,
    }
  }
}
