// One outgoing migration from connect to the destination's last word: setup, rounds, the stop, and
// who owns the guest at every moment. It works with what it is given and makes no sockets or
// threads itself.
//
//   setup ─► round 0, 1, ... ─► stop ─► last round, devices ─► ready ─► commit ─► the peer's end
//   └────────── any failure: the guest runs on here ─────────────────┘└── never resumed ──┘

import type { SendChannel } from '../channel/send-channel.ts'
import type { TrackerChoice } from '../guest/dirty-tracker.ts'
import { MultifdError } from '../kit/errors.ts'
import { PAGE_SIZE_BYTES } from '../kit/limits.ts'
import { checked, type NativeError } from '../kit/native.ts'
import { trace } from '../kit/trace.ts'
import { type Extent, extentsOf, extentTargetBytes } from '../schedule/round-plan.ts'
import { BandwidthEstimate, predictDowntimeMs } from './convergence.ts'
import type { OutgoingWire, SavedDevice } from './outgoing-wire.ts'
import type { RoundSender } from './round-sender.ts'
import type { SourceSettings } from './source-options.ts'
import type { StatusMachine } from './status.ts'
import type { FirstError } from './teardown.ts'
import { callVmm, saveDevice } from './vmm.ts'
import type { Watchdog } from './watchdog.ts'

/** What an outgoing migration works with; made, and taken down, by src/source.ts. */
export interface OutgoingParts {
  settings: SourceSettings
  status: StatusMachine
  first: FirstError
  watchdog: Watchdog
  wire: OutgoingWire
  channels: readonly SendChannel[]
  tracker: TrackerChoice
  sender: RoundSender
  /** The guest is about to be given up: whoever may still cancel must not any more. */
  beforeCommit: () => void
}

export class Outgoing {
  readonly #parts: OutgoingParts
  readonly #bandwidth = new BandwidthEstimate()
  #round = 0
  #dirtySyncCount = 0
  #dirtyPages = 0
  #dirtyBytesPerSecond = 0
  #roundBeganMs = performance.now()
  #stoppedMs: number | undefined
  /** Settles when the VMM's stop has returned; undefined while the guest runs. */
  #stop: Promise<void> | undefined
  /** From here on the guest is never resumed at this end. */
  #committed = false
  /** Native work on the guest memory: it cannot be called off, only waited for. */
  #work: Promise<unknown> = Promise.resolve()

  constructor(parts: OutgoingParts) {
    this.#parts = parts
  }

