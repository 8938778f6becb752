// MigrationSource: wires guest memory, channels, scheduler and the main channel into one outgoing
// migration, and takes all of it down again. One of the two places that know every room.

import type { SendChannel } from './channel/send-channel.ts'
import { parseUri, resolveUri } from './channel/uri.ts'
import { DirtyLog, openRamState, type TrackerChoice } from './guest/dirty-tracker.ts'
import { type Deferred, deferred } from './kit/deferred.ts'
import { MultifdError } from './kit/errors.ts'
import { PAGE_SIZE_BYTES } from './kit/limits.ts'
import { checked, type NativeEndpoint, type NativeSendGroup, native } from './kit/native.ts'
import { optionalSignal, refuseUnknown } from './kit/options.ts'
import { engineOf, openChannels, prepareEngine, reportOf } from './migrate/channel-setup.ts'
import type { FlushControl } from './migrate/flush-control.ts'
import { Outgoing } from './migrate/outgoing.ts'
import { OutgoingWire } from './migrate/outgoing-wire.ts'
import type { ChannelReport, MigrationProgress, MigrationResult } from './migrate/progress.ts'
import { ProgressStream } from './migrate/progress-stream.ts'
import { RoundSender } from './migrate/round-sender.ts'
import {
  checkSourceOptions,
  type MigrationSourceOptions,
  type SourceSettings,
} from './migrate/source-options.ts'
import { type MigrationStatus, StatusMachine } from './migrate/status.ts'
import { asMultifdError, FirstError } from './migrate/teardown.ts'
import { Watchdog } from './migrate/watchdog.ts'
import type { EngineChoice } from './schedule/engine-choice.ts'
import { RateLimiter } from './schedule/rate-limiter.ts'

/** Progress events while a migration runs. */
const PROGRESS_INTERVAL_MS = 100

/** A running migration: iterate it for progress, await `result` for the end. */
export interface Migration extends AsyncIterable<MigrationProgress> {
  /** Rejects with a MultifdError; the guest then runs on here, unless `status` is `unknown`. */
  readonly result: Promise<MigrationResult>
  readonly status: MigrationStatus
}

/**
 * The side that has the guest. One migration at a time; after a failed or cancelled one the next
 * can start at once.
 *
 * ```ts
 * const source = new MigrationSource({ memory, vmm: { stop, resume } })
 * const migration = source.migrate('tcp:127.0.0.1:4444')
 * for await (const { round, remainingBytes } of migration) console.log(round, remainingBytes)
 * const { downtimeMs } = await migration.result
 * ```
 */
export class MigrationSource {
  readonly #settings: SourceSettings
  #running: OutgoingSession | undefined

  /** @throws TypeError or RangeError naming an option that is unknown or out of range. */
  constructor(options: MigrationSourceOptions) {
    this.#settings = checkSourceOptions(options)
  }

  /**
   * Starts to migrate to `uri`: `tcp:HOST:PORT` or `unix:PATH`, where a MigrationDestination
   * listens.
   * @param options.signal cancels; the guest then runs on here.
   * @throws TypeError for a malformed URI; MultifdError ERR_MULTIFD_STATE while a migration runs.
   */
  migrate(uri: string, options: { signal?: AbortSignal } = {}): Migration {
    refuseUnknown('migrate', options, ['signal'])
    const signal = optionalSignal(options.signal)
    const parsed = parseUri(uri)
    if (this.#running !== undefined) {
      throw new MultifdError('ERR_MULTIFD_STATE', 'a migration of this source is running already')
    }
    const session = new OutgoingSession(this.#settings, () => {
      this.#running = undefined
    })
    this.#running = session
    session.start(() => resolveUri(parsed, this.#settings), signal)
    return session
  }
}

/** One attempt, with everything that it opened. */
class OutgoingSession implements Migration {
  readonly #settings: SourceSettings
  /** Called when everything is given back, before `result` settles: the next may start at once. */
  readonly #ended: () => void
  readonly #status = new StatusMachine('source')
  readonly #first = new FirstError('source')
  readonly #aborted = new AbortController()
  readonly #progress = new ProgressStream()
  readonly #startedMs = performance.now()
  readonly #jsCpuBefore = native().threadCpuNanoseconds()
  #connectMs = 0
  #setupTimeMs = 0
  #wire: OutgoingWire | undefined
  #group: NativeSendGroup | undefined
  #tracker: TrackerChoice | undefined
  /** Native work on the group, which must be over before the group is closed. */
  #preparing: Promise<EngineChoice> | undefined
  #choice: EngineChoice | undefined
  #flush: FlushControl | undefined
  #channels: SendChannel[] = []
  #sender: RoundSender | undefined
  #outgoing: Outgoing | undefined
  #lastProgress: MigrationProgress | undefined
  #unfollow: () => void = () => {}
  readonly #result: Deferred<MigrationResult> = deferred()

