// One destination of a snapshot, from the first connection to QEMU's last word: main channel,
// channels, RAM in a single round, devices. Opens everything it needs and takes all of it down; the
// destinations of one snapshot share its files and nothing else.
//
//   main ─► channels ─► PONG 1 ─► START, SYNC ─► PONG 2 ─► pages, zeros, SYNC ─► END ─► devices
//   ─► SHUT(0)

import assert from 'node:assert/strict'
import type { SendChannel } from '../channel/send-channel.ts'
import { parseUri, resolveUri } from '../channel/uri.ts'
import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import type { NativeEndpoint, NativeSendGroup } from '../kit/native.ts'
import {
  channelsAtOnce,
  engineOf,
  openChannelsInTurn,
  prepareEngine,
  reportOf,
} from '../migrate/channel-setup.ts'
import type { FlushControl } from '../migrate/flush-control.ts'
import type { ChannelReport } from '../migrate/progress.ts'
import { RoundSender } from '../migrate/round-sender.ts'
import { asMultifdError, FirstError } from '../migrate/teardown.ts'
import { Watchdog } from '../migrate/watchdog.ts'
import type { EngineChoice } from '../schedule/engine-choice.ts'
import { flushThresholds } from '../schedule/flush-policy.ts'
import { RateLimiter } from '../schedule/rate-limiter.ts'
import type { Extent } from '../schedule/round-plan.ts'
import { formatUuid, nilUuid, parseUuid } from '../wire/uuid.ts'
import { adviceFor, MAY_RUN, type ReplayFacts, tooManyChannels } from './qemu-advice.ts'
import { RamReplay } from './ram-replay.ts'
import { ReplayMemory } from './replay-memory.ts'
import { ReplayWire } from './replay-wire.ts'
import type { SendSettings } from './send-options.ts'
import type { DestinationProgress, SendOutcome, SendStatus, SentSnapshot } from './send-progress.ts'
import type { StoredSnapshot } from './stored-snapshot.ts'

/** The kinds of failure that QEMU's side, or what it was told, may explain. */
const OF_THE_PEER = ['ERR_MULTIFD_PEER_CLOSED', 'ERR_MULTIFD_TIMEOUT', 'ERR_MULTIFD_CHANNEL']

export class Replay {
  readonly #snapshot: StoredSnapshot
  readonly #settings: SendSettings & { uuid: Uint8Array }
  readonly #uri: string
  readonly #facts: ReplayFacts
  readonly #first = new FirstError('source')
  readonly #aborted = new AbortController()
  #status: SendStatus = 'setup'
  #connectMs = 0
  #ram: ReplayMemory | undefined
  #choice: EngineChoice | undefined
  #wire: ReplayWire | undefined
  #channels: SendChannel[] = []
  #connected = 0
  #flush: FlushControl | undefined
  #sender: RoundSender | undefined
  #words: RamReplay | undefined
  #limiter: RateLimiter
  #waitsForLimiter = false
  #reported = { transferredBytes: 0, ms: performance.now() }