  get round(): number {
    return this.#round
  }
  get dirtySyncCount(): number {
    return this.#dirtySyncCount
  }
  get dirtyBytesPerSecond(): number {
    return this.#dirtyBytesPerSecond
  }
  /** Monotonic, when the guest had stopped; undefined while it runs. */
  get stoppedMs(): number | undefined {
    return this.#stoppedMs
  }
  /** Resolves when no scan of the guest memory runs any more, which the next attempt would meet. */
  get idle(): Promise<unknown> {
    return this.#work
  }
  /** Infinity until a round was measured. */
  get expectedDowntimeMs(): number {
    if (this.#bandwidth.bytesPerSecond === undefined) return Number.POSITIVE_INFINITY
    return predictDowntimeMs({
      remainingBytes: this.#parts.sender.remainingPages * PAGE_SIZE_BYTES,
      bandwidthBytesPerSecond: this.#bandwidth.bytesPerSecond,
      roundTripMs: this.#parts.wire.roundTripMs,
    })
  }

  /** Connected channels, a begun main stream: everything from the first section on. */
  async run(): Promise<void> {
    const { settings, status, wire, tracker } = this.#parts
    await this.#own(this.#unwrap(tracker.ram.start()))
    await this.#unless(wire.ramStart(settings.memory.blocks))
    await this.#unless(this.#parts.sender.send([])) // the SYNC of setup, before any page
    status.enter('active')
    await this.#rounds()
    status.enter('device')
    const saved = await this.#stopAndSave()
    await this.#lastRound(saved)
    await this.#handOver()
  }

  /** Before commit the guest is ours: it runs on. Called at once when the migration has failed. */
  async resumeGuest(): Promise<void> {
    const stop = this.#stop
    if (stop === undefined || this.#committed) return
    this.#stop = undefined
    // Stop and resume are never called at the same time. A stop that failed may have stopped it.
    await stop.catch(() => {})
    await callVmm('resuming the guest', () => this.#parts.settings.vmm.resume())
  }

  /** Rounds while the guest runs; returns with one begun and small enough to stop for. */
  async #rounds(): Promise<void> {
    await this.#beginRound()
    while (this.#round === 0 || !this.#mayStop()) {
      await this.#sendRound(false)
      this.#round += 1
      await this.#unless(this.#parts.wire.ramPart(this.#round))
      // A small round 0 fits the socket buffers: the guest must not stop for a destination that is
      // still emptying its memory.
      await this.#unless(this.#parts.wire.answered)
      await this.#beginRound()
    }
  }

  /** Whether what is dirty now, and all else, fits the downtime limit. */
  #mayStop(): boolean {
    // Nothing is dirty: another round could not make it any better, whatever the limit.
    if (this.#dirtyPages === 0) return true
    const downtimeMs = predictDowntimeMs({
      remainingBytes: this.#dirtyPages * PAGE_SIZE_BYTES,
      bandwidthBytesPerSecond: this.#bandwidth.bytesPerSecond,
      roundTripMs: this.#parts.wire.roundTripMs,
    })
    return downtimeMs <= this.#parts.settings.downtimeLimitMs
  }

  async #beginRound(): Promise<void> {
    const beforeMs = this.#roundBeganMs
    this.#dirtyPages = await this.#own(this.#unwrap<number>(this.#parts.tracker.ram.beginRound()))
    this.#roundBeganMs = performance.now()
    this.#dirtySyncCount += 1
    if (this.#round === 0) return
    const seconds = (this.#roundBeganMs - beforeMs) / 1000
    this.#dirtyBytesPerSecond = (this.#dirtyPages * PAGE_SIZE_BYTES) / Math.max(seconds, 1e-3)
  }

  async #sendRound(final: boolean): Promise<void> {
    const { channels, sender, settings } = this.#parts
    const extents = await this.#plan()
    const round = this.#round
    const dirtyPages = this.#dirtyPages
    trace('multifd:round', () => ({ round, dirtyPages, extents: extents.length, final }))
    const carriedBefore = carried(channels)
    const beganMs = performance.now()
    await this.#unless(sender.send(extents))
    trace('multifd:sync', () => ({ side: 'source', sync: round + 1 }))
    const elapsedMs = performance.now() - beganMs
    const { sentBytes, pageBytes } = carried(channels)
    // Compressed pages weigh less on the wire than what remains is counted in.
    const roundBytes = Math.max(
      sentBytes - carriedBefore.sentBytes,
      pageBytes - carriedBefore.pageBytes,
    )
    this.#bandwidth.addRound(roundBytes, elapsedMs)
    if (final) settings.memory.assertNotMoved()
  }

  async #plan(): Promise<Extent[]> {
    const { settings, tracker } = this.#parts
    const target = extentTargetBytes({
      dirtyBytes: this.#dirtyPages * PAGE_SIZE_BYTES,
      channels: settings.multifdChannels,
      bytesPerSecond: settings.maxBandwidthBytesPerSecond,
    })
    return extentsOf(await this.#own(this.#unwrap<Float64Array>(tracker.ram.plan(target))))
  }

  async #stopAndSave(): Promise<SavedDevice[]> {
    const { settings, first } = this.#parts
    if (first.error !== undefined) throw first.error
    this.#stop = callVmm('stopping the guest', () => settings.vmm.stop())
    await this.#own(this.#stop)
    this.#stoppedMs = performance.now()
    const saved: SavedDevice[] = []
    for (const device of settings.devices) {
      saved.push({ device, state: await this.#own(saveDevice(device)) })
    }
    return saved
  }

  /**
   * After the stop, and after devices were saved, nobody writes guest memory: collect once more.
   */
  async #lastRound(saved: readonly SavedDevice[]): Promise<void> {
    const { tracker, wire } = this.#parts
    this.#dirtyPages = await this.#own(this.#unwrap<number>(tracker.ram.extendRound()))
    this.#dirtySyncCount += 1
    await this.#sendRound(true)
    this.#round += 1
    await this.#unless(wire.ramEnd())
    await this.#unless(wire.devicesAndEof(saved))
  }

  async #handOver(): Promise<void> {
    const { beforeCommit, first, status, wire } = this.#parts
    await this.#unless(wire.ready)
    // No await between this look and the flag: what failed before it resumes, what fails after not.
    if (first.error !== undefined) throw first.error
    beforeCommit()
    this.#committed = true
    try {
      await this.#unless(wire.commit())
      await this.#unless(wire.ended)
    } catch (cause) {
      status.enter('unknown')
      throw new MultifdError(
        'ERR_MULTIFD_STATE',
        'the guest was handed over, but the destination did not confirm it: look whether it runs there; ' +
          'if it does not and never will, resume it here by hand, never both',
        { cause },
      )
    }
    status.enter('completed')
  }

  /** A step that waits for the peer. */
  async #unless<T>(step: Promise<T>): Promise<T> {
    return await this.#parts.first.unless(step)
  }

  /** A step that is ours alone: the peer may be silent meanwhile. */
  async #own<T>(step: Promise<T>): Promise<T> {
    return await this.#unless(this.#parts.watchdog.during(step))
  }

  async #unwrap<T>(step: Promise<T | NativeError>): Promise<T> {
    this.#work = step
    return checked<T>(await step, 'collecting written pages failed')
  }
}

/** What the channels have sent so far, on the wire and as pages. */
function carried(channels: readonly SendChannel[]): { sentBytes: number; pageBytes: number } {
  return {
    sentBytes: channels.reduce((sum, channel) => sum + channel.sentBytes, 0),
    pageBytes: channels.reduce((sum, channel) => sum + channel.normalBytes, 0),
  }
}