  constructor(settings: SourceSettings, ended: () => void) {
    this.#settings = settings
    this.#ended = ended
  }

  get result(): Promise<MigrationResult> {
    return this.#result.promise
  }
  get status(): MigrationStatus {
    return this.#status.status
  }
  [Symbol.asyncIterator](): AsyncIterator<MigrationProgress, void, void> {
    return this.#progress[Symbol.asyncIterator]()
  }

  start(resolve: () => Promise<NativeEndpoint>, signal: AbortSignal | undefined): void {
    this.#unfollow = this.#first.follow(signal)
    this.#run(resolve).then(this.#result.resolve, this.#result.reject)
    // Behind the last event, which is pushed before the result settles.
    const end = (): void => this.#progress.end(this.#result.promise)
    this.#result.promise.then(end, end)
  }

  async #run(resolve: () => Promise<NativeEndpoint>): Promise<MigrationResult> {
    this.#status.enter('setup')
    this.#first.promise.catch(() => this.#aborted.abort())
    const watchdog = this.#watch()
    const timer = setInterval(() => this.#report(), PROGRESS_INTERVAL_MS)
    try {
      const outgoing = await this.#open(await this.#first.unless(resolve()), watchdog)
      this.#setupTimeMs = performance.now() - this.#startedMs
      await outgoing.run()
      const result = this.#finish(outgoing)
      await Promise.all([this.#wire?.close(), ...this.#channels.map((channel) => channel.close())])
      return result
    } catch (thrown) {
      throw await this.#failed(asMultifdError(thrown))
    } finally {
      clearInterval(timer)
      watchdog.stop()
      this.#unfollow()
      await this.#release()
      this.#report()
      this.#ended()
    }
  }

  async #open(endpoint: NativeEndpoint, watchdog: Watchdog): Promise<Outgoing> {
    const settings = this.#settings
    const fail = (error: MultifdError): void => this.#first.set(error)
    const tracker = openRamState(settings.memory, settings.dirty)
    this.#tracker = tracker
    const group = checked(native().createSendGroup(tracker.ram), 'preparing channels failed')
    this.#group = group
    this.#preparing = prepareEngine({ settings, endpoint, tracker, group })
    const choice = await this.#first.unless(watchdog.during(this.#preparing))
    this.#choice = choice
    this.#connectMs = performance.now()
    // The main channel first: a QEMU 7.2 takes the first connection for it.
    const wire = await this.#first.unless(
      OutgoingWire.connect(endpoint, {
        timeoutMs: settings.connectTimeoutMs,
        signal: this.#aborted.signal,
        fail,
      }).then((connected) => {
        this.#wire = connected
        return connected
      }),
    )
    await this.#first.unless(
      wire.begin({
        channels: settings.multifdChannels,
        compression: settings.compression,
        uuid: settings.uuid,
      }),
    )
    const { flush, ready } = openChannels({
      settings,
      endpoint,
      group,
      choice,
      listener: {
        extentDone: (id, wireBytes) => this.#sender?.extentDone(id, wireBytes),
        syncDone: (id) => this.#sender?.syncDone(id),
        failed: fail,
      },
      opened: (channel) => this.#channels.push(channel),
    })
    this.#flush = flush
    await this.#first.unless(ready())
    const bytesPerSecond = settings.maxBandwidthBytesPerSecond
    const limiter = new RateLimiter({ bytesPerSecond, nowMs: performance.now() })
    this.#sender = new RoundSender({ channels: this.#channels, limiter, flush })
    this.#outgoing = new Outgoing({
      settings,
      status: this.#status,
      first: this.#first,
      watchdog,
      wire,
      channels: this.#channels,
      tracker,
      sender: this.#sender,
      beforeCommit: () => this.#unfollow(),
    })
    return this.#outgoing
  }

  #watch(): Watchdog {
    return new Watchdog({
      timeoutMs: this.#settings.peerTimeoutMs,
      progress: () => {
        // While only our own limit holds us back, the peer has nothing to say.
        if (this.#sender?.waitsForLimiter) return performance.now()
        return this.#transferredBytes() + (this.#wire?.readBytes ?? 0)
      },
      deepProgress: () => this.#channels.reduce((sum, channel) => sum + channel.ackedBytes, 0),
      expired: (error) => this.#first.set(error),
    })
  }

  /** First the guest, then the wreckage. Returns the error the migration ends with. */
  async #failed(error: MultifdError): Promise<MultifdError> {
    this.#first.set(error) // wakes whoever still waits for a step
    this.#sender?.stop()
    let final = error
    try {
      await this.#outgoing?.resumeGuest()
    } catch (thrown) {
      const failure = asMultifdError(thrown)
      final = new MultifdError(failure.code, `${failure.message}; before that: ${error.message}`, {
        cause: error,
      })
    }
    if (this.#status.over) return final
    if (error.code === 'ERR_MULTIFD_ABORTED') {
      this.#status.enter('cancelling')
      this.#report()
    } else {
      this.#status.enter('failed')
    }
    return final
  }

  /** Ends what is still there; after an orderly end that is nothing but book-keeping. */
  async #release(): Promise<void> {
    this.#sender?.stop()
    this.#wire?.destroy()
    await Promise.all(this.#channels.map((channel) => channel.destroy()))
    await this.#outgoing?.idle
    await this.#preparing?.catch(() => {})
    await this.#group?.unregisterMemory()
    this.#group?.close()
    this.#tracker?.ram.close()
    if (this.#settings.dirty instanceof DirtyLog) this.#settings.dirty.end()
    if (this.#status.status === 'cancelling') this.#status.enter('cancelled')
  }

  #transferredBytes(): number {
    return this.#multifdBytes() + (this.#wire?.writtenBytes ?? 0)
  }

  #multifdBytes(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.sentBytes, 0)
  }

  #normalBytes(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.normalBytes, 0)
  }

  #channelReports(): ChannelReport[] {
    const flush = this.#flush
    const choice = this.#choice
    if (flush === undefined || choice === undefined) return []
    return this.#channels.map((channel) => reportOf(channel, flush, choice))
  }

  #report(): void {
    if (!this.#progress.watched) return
    const before = this.#lastProgress
    const elapsedMs = performance.now() - this.#startedMs
    const seconds = Math.max((elapsedMs - (before?.elapsedMs ?? 0)) / 1000, 1e-3)
    const channels = this.#channelReports().map((report) => {
      const sentBefore = before?.channels[report.channelId]?.sentBytes ?? 0
      return { ...report, bytesPerSecond: (report.sentBytes - sentBefore) / seconds }
    })
    const transferredBytes = this.#transferredBytes()
    this.#lastProgress = {
      status: this.#status.status,
      round: this.#outgoing?.round ?? 0,
      dirtySyncCount: this.#outgoing?.dirtySyncCount ?? 0,
      remainingBytes: (this.#sender?.remainingPages ?? 0) * PAGE_SIZE_BYTES,
      dirtyBytesPerSecond: this.#outgoing?.dirtyBytesPerSecond ?? 0,
      transferredBytes,
      multifdBytes: this.#multifdBytes(),
      normalBytes: this.#normalBytes(),
      compression: this.#settings.compression,
      bytesPerSecond: (transferredBytes - (before?.transferredBytes ?? 0)) / seconds,
      expectedDowntimeMs: this.#outgoing?.expectedDowntimeMs ?? Number.POSITIVE_INFINITY,
      elapsedMs,
      channels,
    }
    this.#progress.push(this.#lastProgress)
  }

  #finish(outgoing: Outgoing): MigrationResult {
    const nowMs = performance.now()
    const channels = this.#channelReports()
    const sum = (pick: (counters: (typeof channels)[number]) => number): number =>
      channels.reduce((total, channel) => total + pick(channel), 0)
    const multifdBytes = sum((channel) => channel.sentBytes)
    const transferredBytes = multifdBytes + (this.#wire?.writtenBytes ?? 0)
    return {
      status: 'completed',
      rounds: outgoing.round,
      dirtySyncCount: outgoing.dirtySyncCount,
      transferredBytes,
      multifdBytes,
      normalBytes: this.#normalBytes(),
      normalPages: sum((channel) => channel.normalPages),
      zeroPages: sum((channel) => channel.zeroPages),
      totalTimeMs: nowMs - this.#startedMs,
      setupTimeMs: this.#setupTimeMs,
      downtimeMs: nowMs - (outgoing.stoppedMs ?? nowMs),
      throughputBytesPerSecond: (transferredBytes / (nowMs - this.#connectMs)) * 1000,
      ...engineOf(this.#channels, this.#choice),
      zeroCopy: this.#settings.zeroCopy,
      compression: this.#settings.compression,
      dirtyTracker: this.#tracker?.tracker ?? '',
      dirtyTrackerReason: this.#tracker?.reason ?? '',
      jsThreadCpuNanoseconds: native().threadCpuNanoseconds() - this.#jsCpuBefore,
      channels,
    }
  }
}
