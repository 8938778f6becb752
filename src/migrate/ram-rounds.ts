// The RAM of one migration, round by round: collects what is dirty, plans it, has it sent over the
// connection of the moment, and gives back what a broken connection did not deliver. It decides
// nothing: when to begin a round, and when it is the last one, is said by outgoing.ts.

import assert from 'node:assert/strict'
import type { SendChannel } from '../channel/send-channel.ts'
import type { TrackerChoice } from '../guest/dirty-tracker.ts'
import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { checked, type NativeError } from '../kit/native.ts'
import { trace } from '../kit/trace.ts'
import type { RateLimiter } from '../schedule/rate-limiter.ts'
import { type Extent, extentsOf, extentTargetBytes } from '../schedule/round-plan.ts'
import type { ResumeAnswer } from './destination-answers.ts'
import type { SourceLink } from './source-link.ts'
import type { SourceSettings } from './source-options.ts'

/** What one round took. */
export interface RoundFigures {
  /** Of pages before compression, with packet headers. */
  bytes: number
  elapsedMs: number
}

export class RamRounds {
  readonly #settings: SourceSettings
  readonly #tracker: TrackerChoice
  readonly #limiter: RateLimiter
  /** The number of the round that was begun last, as the destination counts: from 1. */
  #number = 0
  #passes = 0
  #dirtySyncCount = 0
  #dirtyPages = 0
  #missedZeroCopy = 0
  #intervalMs = 0
  #beganMs = performance.now()

  constructor(parts: {
    settings: SourceSettings
    tracker: TrackerChoice
    limiter: RateLimiter
  }) {
    this.#settings = parts.settings
    this.#tracker = parts.tracker
    this.#limiter = parts.limiter
  }

  /** Rounds that were sent in full, over whatever connection. */
  get passes(): number {
    return this.#passes
  }
  /** How often the dirty log was fetched. */
  get dirtySyncCount(): number {
    return this.#dirtySyncCount
  }
  /** Bytes of pages in the round that was begun last. */
  get dirtyBytes(): number {
    return this.#dirtyPages * PAGE_SIZE_BYTES
  }
  /** The present limit; 0: none. */
  get bytesPerSecondMax(): number {
    return this.#limiter.bytesPerSecond
  }
  /** Rounds, counted per channel, in which zero-copy was tried and the kernel copied. */
  get missedZeroCopy(): number {
    return this.#missedZeroCopy
  }
  /** Between the last two begins, milliseconds. */
  get intervalMs(): number {
    return this.#intervalMs
  }

  /** Arms the tracker, once. */
  async start(link: SourceLink): Promise<void> {
    await this.#own(link, this.#tracker.ram.start())
  }

  /** Collects what is dirty: the next round. */
  async begin(link: SourceLink): Promise<void> {
    // Two rounds can be given back, no more: the one before the last must have been acknowledged.
    await link.first.unless(link.wire.answers.acknowledged(this.#number - 1))
    const beforeMs = this.#beganMs
    this.#dirtyPages = await this.#own(link, this.#tracker.ram.beginRound())
    this.#number += 1
    this.#dirtySyncCount += 1
    this.#beganMs = performance.now()
    this.#intervalMs = this.#beganMs - beforeMs
  }

  /** Resolves when the destination has everything that was sent before the round in hand. */
  async collected(link: SourceLink): Promise<void> {
    await link.first.unless(link.wire.answers.acknowledged(this.#number - 1))
  }

  /** After the stop: what was written since `begin` joins the round, which is the last one. */
  async extend(link: SourceLink): Promise<void> {
    this.#dirtyPages = await this.#own(link, this.#tracker.ram.extendRound())
    this.#dirtySyncCount += 1
  }

  /** Sends the round that was begun, and its SYNC; then the channels hold nothing unreleased. */
  async send(link: SourceLink, final: boolean): Promise<RoundFigures> {
    const extents = await this.#plan(link)
    if (link.first.error !== undefined) throw link.first.error
    const [round, dirtyPages] = [this.#passes, this.#dirtyPages]
    trace('multifd:round', () => ({ round, dirtyPages, extents: extents.length, final }))
    const before = carried(link.channels)
    const copiedBefore = link.channels.map((channel) => channel.counter('copiedBytes'))
    const beganMs = performance.now()
    await link.first.unless(link.sender.send(extents))
    const unreleased = link.channels.find((channel) => channel.counter('unreleasedBytes') > 0)
    assert(unreleased === undefined, `channel ${unreleased?.channelId} synced with bytes in flight`)
    trace('multifd:sync', () => ({ side: 'source', sync: round + 1 }))
    const elapsedMs = performance.now() - beganMs
    const { sentBytes, pageBytes } = carried(link.channels)
    if (final) this.#settings.memory.assertNotMoved()
    this.#passes += 1
    this.#missedZeroCopy += link.channels.filter(
      (channel, index) => channel.counter('copiedBytes') > (copiedBefore[index] ?? 0),
    ).length
    // Compressed pages weigh less on the wire than what remains is counted in.
    const bytes = Math.max(sentBytes - before.sentBytes, pageBytes - before.pageBytes)
    return { bytes, elapsedMs }
  }

  /** The sync point of the round that was just sent, and the question whether it was collected. */
  async endPart(link: SourceLink): Promise<void> {
    await link.first.unless(link.wire.ramPart(this.#number))
  }

  /**
   * The connection broke. What it did not deliver becomes dirty again: of the first round that was
   * not collected all but the pages that came, of the one behind it everything.
   */
  async giveBack(link: SourceLink, { collectedRounds, received }: ResumeAnswer): Promise<void> {
    const begun = this.#number
    if (collectedRounds > begun || collectedRounds < begun - 2) {
      throw new MultifdError(
        'ERR_MULTIFD_PROTOCOL',
        `the destination says that it has ${collectedRounds} rounds, expected ${Math.max(0, begun - 2)} ` +
          `to ${begun}: this is not the destination that the migration began with`,
      )
    }
    let pages = 0
    for (let number = Math.max(collectedRounds + 1, 1); number <= begun; number += 1) {
      const came = number === collectedRounds + 1 ? received : received.map(() => null)
      const which = number === begun ? 'current' : 'previous'
      pages += await this.#own(link, this.#tracker.ram.giveBack(which, came))
    }
    this.#number = collectedRounds
    trace('multifd:resume', () => ({ side: 'source', collectedRounds, pages }))
  }

  async #plan(link: SourceLink): Promise<Extent[]> {
    const target = extentTargetBytes({
      dirtyBytes: this.dirtyBytes,
      channels: this.#settings.multifdChannels,
      bytesPerSecond: this.#limiter.bytesPerSecond,
    })
    return extentsOf(await this.#own(link, this.#tracker.ram.plan(target)))
  }

  /**
   * Native work on the guest memory: the peer may be silent meanwhile, and what breaks meanwhile
   * must wait, as such work cannot be called off, and changes what the next call finds.
   */
  async #own<T>(link: SourceLink, work: Promise<T | NativeError>): Promise<T> {
    return checked<T>(await link.watchdog.during(work), 'collecting written pages failed')
  }
}

/** What the channels have sent so far, on the wire and as pages. */
function carried(channels: readonly SendChannel[]): { sentBytes: number; pageBytes: number } {
  return {
    sentBytes: channels.reduce((sum, channel) => sum + channel.sentBytes, 0),
    pageBytes: channels.reduce((sum, channel) => sum + channel.normalBytes, 0),
  }
}
