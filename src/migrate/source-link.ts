// One connection of a source to its destination: the main channel, the multifd channels and what
// sends rounds over them. It breaks as a whole. The migration it serves may go on over the next
// one, so nothing here knows rounds, guest or who owns it.

import { randomBytes } from 'node:crypto'
import { MainChannel } from '../channel/main-channel.ts'
import type { SendChannel } from '../channel/send-channel.ts'
import type { GuestMemory } from '../guest/guest-memory.ts'
import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import type { NativeEndpoint, NativeSendGroup } from '../kit/native.ts'
import type { EngineChoice } from '../schedule/engine-choice.ts'
import type { BandwidthGate } from '../schedule/rate-limiter.ts'
import {
  channelsAtOnce,
  openChannels,
  paceChannel,
  reportOf,
  wantsLargePackets,
} from './channel-setup.ts'
import { type BlockPages, DestinationAnswers } from './destination-answers.ts'
import type { FlushControl } from './flush-control.ts'
import { OutgoingWire } from './outgoing-wire.ts'
import { PieceChannels } from './piece-channels.ts'
import type { ChannelReport } from './progress.ts'
import { RoundSender } from './round-sender.ts'
import type { SourceSettings } from './source-options.ts'
import { asMultifdError, FirstError } from './teardown.ts'
import { signOfLifeMs, Watchdog } from './watchdog.ts'

/** What a connection is made of; all but the connection itself outlives it. */
export interface SourceLinkParts {
  settings: SourceSettings
  endpoint: NativeEndpoint
  group: NativeSendGroup
  choice: EngineChoice
  limiter: BandwidthGate
  /** Ends the migration, and every connection with it. */
  migrationFailed: FirstError
  /** Names the migration on its connections; see src/wire/dialect.ts. */
  resumeToken: string | undefined
  /** Another connection carried this migration before. */
  resuming: boolean
}

export class SourceLink {
  /** The first thing that breaks this connection, or ends the migration. */
  readonly first: FirstError
  readonly watchdog: Watchdog
  readonly #parts: SourceLinkParts
  readonly #aborted = new AbortController()
  readonly #channels: SendChannel[] = []
  #wire: OutgoingWire | undefined
  #flush: FlushControl | undefined
  #sender: RoundSender | undefined
  #pieces: PieceChannels | undefined
  #keepAlive: NodeJS.Timeout | undefined
  #saidBytes = 0
  #heardBytes = 0

  constructor(parts: SourceLinkParts) {
    this.#parts = parts
    this.first = new FirstError('source', parts.migrationFailed)
    this.first.promise.catch((error: unknown) => {
      this.#aborted.abort()
      this.#pieces?.fail(error)
    })
    this.watchdog = new Watchdog({
      timeoutMs: parts.settings.peerTimeoutMs,
      progress: () => this.#progress(),
      deepProgress: () => this.#channels.reduce((sum, channel) => sum + channel.ackedBytes, 0),
      expired: (error) => this.first.set(error),
    })
  }

