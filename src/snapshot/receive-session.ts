// One reception from the open door to the sealed snapshot: gathers connections, lets the stream run
// in, makes everything durable, only then tells the source, and takes all of it down again. A
// failure before that word leaves no snapshot, and the guest at the source.

import { MainChannel } from '../channel/main-channel.ts'
import { MultifdError } from '../kit/errors.ts'
import type { NativeConnection, NativeEndpoint } from '../kit/native.ts'
import { IncomingWire } from '../migrate/incoming-wire.ts'
import { ProgressStream } from '../migrate/progress-stream.ts'
import { asMultifdError, FirstError } from '../migrate/teardown.ts'
import { Watchdog } from '../migrate/watchdog.ts'
import type { RamMemSizeEvent } from '../wire/main-stream-events.ts'
import { IncomingRam } from './incoming-ram.ts'
import { IncomingStream, type StreamSummary } from './incoming-stream.ts'
import { isHashed, type SnapshotManifest } from './manifest.ts'
import { atTheSource, setParameter } from './qemu-commands.ts'
import type { ReceiveSettings } from './receive-options.ts'
import type { ReceptionProgress, ReceptionResult, ReceptionStatus } from './reception.ts'
import { hashRam, newManifest } from './seal.ts'
import type { SnapshotDirectory } from './snapshot-directory.ts'
import { SourceConnections } from './source-connections.ts'

const PROGRESS_INTERVAL_MS = 100

/** Without return path, once the stream came whole. */
const OF_NO_CONSEQUENCE = ['ERR_MULTIFD_ABORTED', 'ERR_MULTIFD_CLOSED', 'ERR_MULTIFD_PEER_CLOSED']

/** A channel that met another compression says so; here is what to type. */
function withCompressionAdvice(error: MultifdError, settings: ReceiveSettings): MultifdError {
  if (!error.message.includes('multifd-compression')) return error
  const { compression } = settings
  const advice = atTheSource(setParameter('multifd-compression', compression))
  const { code, message, channelId = 0 } = error
  return new MultifdError(code, `${message}. Here it is ${compression}: ${advice}`, { channelId })
}