  /** @param options.uuid undefined for the snapshot's own */
  constructor(snapshot: StoredSnapshot, settings: SendSettings, uri: string) {
    const { manifest, dialect } = snapshot
    const uuid = settings.uuid ?? storedUuid(manifest.uuid)
    this.#snapshot = snapshot
    this.#settings = { ...settings, uuid }
    this.#uri = uri
    this.#facts = {
      manifest,
      channels: settings.multifdChannels,
      compression: settings.compression,
      uuid: formatUuid(uuid),
      dialect,
    }
    this.#limiter = new RateLimiter({
      bytesPerSecond: settings.maxBandwidthBytesPerSecond,
      nowMs: performance.now(),
    })
  }

  /** Never rejects: whatever happens is the outcome of this destination. */
  async run(): Promise<SendOutcome> {
    const unfollow = this.#first.follow(this.#settings.signal)
    this.#first.promise.catch(() => this.#aborted.abort())
    const watchdog = this.#watch()
    try {
      await this.#replay(watchdog)
      const result = this.#result()
      await Promise.all([this.#wire?.close(), ...this.#channels.map((channel) => channel.close())])
      return result
    } catch (thrown) {
      const error = this.#firstError(asMultifdError(thrown))
      this.#first.set(error) // wakes whoever still waits for a step
      this.#status = error.code === 'ERR_MULTIFD_ABORTED' ? 'cancelled' : 'failed'
      return { uri: this.#uri, status: this.#status, error }
    } finally {
      unfollow()
      watchdog.stop()
      await this.#release()
    }
  }

  progress(): DestinationProgress {
    const transferredBytes = this.#transferredBytes()
    const nowMs = performance.now()
    const seconds = Math.max((nowMs - this.#reported.ms) / 1000, 1e-3)
    const bytesPerSecond = (transferredBytes - this.#reported.transferredBytes) / seconds
    this.#reported = { transferredBytes, ms: nowMs }
    return {
      uri: this.#uri,
      status: this.#status,
      remainingBytes: this.#remainingPages() * PAGE_SIZE_BYTES,
      transferredBytes,
      bytesPerSecond,
      channels: this.#channelReports(),
    }
  }

  async #replay(watchdog: Watchdog): Promise<void> {
    const endpoint = await this.#unless(resolveUri(parseUri(this.#uri), this.#settings))
    const ram = await this.#prepare(endpoint, watchdog)
    const { channels } = this.#facts
    const planned = ram.plan(channels, this.#settings.maxBandwidthBytesPerSecond)
    const extents = await this.#unless(watchdog.during(planned))
    const wire = await this.#connect(endpoint, ram.group)
    const { manifest, dialect, tail } = this.#snapshot
    // The SYNC of setup goes first: behind it a channel waits until QEMU has prepared its RAM.
    await this.#sync()
    await this.#unless(
      wire.ramStart({
        sectionId: manifest.ramSection.sectionId,
        blocks: manifest.ram.map(({ idstr, sizeBytes }) => ({ idstr, usedLength: sizeBytes })),
        dialect,
        channels,
      }),
    )
    this.#status = 'active'
    await this.#unless(wire.ramPart())
    await this.#sendRam(wire, ram, extents)
    await this.#unless(wire.ramPartEnd())
    // Per round the SYNC behind the last page was the last: nothing may be queued behind it.
    assert.equal(this.#sender?.remainingPages ?? 0, 0)
    if (dialect === 'per-section') await this.#sync()
    await this.#unless(wire.ramEnd())
    this.#status = 'device'
    await this.#unless(wire.tail(tail))
    await this.#unless(wire.loaded)
    this.#status = 'completed'
  }

  /** What is decided before the first connection. */
  async #prepare(endpoint: NativeEndpoint, watchdog: Watchdog): Promise<ReplayMemory> {
    const ram = ReplayMemory.open(this.#snapshot, this.#facts.channels)
    this.#ram = ram
    if (ram.group === undefined) return ram
    const { engine, compression } = this.#settings
    const zeroCopy = compression === 'none' ? this.#settings.zeroCopy : 'off'
    const settings = { engine, zeroCopy, memory: ram.memory, vmm: { discards: false } }
    const parts = { settings, endpoint, tracker: ram.tracker, group: ram.group }
    this.#choice = await this.#unless(watchdog.during(ram.during(prepareEngine(parts))))
    return ram
  }

  async #connect(
    endpoint: NativeEndpoint,
    group: NativeSendGroup | undefined,
  ): Promise<ReplayWire> {
    const fail = (error: MultifdError): void => this.#fail(error)
    const { connectTimeoutMs: timeoutMs } = this.#settings
    this.#connectMs = performance.now()
    // The main channel first, and connected: a QEMU 7.2 takes the first connection for it.
    const connecting = ReplayWire.connect(endpoint, {
      timeoutMs,
      signal: this.#aborted.signal,
      fail,
    }).then((wire) => {
      this.#wire = wire
      return wire
    })
    const wire = await this.#unless(connecting)
    // QEMU blocks on a connection that stays silent.
    await this.#unless(wire.begin(this.#snapshot.configuration))
    const choice = this.#choice
    if (group !== undefined && choice !== undefined) {
      const flush = await this.#unless(this.#openChannels({ endpoint, group, choice, wire }))
      this.#flush = flush
      this.#sender = new RoundSender({
        channels: this.#channels,
        atOnce: channelsAtOnce(endpoint),
        limiter: this.#limiter,
        flush,
      })
    }
    await this.#unless(wire.reads)
    return wire
  }

  async #openChannels(parts: {
    endpoint: NativeEndpoint
    group: NativeSendGroup
    choice: EngineChoice
    wire: ReplayWire
  }): Promise<FlushControl> {
    const { wire, ...rest } = parts
    const channels = this.#facts.channels
    const thresholds = Array.from({ length: channels }, () => flushThresholds({}))
    return await openChannelsInTurn({
      ...rest,
      settings: { ...this.#settings, flushThresholds: thresholds },
      listener: {
        extentDone: (id, wireBytes) => this.#sender?.extentDone(id, wireBytes),
        syncDone: (id) => this.#sender?.syncDone(id),
        failed: (error) => this.#fail(error),
      },
      opened: (channel) => {
        if (wire.began) this.#fail(this.#tooMany())
        this.#channels.push(channel)
        const connected = (): number => (this.#connected += 1)
        channel.ready.then(connected, () => {})
      },
    })
  }

  /** Every page once: over the channels what holds something, over the main channel the rest. */
  async #sendRam(wire: ReplayWire, ram: ReplayMemory, extents: readonly Extent[]): Promise<void> {
    const { directory, manifest } = this.#snapshot
    const words = new RamReplay(manifest.ram, (bytes) => this.#writeWords(wire, bytes))
    this.#words = words
    const sender = this.#sender
    if (sender === undefined) {
      await this.#unless(ram.during(words.allPages(directory, extents)))
      return
    }
    // Absent pages are known at once; what the channels find out comes behind it.
    const zeroPages = (): Promise<void> => ram.during(words.zeroPagesOf(ram.tracker.ram))
    await this.#unless(Promise.all([sender.send(extents), zeroPages()]))
    await this.#unless(zeroPages())
  }

  /** Words count against the limit where they are all there is, pages and zeros alike. */
  async #writeWords(wire: ReplayWire, bytes: Uint8Array): Promise<void> {
    if (this.#first.error !== undefined) throw this.#first.error
    this.#limiter.charge(bytes.length, performance.now())
    await this.#unless(wire.write(bytes))
    for (let nowMs = performance.now(); !this.#limiter.mayStart(nowMs); nowMs = performance.now()) {
      this.#waitsForLimiter = true
      const waitMs = this.#limiter.waitMs(nowMs)
      await this.#unless(new Promise((resolve) => setTimeout(resolve, waitMs)))
    }
    this.#waitsForLimiter = false
  }

  /** One SYNC on every channel. */
  async #sync(): Promise<void> {
    if (this.#sender !== undefined) await this.#unless(this.#sender.send([]))
  }

  #watch(): Watchdog {
    return new Watchdog({
      timeoutMs: this.#settings.peerTimeoutMs,
      progress: () => {
        const held = this.#waitsForLimiter || this.#sender?.waitsForLimiter
        if (held) return performance.now() // by our own limit: the peer has nothing to say
        return this.#transferredBytes() + (this.#wire?.readBytes ?? 0)
      },
      deepProgress: () => this.#channels.reduce((sum, channel) => sum + channel.ackedBytes, 0),
      expired: (error) => this.#fail(error),
    })
  }

  /** The first one, and what is to be said of it; a cancelled replay has to be looked at, too. */
  #firstError(thrown: MultifdError): MultifdError {
    const error = this.#first.error
    if (error === undefined) return this.#explained(thrown)
    return error.code === 'ERR_MULTIFD_ABORTED' ? this.#explained(error) : error
  }

  #fail(error: MultifdError): void {
    this.#first.set(this.#explained(error))
  }

  /** What QEMU says on the wire is next to nothing: how far it came says what to look at. */
  #explained(error: MultifdError): MultifdError {
    const wire = this.#wire
    if (wire === undefined) return error
    const { code, message, channelId, syscall, errno } = error
    const sentences = [message]
    if (OF_THE_PEER.includes(code)) sentences.push(this.#advice(wire, error))
    if (wire.inDoubt) sentences.push(MAY_RUN)
    if (sentences.length === 1) return error
    return new MultifdError(code, sentences.join('; '), {
      cause: error,
      ...(channelId === undefined ? {} : { channelId }),
      ...(syscall === undefined ? {} : { syscall }),
      ...(errno === undefined ? {} : { errno }),
    })
  }

  #advice(wire: ReplayWire, { code, channelId }: MultifdError): string {
    // A QEMU that refuses its list of RAM blocks has taken every channel's first SYNC before.
    const turnedAway = channelId !== undefined && wire.stage === 'setup'
    const tooMany = turnedAway || (wire.began && this.#connected < this.#facts.channels)
    if (tooMany) return tooManyChannels(this.#facts)
    return adviceFor(wire.stage, code === 'ERR_MULTIFD_TIMEOUT', this.#facts)
  }

  #tooMany(): MultifdError {
    return new MultifdError('ERR_MULTIFD_HANDSHAKE', tooManyChannels(this.#facts))
  }

  async #unless<T>(step: Promise<T>): Promise<T> {
    return await this.#first.unless(step)
  }

  /** Ends what is still there; after an orderly end that is nothing but book-keeping. */
  async #release(): Promise<void> {
    this.#sender?.stop()
    this.#wire?.destroy()
    await Promise.all(this.#channels.map((channel) => channel.destroy()))
    await this.#ram?.close()
  }

  #transferredBytes(): number {
    const multifd = this.#channels.reduce((sum, channel) => sum + channel.sentBytes, 0)
    return multifd + (this.#wire?.writtenBytes ?? 0)
  }

  #remainingPages(): number {
    if (this.#status !== 'setup' && this.#status !== 'active') return 0
    const populatedPages = this.#ram?.populatedPages ?? 0
    if (this.#status === 'setup') return populatedPages
    if (this.#sender !== undefined) return this.#sender.remainingPages
    return Math.max(populatedPages - (this.#words?.normalPages ?? 0), 0)
  }

  #channelReports(): ChannelReport[] {
    const { flush, choice } = { flush: this.#flush, choice: this.#choice }
    if (flush === undefined || choice === undefined) return []
    return this.#channels.map((channel) => reportOf(channel, flush, choice))
  }

  #result(): SentSnapshot {
    const channels = this.#channelReports()
    const sum = (pick: (report: ChannelReport) => number): number =>
      channels.reduce((total, report) => total + pick(report), 0)
    const engine = channels.length === 0 ? { engine: '', engineReason: 'no channels' } : undefined
    return {
      uri: this.#uri,
      status: 'completed',
      transferredBytes: this.#transferredBytes(),
      multifdBytes: sum(({ sentBytes }) => sentBytes),
      normalPages: sum(({ normalPages }) => normalPages) + (this.#words?.normalPages ?? 0),
      zeroPages: this.#words?.zeroPages ?? 0,
      totalTimeMs: performance.now() - this.#connectMs,
      dialect: this.#snapshot.dialect,
      ...(engine ?? engineOf(this.#channels, this.#choice)),
      channels,
    }
  }
}

function storedUuid(uuid: string | null): Uint8Array {
  if (uuid === null) return nilUuid()
  const parsed = parseUuid(uuid)
  return parsed.ok ? parsed.value : nilUuid() // the manifest was checked
}