  get wire(): OutgoingWire {
    return there(this.#wire)
  }
  /** Where the pieces of devices go out. */
  get pieces(): PieceChannels {
    return there(this.#pieces)
  }
  get sender(): RoundSender {
    return there(this.#sender)
  }
  get channels(): readonly SendChannel[] {
    return this.#channels
  }

  /** On the multifd channels so far; see MigrationProgress. */
  get multifdBytes(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.sentBytes, 0)
  }
  get normalBytes(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.normalBytes, 0)
  }
  get zeroPages(): number {
    return this.#channels.reduce((sum, channel) => sum + channel.counter('zeroPages'), 0)
  }
  get mainBytes(): number {
    return this.#wire?.writtenBytes ?? 0
  }
  get remainingPages(): number {
    return this.#sender?.remainingPages ?? 0
  }
  get channelReports(): ChannelReport[] {
    const flush = this.#flush
    if (flush === undefined) return []
    return this.#channels.map((channel) => reportOf(channel, flush, this.#parts.choice))
  }

  /** Connects everything and introduces the migration. Take it down by `destroy` if it fails. */
  async open(): Promise<void> {
    const { settings, endpoint, group, choice, limiter, resumeToken, resuming } = this.#parts
    const fail = this.first.set.bind(this.first)
    // The main channel first: a QEMU 7.2 takes the first connection for it.
    const to = { timeoutMs: settings.connectTimeoutMs, signal: this.#aborted.signal }
    const connecting = OutgoingWire.open(
      (listener) => MainChannel.connect(endpoint, to, listener),
      new DestinationAnswers({ fail, blocks: pagesOf(settings.memory), resuming }),
    ).then((connected) => {
      this.#wire = connected
    })
    await this.first.unless(connecting)
    const { multifdChannels: channels, compression, uuid } = settings
    // Those of a connection before, which came late, must not be taken for channels of this one.
    const channelUuid = Buffer.from(resuming ? randomBytes(16) : uuid)
    const resume = {
      ...(resumeToken === undefined ? {} : { resume: resumeToken }),
      ...(resuming ? { resuming: channelUuid.toString('hex') } : {}),
    }
    const largePackets = wantsLargePackets(compression, endpoint, choice)
    const own = { channels, compression, largePackets, uuid, resume }
    await this.first.unless(this.wire.begin(own))
    // Channels that came before the destination took this connection up may be a stranger's.
    if (resuming) await this.first.unless(this.#resumeAnswer())
    const { flush, ready } = openChannels({
      settings: {
        ...settings,
        uuid: channelUuid,
        largePackets,
        maxBandwidthBytesPerSecond: limiter.bytesPerSecond,
      },
      endpoint,
      group,
      choice,
      listener: {
        extentDone: (id, wireBytes) => this.#sender?.extentDone(id, wireBytes),
        syncDone: (id) => this.#sender?.syncDone(id),
        deviceStateDone: (id) => this.#pieces?.done(id),
        failed: fail,
      },
      opened: (channel) => this.#channels.push(channel),
    })
    this.#flush = flush
    await this.first.unless(ready())
    // A paused migration, or one with a low limit, is not a silent one.
    const keepAliveMs = signOfLifeMs(settings.peerTimeoutMs)
    this.#keepAlive = setInterval(() => void this.#wire?.keepAlive(), keepAliveMs)
    this.#pieces = new PieceChannels(this.#channels)
    const atOnce = channelsAtOnce(endpoint)
    this.#sender = new RoundSender({ channels: this.#channels, atOnce, limiter, flush })
  }

  /** A destination that refuses will not do otherwise next time. */
  async #resumeAnswer(): Promise<void> {
    const { answers } = this.wire
    try {
      await this.first.unless(answers.resumeAnswer)
    } catch (thrown) {
      const error = asMultifdError(thrown)
      if (!answers.refused) throw error
      throw new MultifdError('ERR_MULTIFD_HANDSHAKE', error.message, { cause: error })
    }
  }

  /** Everything was said and answered: an orderly end of each connection. */
  async close(): Promise<void> {
    const main = this.#wire?.close({ awaitPeer: false })
    await Promise.all([main, ...this.#channels.map((channel) => channel.close())])
  }

  /** The limit of the migration has changed. */
  paceChannels(): void {
    const { bytesPerSecond } = this.#parts.limiter
    for (const channel of this.#channels) paceChannel(channel, bytesPerSecond)
  }

  /**
   * Tells the destination, if it can still be told, that there will be no other connection. One
   * that would wait for it is given a moment to read that: what it had not read is lost to it if
   * it writes to a socket that is closed here.
   */
  async cancel(): Promise<void> {
    const wire = this.#wire
    if (wire === undefined) return
    void wire.cancel()
    if (wire.answers.mayResume) await wire.close()
  }

  /** Nothing is handed out any more, and whoever waits for a step hears of it. */
  stop(): void {
    this.watchdog.stop()
    clearInterval(this.#keepAlive)
    this.#sender?.stop()
  }

  /**
   * Ends what is still there; resolves when no thread of it reads guest memory any more. After an
   * orderly end that is nothing but book-keeping.
   */
  async destroy(): Promise<void> {
    this.stop()
    this.#wire?.destroy()
    await Promise.all(this.#channels.map((channel) => channel.destroy()))
  }

  /** A number that changes while the destination does its part. */
  #progress(): number {
    // While only our own limit holds us back, the peer has nothing to say.
    if (this.#sender?.waitsForLimiter) return performance.now()
    // What only says that we are there is no progress, nor are answers on the main channel while
    // the channels have something in hand.
    this.#saidBytes = Math.max(this.#saidBytes, this.#wire?.saidBytes ?? 0)
    if (!this.#sender?.sending && !this.#pieces?.sending) {
      this.#heardBytes = this.#wire?.readBytes ?? 0
    }
    const atWork = this.#wire?.answers.atWork ?? 0
    return this.multifdBytes + this.#saidBytes + this.#heardBytes + atWork
  }
}

/** What `open` makes. */
function there<T>(part: T | undefined): T {
  if (part === undefined) throw new Error('the connection to the destination is not open yet')
  return part
}

function pagesOf({ blocks }: GuestMemory): BlockPages[] {
  return blocks.map(({ idstr, usedLength }) => ({ idstr, pageCount: usedLength / PAGE_SIZE_BYTES }))
}