export class ReceiveSession {
  readonly connections: SourceConnections
  readonly progress = new ProgressStream<ReceptionProgress>()
  readonly #settings: ReceiveSettings
  readonly #directory: SnapshotDirectory
  readonly #first = new FirstError('destination')
  readonly #watchdog: Watchdog
  readonly #warnings: string[] = []
  #status: ReceptionStatus = 'listening'
  #gathered = false
  #wire: IncomingWire | undefined
  #stream: IncomingStream | undefined
  #ram: IncomingRam | undefined
  /** Writing that must be over before the directory can be removed. */
  #storing: Promise<unknown> = Promise.resolve()
  /** The source was told that it may give its guest up: from here on nothing is removed. */
  #told = false
  #lastEvent: { atMs: number; receivedBytes: number } = {
    atMs: performance.now(),
    receivedBytes: 0,
  }

  /** @throws MultifdError ERR_MULTIFD_CHANNEL if the address is not to be had. */
  constructor(settings: ReceiveSettings, endpoint: NativeEndpoint, directory: SnapshotDirectory) {
    this.#settings = settings
    this.#directory = directory
    this.connections = new SourceConnections(endpoint, settings, (error) => this.#first.set(error))
    this.#watchdog = new Watchdog({
      timeoutMs: settings.peerTimeoutMs,
      // Until all are there the handshake's own limit counts.
      progress: () => (this.#gathered ? this.receivedBytes : performance.now()),
      deepProgress: () => 0,
      expired: (error) => this.#first.set(this.#silent(error)),
    })
  }

  get status(): ReceptionStatus {
    return this.#status
  }
  get receivedBytes(): number {
    return (this.#wire?.readBytes ?? 0) + (this.#ram?.receivedBytes ?? 0)
  }

  close(): void {
    this.#first.set(new MultifdError('ERR_MULTIFD_CLOSED', 'the reception was closed'))
  }

  async run(): Promise<ReceptionResult> {
    const unfollow = this.#first.follow(this.#settings.signal)
    const ticks = setInterval(() => {
      if (this.progress.watched) this.#report()
    }, PROGRESS_INTERVAL_MS)
    try {
      this.#enter('listening')
      const summary = await this.#receive()
      const stored = await this.#store(summary)
      const storedMs = await this.#tell()
      const manifest = await this.#hash(stored)
      this.#enter('completed')
      return this.#result(manifest, storedMs)
    } catch (thrown) {
      throw await this.#failed(asMultifdError(thrown))
    } finally {
      clearInterval(ticks)
      this.#watchdog.stop()
      unfollow()
    }
  }

  /** From nothing to a stream that is complete. */
  async #receive(): Promise<StreamSummary> {
    const [first, settings] = [this.#first, this.#settings]
    const main = await first.unless(this.connections.main)
    const wire = new IncomingWire(
      (listener) => MainChannel.adopt(main, listener),
      (error) => this.#connectionFailed(error),
      () => this.#closedEarly(),
    )
    this.#wire = wire
    this.#enter('receiving')
    if (settings.channels === 0) this.#gathered = true
    const stream = new IncomingStream({
      settings,
      first,
      wire,
      openRam: (event) => this.#openRam(event),
    })
    this.#stream = stream
    return await stream.run()
  }

  async #openRam(event: RamMemSizeEvent): Promise<IncomingRam> {
    const connections: readonly NativeConnection[] = await this.#first.unless(
      this.connections.channels,
    )
    this.#watchdog.touch()
    this.#gathered = true
    this.#ram = new IncomingRam(this.#directory, event, connections, {
      compression: this.#settings.compression,
      listener: {
        syncArrived: (channelId) => this.#stream?.syncArrived(channelId),
        peerEnded: (channelId) => this.#channelEnded(channelId),
        failed: (error) => this.#first.set(withCompressionAdvice(error, this.#settings)),
      },
    })
    return this.#ram
  }

  /** Everything to the disk, the manifest last. The source waits; its guest is still its own. */
  async #store(summary: StreamSummary): Promise<SnapshotManifest> {
    this.#enter('storing')
    const storing = this.#writeAll(summary)
    this.#storing = storing.catch(() => {})
    const stored = this.#watchdog.during(storing)
    // A source that waits for no word is finished: who gave up now would lose the guest.
    return this.#stream?.returnPath ? await this.#first.unless(stored) : await stored
  }

  async #writeAll(summary: StreamSummary): Promise<SnapshotManifest> {
    const directory = this.#directory
    const manifest = await newManifest(directory, {
      ...summary,
      opening: this.#wire?.opening ?? new Uint8Array(0),
      blocks: this.#ram?.blocks ?? [],
      uuid: summary.configuration.uuid ?? this.connections.uuid,
      channels: this.#settings.channels,
      compression: this.#settings.compression,
      returnPath: this.#stream?.returnPath ?? false,
    })
    await directory.writeManifest(manifest)
    return manifest
  }

  /** SHUT(0). From here on the guest may be the snapshot's, so nothing may fail any more. */
  async #tell(): Promise<number> {
    const objection = this.#objection()
    if (objection !== undefined) throw objection
    this.#told = true
    this.#watchdog.stop()
    if (this.#stream?.returnPath) await this.#wire?.ready()
    else {
      this.#warnings.push(
        'the source had no return path: it took its guest for migrated before the snapshot was durable; ' +
          'with the capability return-path on it waits for it',
      )
    }
    const storedMs = this.#elapsedMs()
    await this.#wire?.close()
    await this.#release()
    const error = this.#objection()
    if (error !== undefined && error.code !== 'ERR_MULTIFD_ABORTED') {
      this.#warnings.push(
        'the connection broke when the source was told that the snapshot is stored: look whether its ' +
          `guest runs on there (HMP "info migrate", QMP {"execute":"query-migrate"}) (${error.message})`,
      )
    }
    return storedMs
  }

  /**
   * What counts against a stream that came whole. Of a source that waits for no word the only copy
   * of the guest is here: no change of mind does, and no connection that ended.
   */
  #objection(): MultifdError | undefined {
    const { error } = this.#first
    if (this.#stream?.returnPath || error === undefined) return error
    return OF_NO_CONSEQUENCE.includes(error.code) ? undefined : error
  }

  /** The hashes of RAM, which need a second per GiB or two: the source does not wait for them. */
  async #hash(manifest: SnapshotManifest): Promise<SnapshotManifest> {
    this.#enter('hashing')
    try {
      const sealed = await hashRam(this.#directory, manifest, this.#settings.signal)
      await this.#directory.writeManifest(sealed)
      return sealed
    } catch (error) {
      if (!this.#settings.signal?.aborted) throw error
      this.#warnings.push('hashing was cancelled: the snapshot is whole, but has no hashes of RAM')
      return manifest
    }
  }

  #channelEnded(channelId: number): void {
    if (this.#told || this.#stream?.ramOver) return
    this.#first.set(
      new MultifdError(
        'ERR_MULTIFD_PEER_CLOSED',
        `the source closed multifd channel ${channelId} before the end of RAM: look for the reason there`,
        { channelId },
      ),
    )
  }

  /** Once the source was told, its connection may end in any way. */
  #connectionFailed(error: MultifdError): void {
    this.#first.set(error)
  }

  /** The source closed the main channel behind its last byte. */
  #closedEarly(): MultifdError | undefined {
    if (this.#told || !this.#stream?.returnPath) return undefined
    return new MultifdError(
      'ERR_MULTIFD_PEER_CLOSED',
      'the source closed the main channel before it was told that the snapshot is stored: it was ' +
        'cancelled there, and its guest runs on there',
    )
  }

  #silent(error: MultifdError): MultifdError {
    if (!this.#stream?.inDevices) return error
    return new MultifdError(
      error.code,
      `${error.message}. The device state came, but not the vmdescription that tells where it ends: it ` +
        'must not be switched off at the source (suppress-vmdesc)',
    )
  }

  /** Leaves nothing, unless the guest may be in it already. */
  async #failed(error: MultifdError): Promise<MultifdError> {
    this.#first.set(error)
    this.#enter(error.code === 'ERR_MULTIFD_ABORTED' ? 'cancelled' : 'failed')
    if (this.#told) {
      return new MultifdError(
        error.code,
        `the snapshot in ${this.#directory.path} is stored and was confirmed to the source, but ` +
          `something failed afterwards; keep it (${error.message})`,
        { cause: error },
      )
    }
    if (this.#stream?.returnPath) this.#wire?.refuse()
    await this.#release()
    await this.#storing
    await this.#directory.remove().catch(() => {}) // the first error is the one to tell
    return error
  }

  async #release(): Promise<void> {
    await this.connections.close()
    await this.#ram?.close()
    // What was refused goes out before the socket does.
    await new Promise((resolve) => setImmediate(resolve))
    this.#wire?.destroy()
  }

  #enter(status: ReceptionStatus): void {
    this.#status = status
    this.#report()
  }

  #elapsedMs(): number {
    const { startedMs } = this.connections
    return startedMs === undefined ? 0 : performance.now() - startedMs
  }

  #report(): void {
    const [atMs, receivedBytes] = [performance.now(), this.receivedBytes]
    const before = this.#lastEvent
    this.#lastEvent = { atMs, receivedBytes }
    const seconds = Math.max(atMs - before.atMs, 1) / 1000
    this.progress.push({
      status: this.#status,
      round: this.#stream?.syncs ?? 0,
      receivedBytes,
      bytesPerSecond: (receivedBytes - before.receivedBytes) / seconds,
      ramBytes: this.#ram?.blocks.reduce((sum, { usedLength }) => sum + usedLength, 0) ?? 0,
      normalPages: this.#ram?.normalPages ?? 0,
      zeroPages: this.#ram?.zeroPages ?? 0,
      elapsedMs: this.#elapsedMs(),
    })
  }

  #result(manifest: SnapshotManifest, storedMs: number): ReceptionResult {
    const ram = this.#ram
    return {
      status: 'completed',
      directory: this.#directory.path,
      manifest,
      hashed: isHashed(manifest),
      warnings: this.#warnings,
      syncs: this.#stream?.syncs ?? 0,
      receivedBytes: this.receivedBytes,
      normalPages: ram?.normalPages ?? 0,
      zeroPages: ram?.zeroPages ?? 0,
      storedMs,
      totalMs: this.#elapsedMs(),
      channels: (ram?.channels ?? []).map((channel) => ({
        channelId: channel.channelId,
        ...channel.counters,
      })),
    }
  }
}
